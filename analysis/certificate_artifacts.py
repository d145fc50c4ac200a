"""What a certificate says of the files that ship beside the weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.certificate_model import ArtifactRecord, RadiusResult
from analysis.errors import TicketError
from analysis.exports.c_source import c_source
from analysis.exports.csr import from_csr
from analysis.judge import Judge
from analysis.manifest import (
    C_HEADER,
    C_SOURCE,
    CSR,
    EXPORTS,
    ONNX,
    Manifest,
    check_no_others,
    read_manifest,
)
from analysis.onnx_model import RELATIVE_TOLERANCE
from trainers.errors import ModelError, UnsupportedLayer, VerificationError
from trainers.lowering import simplify
from trainers.lowering.onnx_reader import read_onnx
from trainers.lowering.runtime import OnnxNetwork
from trainers.lowering.simplify import StoredAffine
from trainers.verify import Artifact, VerificationResult

Results = Mapping[float, VerificationResult]
_AGREEMENT = 0.01
"""By how much the share of equal predictions may differ from what the manifest says: other
processors round a few activations the other way."""


@dataclass(frozen=True)
class Question:
    """Examples, radii and methods, and what was found of the ticket's own weights."""

    x_BCHW: Tensor
    y_B: Tensor
    methods: tuple[str, ...]
    found: Results

    @property
    def radii(self) -> tuple[float, ...]:
        """In the order in which they were asked."""
        return tuple(self.found)


@dataclass(frozen=True)
class Judged:
    """What the certificate says of a file, and verdicts with their counterexamples."""

    record: ArtifactRecord
    results: Results


def choose_artifacts(folder: Path, names: Sequence[str] | None) -> tuple[str, ...]:
    """The files to look at: those named, or all that ship but model.onnx, which is compared anyway.

    TicketError for a file that is no export of this ticket, named or lying in the folder.
    """
    manifest = read_manifest(folder)
    check_no_others(folder, manifest)
    known = [EXPORTS[route][0] for route in EXPORTS if route in manifest.exports]
    if names is None:
        return tuple(name for name in known if name != ONNX)
    for name in names:
        if name == C_HEADER and C_SOURCE in known:
            raise TicketError(f"{name} is judged together with {C_SOURCE}: name that one")
        if name not in known:
            raise TicketError(
                f"{folder} has no export {name!r}: it has {', '.join(known) or 'none'}. Export the "
                "ticket again with it"
            )
    return tuple(dict.fromkeys(names))


def judge_artifacts(judge: Judge, question: Question, names: Sequence[str]) -> list[Judged]:
    """Certify or compare each of the files.

    TicketError when a file cannot be run, is not what the weights or the manifest say, or when its
    runtime contradicts a proof.
    """
    manifest = read_manifest(judge.folder)
    ways = {CSR: _same_weights, C_SOURCE: _same_source}
    return [ways.get(name, _certified)(judge, question, manifest, name) for name in names]


def _certified(judge: Judge, question: Question, manifest: Manifest, name: str) -> Judged:
    """Verdicts on an ONNX file."""
    started = time.perf_counter()
    path = judge.folder / name
    content = path.read_bytes()
    try:
        runtime = OnnxNetwork(content)
        program = read_onnx(content)
    except ModelError as error:
        raise TicketError(f"{path}: {error}. Export the ticket again") from error
    except UnsupportedLayer as error:
        return Judged(_record(manifest, name, "not certified", str(error)), {})
    device = question.x_BCHW.device
    device = torch.device("cpu") if device.type == "mps" else device
    x_BCHW, y_B = question.x_BCHW.to(device), question.y_B.to(device)
    artifact = Artifact(program.to(device), lambda x: _one_by_one(runtime, x))
    compared = _compare(judge, artifact, manifest, name, x_BCHW)
    try:
        results = judge.artifact_verdicts(artifact, x_BCHW, y_B, question.radii, question.methods)
    except VerificationError as error:
        raise TicketError(f"{path}: {error}") from error
    if not artifact.is_rounded:
        _check_same_verdicts(path, question.found, results)
    record = _record(manifest, name, "certified", _how(artifact)).model_copy(
        update={
            **compared,
            "batch_size": 1 if artifact.is_dynamic else None,
            "results": tuple(RadiusResult.from_result(results[r]) for r in question.radii),
            "seconds": round(time.perf_counter() - started, 3),
        }
    )
    return Judged(record, results)


def _one_by_one(runtime: OnnxNetwork, x_BCHW: Tensor) -> Tensor:
    """The runtime's logits, each example in a batch of its own."""
    parts = x_BCHW.cpu().split(1)
    logits = [torch.from_numpy(runtime.logits(part.contiguous().numpy())) for part in parts]
    return torch.cat(logits).to(x_BCHW.device)


def _how(artifact: Artifact) -> str:
    if not artifact.is_rounded:
        return (
            "weights read from the file, by the same cascade; margins exceed four times the "
            "measured rounding of ONNX Runtime's logits, and the tolerances above"
        )
    steps = "each example's own steps" if artifact.is_dynamic else "fixed steps"
    return (
        "8-bit weights read from the file, by the same cascade; activations are rounded to "
        f"{steps}, which is a part of every bound; margins exceed what float32 arithmetic may "
        "change, bounded from the weights, and the tolerances above"
    )


