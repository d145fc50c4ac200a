"""The tables of a report: the front, what its members cost, and how fast the exports are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.front import Front
from analysis.recorded import Trial
from analysis.report.material import Material
from analysis.report.section import Html, Section, facts, prose, table
from analysis.report.words import (
    amount,
    counted,
    name_of,
    percent,
    seconds,
    size,
    unit_of,
    value_of,
)

_FRONT = (
    "natural_accuracy",
    "verified_accuracy",
    "exact_verified_accuracy",
    "density",
    "inference_flops",
    "num_active_parameters",
)
_COST = (
    "inference_flops",
    "dense_inference_flops",
    "num_active_parameters",
    "density",
    "training_flops",
)
ROUTES = {
    "onnx": "ONNX",
    "compact": "compacted ONNX",
    "int8": "int8 ONNX",
    "c": "C source",
    "csr": "CSR weights",
}
_ORDER = list(ROUTES)


def front_table(material: Material) -> Html:
    """The members of the front with 95 % intervals, and how their figures were obtained."""
    front = material.front
    names = list(dict.fromkeys([*_FRONT, *front.objectives]))
    names = [name for name in names if any(name in t.metrics for t in front.members)]
    heads = ["trial", *(name_of(name) for name in names), "method", "run"]
    rows = [
        [
            material.name_of(trial),
            *(_with_interval(front, trial, name) for name in names),
            trial.method,
            trial.run_id[:8],
        ]
        for trial in front.members
    ]
    runs = [trial.run_id for trial in front.members]
    note = "in brackets: 95 % interval" if front.num_repeats is None else "in brackets: over seeds"
    text = table(f"{front.provenance}  ·  {note}", heads, rows, runs=runs)
    return text + "".join(f'<p class="remark">{prose(note)}</p>' for note in front.notes)


def _with_interval(front: Front, trial: Trial, name: str) -> str:
    text = value_of(name, trial.metrics.get(name))
    found = front.range_of(trial, name) if unit_of(name) == "fraction" else None
    return text if found is None else f"{text} ({100 * found[0]:.1f}–{100 * found[1]:.1f})"


def cost_section(material: Material) -> Section:
    """What the front's members cost, and the exports of the chosen ticket."""
    members = material.members
    names = [name for name in _COST if any(name in trial.metrics for trial in members)]
    heads = ["trial", *(name_of(name) for name in names)]
    rows = [
        [material.name_of(trial), *(value_of(name, trial.metrics.get(name)) for name in names)]
        for trial in members
    ]
    if {"inference_flops", "dense_inference_flops"} <= set(names):
        heads.insert(names.index("dense_inference_flops") + 2, "fewer by")
        for row, trial in zip(rows, members, strict=True):
            row.insert(names.index("dense_inference_flops") + 2, _ratio(trial))
    times = {learning.trial.run_id: learning.seconds for learning in material.learning}
    heads.append("wall time")
    for row, trial in zip(rows, members, strict=True):
        row.append(_seconds(times.get(trial.run_id)))
    runs = [trial.run_id for trial in members]
    cost = table("A multiply-add counts as two FLOPs, and only non-zero weights count", heads, rows,
                 runs=runs)  # fmt: skip
    exports = material.choice.exports if material.choice else {}
    remarks = [] if exports else [
        "There is no table of exports: the ticket of this report has none on record. `goldenticket "
        "export` writes, checks and times them; --ticket shows them here."
    ]  # fmt: skip
    footprint = material.choice.footprint if material.choice else None
    lead = (
        "FLOPs are operations that sparse code needs, not time: time is measured on the exports, "
        "each against the dense network in the same run."
    )
    parts = [cost, *([exports_table(exports)] if exports else [])]
    parts += [footprint_facts(footprint)] if footprint else []
    return Section("cost", "Cost and speed", lead, parts, remarks)


def _ratio(trial: Trial) -> str:
    flops, dense = trial.metrics.get("inference_flops"), trial.metrics.get("dense_inference_flops")
    return "–" if not flops or dense is None else f"{dense / flops:.3g} ×"


def exports_table(exports: Mapping[str, Mapping[str, Any]]) -> Html:
    """One row per route: sizes, latencies, speedups, and how far its outputs are off.

    Rows have the fields of a manifest's export records.
    """
    heads = ["route", "files", "size", "compressed", "one example", "speedup", "256 examples",
             "speedup", "largest difference", "same class"]  # fmt: skip
    rows = [
        [
            ROUTES.get(route, route),
            ", ".join(record["files"]),
            size(record["bytes"]),
            size(record["compressed_bytes"]),
            _seconds(record.get("latency_s")),
            _speedup(record.get("dense_latency_s"), record.get("latency_s")),
            _seconds(record.get("latency_256_s")),
            _speedup(record.get("dense_latency_256_s"), record.get("latency_256_s")),
            _difference(record),
            percent(record["agreement"]),
        ]
        for route, record in sorted(exports.items(), key=lambda pair: _ORDER.index(pair[0]))
    ]
    return table(_provenance(list(exports.values())), heads, rows, num_texts=2)


def footprint_facts(footprint: Mapping[str, Any]) -> Html:
    """What the ticket's network needs once dead units are cut out, as its manifest counts it."""
    widths = "; ".join(
        f"{w['name']} {w['live']} of {w['units']} units (full vectors: {w['padded']})"
        for w in footprint["widths"]
    )
    return "<h3>The ticket, compacted</h3>" + facts(
        [
            ("Flash", size(footprint["flash_bytes"])),
            ("Memory", f"{size(footprint['ram_bytes'])} for activations"),
            ("Operations", f"{amount(footprint['compacted_flops'])} FLOPs per example, as a "
             "smaller dense network"),
            ("Least size", f"{size(footprint['entropy_bound_bytes'])}: no coding of masks and "
             "values is smaller"),
            ("Widths", f"{widths}; vectors of {footprint['vector_width']}"),
        ]
    )  # fmt: skip


def _provenance(records: Sequence[Mapping[str, Any]]) -> str:
    first = records[0]
    tools = sorted({f"{k} {v}" for record in records for k, v in record.get("tools", {}).items()})
    return (
        f"Exports: median time on one thread, speedup over the dense ONNX network in the same run; "
        f"outputs against PyTorch on {counted(first['num_examples'], first['split'] + ' example')}"
        f"{'  ·  ' + ', '.join(tools) if tools else ''}"
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else seconds(value)


def _speedup(dense: float | None, own: float | None) -> str:
    return "–" if dense is None or not own else f"{dense / own:.2f} ×"


def _difference(record: Mapping[str, Any]) -> str:
    tolerance = record.get("tolerance")
    promise = "no promise" if tolerance is None else f"allowed {tolerance:.1e}"
    return f"{record['max_abs_difference']:.1e} ({promise})"
