"""The tables of docs/losses.md, from benchmarks/results/losses.csv.

    uv run benchmarks/losses_report.py

Means over seeds, with the smallest and the largest of the exact verified accuracies. Accuracies are
per cent: of the test split, exact; of the validation split (val.) by bounds. `open` is the number
of test images, of all seeds together, that got no verdict in time. Seconds are in the rows only:
what a step costs is measured by step.py, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from rows import RESULTS, read

Row = dict[str, str]
HEADER = (
    "| loss | natural | exact verified (least to most) | open | natural (val.) | IBP (val.) "
    "| CROWN (val.) | open ReLUs |"
)


def main() -> None:
    rows = read(RESULTS / "losses.csv")
    for radius, topology in dict.fromkeys((row["radius"], row["topology"]) for row in rows):
        chosen = [r for r in rows if (r["radius"], r["topology"]) == (radius, topology)]
        print(table(radius, topology, chosen))


def table(radius: str, topology: str, rows: Sequence[Row]) -> str:
    """One table: a line per loss."""
    by_loss = {loss: [r for r in rows if r["loss"] == loss] for loss in {r["loss"] for r in rows}}
    lines = sorted(by_loss.items(), key=lambda item: -average(item[1], "test_verified"))
    seeds = max(len(group) for group in by_loss.values())
    kept = round(average(rows, "kept"))
    return "\n".join([
        f"\n**{topology}, radius {radius}** ({seeds} seeds, {kept:,} weights kept)\n",
        HEADER,
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(line(loss, group) for loss, group in lines),
    ])  # fmt: skip


def line(loss: str, rows: Sequence[Row]) -> str:
    """Means over the seeds of one loss."""
    exact = [100 * float(row["test_verified"]) for row in rows]
    cells = [
        f"`{loss}`"
        + ("" if len(rows) == 3 else " (one seed)" if len(rows) == 1 else f" ({len(rows)} seeds)"),
        percent(rows, "test_natural"),
        f"{mean(exact):.1f} ({min(exact):.1f} to {max(exact):.1f})",
        f"{sum(int(row['test_unknown']) for row in rows)}",
        percent(rows, "natural"),
        percent(rows, "verified_ibp"),
        percent(rows, "verified"),
        f"{average(rows, 'unstable'):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def percent(rows: Sequence[Row], name: str) -> str:
    """A mean share, in per cent."""
    return f"{100 * average(rows, name):.1f}"


def average(rows: Sequence[Row], name: str) -> float:
    """The mean of a column."""
    return mean(float(row[name]) for row in rows)


if __name__ == "__main__":
    main()