def _compare(
    judge: Judge, artifact: Artifact, manifest: Manifest, name: str, x_BCHW: Tensor
) -> dict[str, Any]:
    """The runtime's logits against the network read and against the weights."""
    logits_BK = artifact.run(x_BCHW)
    with torch.no_grad():
        own_BK = torch.cat([artifact.program(x.double()) for x in x_BCHW.split(100)])
        ticket_BK = judge.model(x_BCHW.to(judge.device)).to(logits_BK)
    path, difference = judge.folder / name, float((logits_BK - ticket_BK).abs().max())
    tolerance = RELATIVE_TOLERANCE * max(1.0, float(ticket_BK.abs().max()))
    if not artifact.is_rounded and not difference <= tolerance:
        raise TicketError(
            f"{path} and the weights disagree: their logits differ by up to {difference:.3g}, but "
            f"at most {tolerance:.3g} is allowed. Export the ticket again"
        )
    _check_agreement(judge, artifact, manifest, name)
    return {
        "max_abs_difference": float((logits_BK.double() - own_BK).abs().max()),
        "difference_from_weights": difference,
        "agreement": float((logits_BK.argmax(1) == ticket_BK.argmax(1)).double().mean()),
        "num_examples": len(x_BCHW),
    }


def _check_agreement(judge: Judge, artifact: Artifact, manifest: Manifest, name: str) -> None:
    """The manifest's own figure for this file, found again."""
    route = next(route for route, names in EXPORTS.items() if name in names)
    told = manifest.exports[route]
    x_BCHW = judge.load(told.split).x[: told.num_examples]
    with torch.no_grad():
        expected_B = judge.model(x_BCHW).argmax(1).cpu()
    found_B = artifact.run(x_BCHW).argmax(1).cpu()
    agreement = float((found_B == expected_B).double().mean())
    if abs(agreement - told.agreement) > _AGREEMENT:
        raise TicketError(
            f"{judge.folder / name} predicts the weights' class for {agreement:.4f} of "
            f"{len(x_BCHW)} {told.split} examples, but the manifest says {told.agreement:.4f}. "
            "Export the ticket again"
        )


def _check_same_verdicts(path: Path, ticket: Results, artifact: Results) -> None:
    """A file with the ticket's own weights may not be refuted where they are proved safe."""
    refuted = ("falsified", "misclassified")
    for radius, found in artifact.items():
        pairs = zip(ticket[radius].verdicts, found.verdicts, strict=True)
        for i, (own, its) in enumerate(pairs):
            if (own == "verified" and its in refuted) or (its == "verified" and own in refuted):
                raise TicketError(
                    f"{path} says that example {i} at radius {radius:g} is {its}, but of the "
                    f"ticket's weights it is {own}: both cannot be true of the same network. "
                    "Report it, with this folder; nothing was written"
                )


def _same_weights(judge: Judge, question: Question, manifest: Manifest, name: str) -> Judged:
    """csr.safetensors: the compacted weights, bit for bit."""
    path = judge.folder / name
    program = _compacted(judge)
    found = from_csr(program, path.read_bytes())
    for number, (own, its) in enumerate(zip(program.ops, found.ops, strict=True), 1):
        for part, tensor in _constants(own).items():
            if not torch.equal(tensor, _constants(its)[part]):
                raise TicketError(
                    f"{path}: v{number}.{part} is not the ticket's, which is "
                    f"{float(tensor.flatten()[0]):g} first. Export the ticket again"
                )
    how = (
        "its weights are those of the ticket, compacted, bit for bit; a program that runs them "
        "adds in an order of its own"
    )
    return Judged(_record(manifest, name, "same weights", how), {})


def _same_source(judge: Judge, question: Question, manifest: Manifest, name: str) -> Judged:
    """model.c and model.h: what is generated from the ticket, byte for byte."""
    told = manifest.exports["c"]
    made = c_source(_compacted(judge), judge.ticket.input_shape)
    texts = {C_SOURCE: made.source, C_HEADER: made.header}
    other = [n for n, text in texts.items() if (judge.folder / n).read_bytes() != text.encode()]
    if other:
        how = (
            f"{', '.join(other)} is not what this version generates from the ticket: export it "
            "again"
        )
        return Judged(_record(manifest, name, "not certified", how), {})
    how = (
        "generated again from the ticket, byte for byte: the weights of compact.onnx, whose sums "
        "are added in another order. Compared when it was exported: logits within "
        f"{told.max_abs_difference:.1e} on {told.num_examples} {told.split} examples"
    )
    record = _record(manifest, name, "compared", how)
    compared = {
        "difference_from_weights": told.max_abs_difference,
        "agreement": told.agreement,
        "num_examples": told.num_examples,
    }
    return Judged(record.model_copy(update=compared), {})


def _compacted(judge: Judge) -> Any:
    return simplify(copy.deepcopy(judge.model).cpu(), judge.ticket.input_shape)


def _constants(op: nn.Module) -> dict[str, Tensor]:
    return op.state_dict() if isinstance(op, nn.Linear | nn.Conv2d | StoredAffine) else {}


def _record(manifest: Manifest, name: str, status: Any, how: str) -> ArtifactRecord:
    return ArtifactRecord(file=name, sha256=manifest.files[name], status=status, how=how)
