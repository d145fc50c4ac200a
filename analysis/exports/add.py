"""Adding exports to a ticket's folder: written, loaded back, compared, timed, recorded."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analysis.errors import TicketError
from analysis.exports.footprint import VECTOR_WIDTH, footprint
from analysis.exports.routes import ROUTES, Export, Source
from analysis.files import write_whole
from analysis.manifest import EXPORTS, ExportRecord, Footprint, read_manifest, write_manifest
from analysis.onnx_model import RELATIVE_TOLERANCE
from analysis.ticket import Ticket
from trainers.data import load_data
from trainers.errors import ModelError, UnsupportedLayer
from trainers.lowering.runtime import OnnxNetwork, interleaved_medians

NUM_EXAMPLES = 256
BATCH_SIZES = (1, 7, NUM_EXAMPLES)
_SECONDS = 0.2
"""Of timing, for each batch size and route."""


def add_exports(
    ticket: Ticket, folder: Path, routes: Sequence[str], *, vector_width: int = VECTOR_WIDTH
) -> dict[str, ExportRecord]:
    """Write the ticket by each of the routes beside its manifest, which then tells all about them.

    Every export is loaded from what was written and compared with the PyTorch model on the first
    validation examples, in batches of several sizes; then all are timed in turns with model.onnx,
    on one thread. `vector_width`: float32 values in a vector of the target, for the footprint.
    TicketError for an unknown route, a network that a route cannot write, or logits
    that differ by more than 1e-5 (of the largest logit, when that is above 1) where weights are
    not rounded.
    """
    check_routes(routes)
    source = Source(ticket, load_data(ticket.config.data, torch.device("cpu")))
    exports = {route: _made(route, source) for route in EXPORTS if route in routes}
    x_BCHW = source.data.validation.x[:NUM_EXAMPLES]
    records = {route: _compared(route, export, source, x_BCHW) for route, export in exports.items()}
    for batch, name in ((1, "latency_s"), (NUM_EXAMPLES, "latency_256_s")):
        times = _timed(exports, source, x_BCHW, batch)
        for route, record in records.items():
            taken = {name: times[route], f"dense_{name}": times["dense"]}
            records[route] = record.model_copy(update=taken)
    for export in exports.values():
        for name, content in export.files.items():
            write_whole(folder / name, content)
    manifest = read_manifest(folder)
    listed = {
        "exports": {**manifest.exports, **records},
        "footprint": _footprint(source, vector_width),
    }
    write_manifest(folder, manifest.model_copy(update=listed))
    return records


def check_routes(routes: Sequence[str]) -> None:
    """Raise TicketError for a route that does not exist."""
    if isinstance(routes, str):
        raise TicketError(f"routes is the text {routes!r}: give a tuple, ({routes!r},)")
    for route in routes:
        if route not in ROUTES:
            raise TicketError(f"there is no export {route!r}: use {', '.join(ROUTES)}")


def _made(route: str, source: Source) -> Export:
    try:
        return ROUTES[route](source)
    except (UnsupportedLayer, ModelError) as error:
        raise TicketError(
            f"the network cannot be exported as {', '.join(EXPORTS[route])} ({error}): leave this "
            "export out"
        ) from error


def _footprint(source: Source, vector_width: int) -> Footprint | None:
    """None for a network that cannot be compacted, whose model.onnx is all that it has."""
    try:
        return footprint(source, vector_width)
    except (UnsupportedLayer, ModelError):
        return None


def _compared(route: str, export: Export, source: Source, x_BCHW: Tensor) -> ExportRecord:
    """What differs from the PyTorch model, in batches of every size."""
    with torch.no_grad():
        expected = source.model(x_BCHW).numpy()
    batches = {size: _logits(export, x_BCHW.numpy(), size) for size in BATCH_SIZES}
    difference = max(float(np.abs(found - expected).max()) for found in batches.values())
    scale = max(1.0, float(np.abs(expected).max()))
    tolerance = None if export.is_rounded else RELATIVE_TOLERANCE * scale
    names = ", ".join(export.files)
    if not difference <= (np.inf if tolerance is None else tolerance):
        raise TicketError(
            f"{names} and the weights disagree: their logits differ by up to {difference:.3g}, but "
            f"at most {tolerance:.3g} is allowed. Report it, and leave this export out"
        )
    agreement = float((batches[1].argmax(1) == expected.argmax(1)).mean())
    content = b"".join(export.files.values())
    return ExportRecord(
        files=EXPORTS[route],
        bytes=len(content),
        compressed_bytes=len(lzma.compress(content)),
        max_abs_difference=difference,
        tolerance=tolerance,
        agreement=agreement,
        num_examples=len(x_BCHW),
        split="validation",
        batch_sizes=tuple(dict.fromkeys(min(size, len(x_BCHW)) for size in BATCH_SIZES)),
        tools=dict(export.tools),
    )


def _logits(export: Export, x_BCHW: np.ndarray, size: int) -> np.ndarray:
    parts = [x_BCHW[i : i + size] for i in range(0, len(x_BCHW), size)]
    return np.concatenate([export.network.logits(np.ascontiguousarray(part)) for part in parts])


def _timed(
    exports: Mapping[str, Export], source: Source, x_BCHW: Tensor, batch: int
) -> dict[str, float]:
    """Seconds for a batch by each route and, as `dense`, by model.onnx."""
    repeated = x_BCHW.repeat(-(-batch // len(x_BCHW)), *[1] * (x_BCHW.ndim - 1))
    x = np.ascontiguousarray(repeated[:batch].numpy())
    networks = {route: export.network for route, export in exports.items()}
    calls = {route: network.call(x) for route, network in networks.items()}
    calls["dense"] = OnnxNetwork(source.dense).call(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return interleaved_medians(calls, _SECONDS * len(calls))
    finally:
        torch.set_num_threads(threads)
