"""How the exports of a ticket look to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from analysis.manifest import EXPORTS
from search.display import plain_table, quantity, titled

if TYPE_CHECKING:
    from analysis.manifest import Footprint
    from analysis.ticket import Ticket


def exports_table(ticket: Ticket) -> Group:
    """One row per export: size, speed beside dense ONNX, and how near to the PyTorch model."""
    table = plain_table(
        ["files", "size", "xz", "1 example", "faster", "256", "faster", "largest Δ", "same class"]
    )
    records = [ticket.exports[route] for route in EXPORTS if route in ticket.exports]
    for record in records:
        table.add_row(
            ", ".join(record.files),
            quantity("flash_bytes", record.bytes),
            quantity("flash_bytes", record.compressed_bytes),
            quantity("latency_s", record.latency_s),
            _times(record.latency_s, record.dense_latency_s),
            quantity("latency_s", record.latency_256_s),
            _times(record.latency_256_s, record.dense_latency_256_s),
            f"{record.max_abs_difference:.1e}",
            f"{record.agreement:.1%}",
        )
    first = records[0]
    caption = (
        f"{first.split} split, {first.num_examples} examples  ·  faster: than the dense network in "
        "ONNX Runtime, timed in turns on one thread (medians)"
    )
    if ticket.footprint is not None:
        caption += f"\n{_needs(ticket.footprint)}"
    return titled("Exports", table, caption)


def _needs(footprint: Footprint) -> str:
    """What the compacted network takes, and its widths beside the target's vectors."""
    widths = ", ".join(f"{w.name} {w.live} of {w.units}" for w in footprint.widths)
    empty = sum(w.padded - w.live for w in footprint.widths)
    return (
        f"C: {quantity('flash_bytes', footprint.flash_bytes)} flash, "
        f"{quantity('ram_bytes', footprint.ram_bytes)} RAM  ·  compacted: "
        f"{quantity('compacted_flops', footprint.compacted_flops)} FLOPs; units left: {widths}; "
        f"{empty} places of vectors of {footprint.vector_width} stay empty"
    )


def _times(own: float | None, dense: float | None) -> str:
    return "-" if own is None or dense is None else f"{dense / own:.2f}x"
