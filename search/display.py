"""How results look to a person: tables of fronts and certificates, numbers with units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from spaces.metrics import metric
from spaces.space import SearchSpace

if TYPE_CHECKING:
    from analysis import Certificate, Front

COLUMNS = ("natural_accuracy", "verified_accuracy", "density", "inference_flops")
_SHORT = {
    "natural_accuracy": "natural",
    "verified_accuracy": "verified",
    "falsified_accuracy_bound": "not falsified",
    "num_active_parameters": "parameters",
    "inference_flops": "FLOPs",
    "dense_inference_flops": "dense FLOPs",
    "training_flops": "training FLOPs",
    "duration_s": "time",
}


def duration(seconds: float) -> str:
    """`42 s`, `3:07 min` or `2:05 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def quantity(name: str, value: float | None) -> str:
    """A metric's value with its unit: percent for fractions, thousands and millions for counts."""
    if value is None:
        return "-"
    unit = metric(name).unit
    if name == "density" and value < 0.1:
        return f"{value:.2%}"
    if unit == "fraction":
        return f"{value:.1%}"
    if unit == "s":
        return duration(value)
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def plain_table(title: str, headings: Sequence[str], caption: str | None = None) -> Table:
    """An empty table in the house style: no frames, numbers to the right."""
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        header_style="bold",
        pad_edge=False,
    )
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def metrics_table(
    title: str,
    rows: Iterable[tuple[str, Mapping[str, float], str]],
    names: Sequence[str] = COLUMNS,
    caption: str | None = None,
) -> Table:
    """One row per (label, metrics, note)."""
    headings = ["trial", *(_SHORT.get(name, name.replace("_", " ")) for name in names), "method"]
    table = plain_table(title, headings, caption)
    for label, metrics, note in rows:
        table.add_row(label, *(quantity(name, metrics.get(name)) for name in names), note)
    return table


def front_table(front: Front) -> Table:
    """The members of a front, and how their figures were obtained."""
    names = list(dict.fromkeys([*front.objectives, *COLUMNS]))
    names.sort(key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS))
    count = front.study.count
    return metrics_table(
        f"Front of {front.study.name}: {len(front.members)} of {count('completed')} completed "
        f"trials ({count('stopped')} stopped early, {count('failed')} failed)",
        [
            (f"{t.number}", t.metrics, f"{t.method}  {t.run_id[:8]}")
            for t in front.members
        ],
        names,
        caption=front.members[0].provenance,
    )  # fmt: skip


def certificate_table(certificate: Certificate) -> Table:
    """What was certified, one row per radius."""
    table = plain_table(
        f"Certificate: {certificate.data}, {certificate.split} split, "
        f"{certificate.num_examples} examples",
        ["radius (l∞)", "natural", "verified", "95 % interval", "not falsified", "open", "time"],
        caption="verified by " + certificate.bound.replace("+", " + "),
    )
    for r in certificate.results:
        low, high = r.verified_interval
        table.add_row(
            f"{r.radius:g}",
            f"{r.natural_accuracy:.1%}",
            f"{r.verified_accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{r.falsified_accuracy_bound:.1%}",
            f"{r.num_unknown}",
            duration(r.seconds),
        )
    return table


def space_table(space: SearchSpace, title: str) -> Table:
    """The holes of a search space: name, what may stand there, and when it is asked for."""
    table = plain_table(title, ["parameter", "values", "asked for when"])
    for column in table.columns:
        column.justify = "left"
        column.no_wrap = False
    for hole in space.parameters():
        when = " and ".join(f"{path} = {label}" for path, label in hole.condition) or "always"
        table.add_row(hole.path, hole.describe(), when)
    return table
