"""Tables and plots of docs/methods.md, from the rows that benchmarks/methods.py has kept.

    uv run benchmarks/methods_report.py [--check]

Rewrites what stands between the markers in docs/methods.md, and docs/images/methods-<data>.png.
With --check it writes nothing and fails when the tables are not those of the rows.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "methods.md"
BASELINES = ("dense", "dense, batch norm", "small dense", "static")
MIDDLE = 0.05
INK, MUTED, FAINT = "#1b1f24", "#6a737d", "#c9ced4"
# Told apart in grey by lightness and by their dashes.
HIGHLIGHTS = (("#27173d", "-"), ("#8a3b4a", "--"), ("#c2762f", "-."), ("#3f7f93", (0, (1, 1))))


@dataclass(frozen=True)
class Cell:
    """Means over the seeds of one method at one density, and the spread of `verified`."""

    natural: float
    verified_ibp: float
    verified: float
    spread: float
    inference_flops: float
    training_flops: float
    num_seeds: int


Cells = dict[tuple[str, float], Cell]


def read_cells(setup: str) -> tuple[Cells, dict[str, str]]:
    """Cells by (method, density), and one row, for what all rows have in common."""
    groups: dict[tuple[str, float], list[dict[str, str]]] = defaultdict(list)
    with (ROOT / "benchmarks" / "results" / f"methods_{setup}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        groups[row["name"], float(row["density"])].append(row)
    return {key: cell_of(group) for key, group in groups.items()}, rows[0]


def cell_of(rows: list[dict[str, str]]) -> Cell:
    """Means of the rows of one cell."""

    def mean(column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows)

    verified = [float(row["verified"]) for row in rows]
    return Cell(
        mean("natural"), mean("verified_ibp"), mean("verified"), max(verified) - min(verified),
        mean("inference_flops"), mean("training_flops"), len(rows),
    )  # fmt: skip


def table(cells: Cells) -> str:
    """Verified (natural) accuracy in per cent by method and density; the best are bold."""
    densities = sorted({density for _, density in cells if density < 1.0}, reverse=True)
    names = sorted(
        {name for name, density in cells if density < 1.0},
        key=lambda name: -cells[name, MIDDLE].verified,
    )
    dense = cells["dense", 1.0]
    best = {d: max(cells[n, d].verified for n in names) for d in densities}
    head = [f"d = {density:g}" for density in densities]
    lines = ["| method | " + " | ".join(head) + " | train / dense | infer / dense |"]
    lines.append("|---|" + "--:|" * (len(densities) + 2))
    for name in [n for n in BASELINES[:2] if (n, 1.0) in cells]:
        cell = cells[name, 1.0]
        text = f"{100 * cell.verified:.1f} ({100 * cell.natural:.1f}) at d = 1"
        lines.append(f"| *{name}* | {text} |" + " |" * (len(densities) - 1) + _costs(cell, dense))
    for name in names:
        row = []
        for density in densities:
            cell = cells[name, density]
            number = f"{100 * cell.verified:.1f}"
            number = f"**{number}**" if cell.verified == best[density] else number
            row.append(f"{number} ({100 * cell.natural:.1f})")
        title = f"*{name}*" if name in BASELINES else name
        costs = _costs(cells[name, MIDDLE], dense)
        lines.append(f"| {title} | " + " | ".join(row) + " |" + costs)
    return "\n".join(lines)


def _costs(cell: Cell, dense: Cell) -> str:
    train = cell.training_flops / dense.training_flops
    return f" {train:.2f} | {cell.inference_flops / dense.inference_flops:.3f} |"


def summary(cells: Cells, row: dict[str, str]) -> str:
    """Where the figures come from, and how far the best method at 0.05 is from the baselines."""
    sparse = {n: c for (n, d), c in cells.items() if d == MIDDLE and n not in BASELINES}
    name, best = max(sparse.items(), key=lambda item: item[1].verified)
    dense, spread = cells["dense", 1.0], statistics.mean(cell.spread for cell in cells.values())
    small = min(
        (c for (n, _), c in cells.items()
         if n == "small dense" and c.inference_flops >= best.inference_flops),
        key=lambda cell: cell.inference_flops,
    )  # fmt: skip
    return (
        f"Radius {float(row['radius']):g}, {row['split']} split, {row['examples']} examples, bound "
        f"`{row['bound']}`, mean of {best.num_seeds} seeds; highest minus lowest of the seeds is "
        f"{100 * spread:.1f} points on average. At density {MIDDLE} the best is {name} with "
        f"{best.inference_flops:,.0f} FLOPs: verified {100 * best.verified:.1f} % (by intervals "
        f"alone {100 * best.verified_ibp:.1f} %). The dense network with "
        f"{dense.inference_flops:,.0f} FLOPs is {_points(dense, best)} ({100 * dense.verified:.1f} "
        f"%; {100 * dense.verified_ibp:.1f} %), and the smallest dense one with at least as many "
        f"FLOPs, {small.inference_flops:,.0f}, is {_points(small, best)} "
        f"({100 * small.verified:.1f} %; {100 * small.verified_ibp:.1f} %)."
    )


def _points(cell: Cell, reference: Cell) -> str:
    points = 100 * (cell.verified - reference.verified)
    return f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}"


def draw(setup: str, cells: Cells, path: Path) -> None:
    """Verified accuracy against inference FLOPs: the best methods by name, the others faint."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        names = sorted({name for name, density in cells if density < 1.0} - set(BASELINES))
        curves = {name: curve(cells, name) for name in (*names, "small dense", "static")}
        best = sorted(names, key=lambda n: -sum(y for _, y in curves[n]))[: len(HIGHLIGHTS)]
        for name in set(names) - set(best):
            axes.plot(*zip(*curves[name], strict=True), color=FAINT, linewidth=0.8, zorder=1)
        axes.plot([], [], color=FAINT, linewidth=0.8, label="other methods")
        for name, (colour, dashes) in zip(best, HIGHLIGHTS, strict=True):
            axes.plot(*zip(*curves[name], strict=True), color=colour, linestyle=dashes,
                      linewidth=2, marker="o", markersize=4, label=name, zorder=3)  # fmt: skip
        axes.plot(*zip(*curves["static"], strict=True), color=MUTED, linewidth=1.5, marker="x",
                  label="static random", zorder=2)  # fmt: skip
        axes.plot(*zip(*curves["small dense"], strict=True), color=INK, linewidth=1.5, marker="s",
                  markersize=5, markerfacecolor="white", label="small dense", zorder=2)  # fmt: skip
        dense = cells["dense", 1.0]
        axes.axhline(dense.verified, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(f"dense, {dense.inference_flops:,.0f} FLOPs", (1, dense.verified),
                      xycoords=("axes fraction", "data"), xytext=(-4, 4), ha="right",
                      textcoords="offset points", color=INK, fontsize=9)  # fmt: skip
        named = [x for name in (*best, "small dense", "static") for x, _ in curves[name]]
        lowest = min(y for name in (*best, "small dense", "static") for _, y in curves[name])
        axes.set_xlim(min(named) / 1.3, max(named) * 1.3)
        axes.set_ylim(math.floor(lowest * 10) / 10, 1.0)
        style(axes, setup)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def curve(cells: Cells, name: str) -> list[tuple[float, float]]:
    """(inference FLOPs, verified accuracy) of a method, from small to large."""
    return sorted((c.inference_flops, c.verified) for (n, d), c in cells.items() if n == name)


def style(axes: Axes, setup: str) -> None:
    """Axes with units, and nothing that is not read."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("inference FLOPs per example, after compaction")
    axes.set_ylabel("verified accuracy, validation split")
    axes.set_title(f"{setup}: every method at every density", loc="left", fontsize=11)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = PAGE.read_text()
    for setup in re.findall(r"<!-- begin (\w+) -->", text):
        cells, row = read_cells(setup)
        block = f"{summary(cells, row)}\n\n{table(cells)}"
        pattern = rf"(<!-- begin {setup} -->\n).*?(<!-- end {setup} -->)"
        text = re.sub(pattern, lambda m, block=block: m[1] + block + "\n" + m[2], text, flags=re.S)
        if not check:
            draw(setup, cells, ROOT / "docs" / "images" / f"methods-{setup}.png")
    if check and text != PAGE.read_text():
        sys.exit(
            "docs/methods.md does not show the rows in benchmarks/results: run without --check"
        )
    if not check:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
