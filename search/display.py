"""How results look to a person: tables of fronts and certificates, numbers with units."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from spaces.metrics import metric, radius_metric
from spaces.space import SearchSpace

if TYPE_CHECKING:
    from analysis import Certificate, GraftReport
    from analysis.certificate_model import ArtifactRecord, CertifiedRadius

COLUMNS = ("natural_accuracy", "verified_accuracy", "density", "inference_flops")
_SHORT = {
    "natural_accuracy": "natural",
    "verified_accuracy": "verified",
    "falsified_accuracy_bound": "not falsified",
    "exact_verified_accuracy": "exact",
    "num_active_parameters": "parameters",
    "inference_flops": "FLOPs",
    "dense_inference_flops": "dense FLOPs",
    "compacted_flops": "compacted FLOPs",
    "flash_bytes": "flash",
    "ram_bytes": "RAM",
    "latency_s": "latency",
    "latency_256_s": "latency of 256",
    "training_flops": "training FLOPs",
    "duration_s": "time",
}


def stdout() -> Console:
    """Standard output; piped output is not wrapped to a guessed width."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def stderr() -> Console:
    """Standard error, in the same way: for tables beside a result that scripts read."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else 160)


def duration(seconds: float) -> str:
    """`0.3 s`, `42 s`, `3:07 min` or `2:05 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def quantity(name: str, value: float | None) -> str:
    """A metric's value with its unit: percent for fractions, thousands and millions for counts.

    Times below a tenth of a second, which latencies are, have three digits.
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return f"{value}"
    unit = metric(name).unit
    if name == "density" and value < 0.1:
        return f"{value:.2%}"
    if unit == "fraction":
        return f"{value:.1%}"
    if unit == "s" and 0.0 < value < 0.1:
        return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"
    if unit == "s":
        return duration(value)
    if unit == "B":
        return f"{value:.0f} B" if value < 1024 else f"{value / 1024:.3g} KiB"
    rounded = float(f"{value:.3g}")  # before the letter is chosen: 999,999 is 1M, not 1000k
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:g}{letter}"
    return f"{rounded:g}"


def heading(name: str) -> str:
    """What stands over a column of a metric's values."""
    at = radius_metric(0.0)[:-1]
    if name.startswith(at):
        return f"verified at {name.removeprefix(at)}"
    return _SHORT.get(name, name.replace("_", " "))


def plain_table(headings: Sequence[str], num_texts: int = 1) -> Table:
    """An empty table without frames: `num_texts` columns of text, then numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for place, text in enumerate(headings):
        table.add_column(text, justify="left" if place < num_texts else "right", no_wrap=True)
    return table


def titled(title: str, table: Table, caption: str | None = None) -> Group:
    """A table between its title and caption, which Rich would cut to the table's own width."""
    group = Group(Text(title, style="bold"), table)
    if caption is not None:
        group.renderables.append(Text(caption, style="italic"))
    return group


def metrics_table(
    rows: Iterable[tuple[str, Mapping[str, float], Sequence[str]]],
    names: Sequence[str] = COLUMNS,
    notes: Sequence[str] = ("method",),
) -> Table:
    """One row per (label, metrics, notes); `notes` are the headings of the latter."""
    table = plain_table(["trial", *map(heading, names), *notes])
    for label, metrics, texts in rows:
        values = [quantity(name, metrics.get(name)) for name in names]
        table.add_row(label, *values, *(Text(text) for text in texts))
    return table


def certificate_table(certificate: Certificate) -> Group:
    """What was certified, one row per radius."""
    table = plain_table(
        ["radius (l∞)", "natural", "verified", "95 % interval", "not falsified", "open", "time"]
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
    return titled(
        f"Certificate: {certificate.data}, {certificate.split} split, "
        f"{certificate.num_examples} examples",
        table,
        caption="  ·  ".join(_certified_by(certificate)),
    )


def _certified_by(certificate: Certificate) -> Iterator[str]:
    yield "verified by " + certificate.bound.replace("+", " + ")
    if certificate.timeout_s is not None:
        yield f"{certificate.timeout_s:g} s per example"
    if certificate.budget_s is not None:
        yield f"{certificate.budget_s:g} s in all"
    opinion = certificate.second_opinion
    if opinion is not None:
        agree = f"as auto_LiRPA's on {opinion.num_examples} examples"
        yield f"bounds {agree if opinion.reason is None else 'not compared with auto_LiRPA'}"


def certified_radius_table(radii: CertifiedRadius) -> Group:
    """Verified accuracy over the radius, and the mean certified radius."""
    table = plain_table(["radius (l∞)", "verified", "not falsified"])
    for radius, verified, not_falsified in radii.curve[::2]:
        table.add_row(f"{radius:.4g}", f"{verified:.1%}", f"{not_falsified:.1%}")
    return titled(
        f"Certified radius: {radii.mean:.4g} on average",
        table,
        caption=f"at most {radii.largest:g}, to within {radii.tolerance:.3g}; misclassified "
        f"examples count as 0  ·  {duration(radii.seconds)}",
    )


def certificate_report(certificate: Certificate) -> Group:
    """Everything that a certificate says, for a terminal."""
    report = Group(certificate_table(certificate))
    if certificate.certified_radius is not None:
        report.renderables.extend([Text(), certified_radius_table(certificate.certified_radius)])
    if certificate.artifacts:
        report.renderables.extend([Text(), artifacts_table(certificate.artifacts)])
    return report


def artifacts_table(artifacts: Sequence[ArtifactRecord]) -> Group:
    """What was proved of each file that ships, one row per radius."""
    names = ["radius (l∞)", "natural", "verified", "not falsified", "open", "time"]
    table = plain_table(["file", "status", *names], num_texts=2)
    for artifact in artifacts:
        for r in artifact.results:
            table.add_row(
                artifact.file,
                artifact.status,
                f"{r.radius:g}",
                f"{r.natural_accuracy:.1%}",
                f"{r.verified_accuracy:.1%}",
                f"{r.falsified_accuracy_bound:.1%}",
                f"{r.num_unknown}",
                duration(r.seconds),
            )
        if not artifact.results:
            table.add_row(artifact.file, artifact.status)
    notes = [f"{a.file}: {a.how}" for a in artifacts if a.status == "not certified"]
    notes += [f"{a.file}: for batches of {a.batch_size}" for a in artifacts if a.batch_size]
    return titled("Files that ship", table, caption="  ·  ".join(notes))


def graft_table(report: GraftReport) -> Group:
    """A ticket before and after grafting, and how the figures were obtained."""
    table = plain_table(["ticket", "natural", "verified", "unstable ReLUs", "lines"])
    for label, figures in (("before", report.before), ("after", report.after)):
        table.add_row(
            label,
            f"{figures['natural_accuracy']:.1%}",
            f"{figures['verified_accuracy']:.1%}",
            f"{figures['unstable_relus']:.1f}",
            f"{figures['num_grafted_units']:.0f}",
        )
    made = report.provenance
    return titled(
        f"Grafted: {report.folder}",
        table,
        caption=f"{made.split} split, {made.num_examples} examples  ·  radius {made.radius:g} (l∞)"
        f"  ·  verified by {made.bound.replace('+', ' + ')}  ·  unstable by ibp, mean per example",
    )


def space_table(space: SearchSpace, title: str) -> Group:
    """The holes of a search space: name, what may stand there, and when it is asked for."""
    table = plain_table(["parameter", "values", "asked for when"], num_texts=3)
    for column in table.columns:
        column.no_wrap = False
    for hole in space.parameters():
        when = " and ".join(f"{path} = {label}" for path, label in hole.condition) or "always"
        table.add_row(*(Text(cell) for cell in (hole.path, hole.describe(), when)))
    return titled(title, table)
