"""The certificate of a ticket: what anyone can check again from its folder alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from analysis.certificate_artifacts import (
    Question,
    Results,
    choose_artifacts,
    judge_artifacts,
)
from analysis.certificate_claims import (
    CERTIFICATE,
    CERTIFICATE_TEXT,
    COUNTEREXAMPLES,
    check_earlier,
    check_own_figures,
    read_certificate,
)
from analysis.certificate_model import (
    Certificate,
    CertifiedRadius,
    RadiusResult,
    SecondOpinionRecord,
)
from analysis.certificate_text import to_markdown
from analysis.errors import CertificateKept, TicketError
from analysis.files import write_whole
from analysis.intervals import wilson
from analysis.judge import Judge, Limits, check_methods
from analysis.manifest import MANIFEST, ONNX, OnnxCheck, read_manifest, sha256
from analysis.onnx_model import check_onnx
from analysis.ticket import Ticket, load_ticket
from analysis.version import code_version, library_version
from trainers.evaluate import first_examples, model_cost
from trainers.verify import AVAILABLE_METHODS

__all__ = ["Certificate", "RadiusResult", "verify_ticket", "wilson"]

SPLITS = ("train", "validation", "test")
_STEPS_OF_BISECTION = 64


def verify_ticket(
    folder: str | Path,
    *,
    radii: Sequence[float] | None = None,
    examples: int | None = None,
    split: str = "test",
    methods: Sequence[str] | None = None,
    timeout_s: float | None = 60.0,
    budget_s: float | None = None,
    workers: int | None = None,
    certified_radius: float | None = None,
    tolerance: float | None = None,
    artifacts: Sequence[str] | None = None,
) -> Certificate:
    """Check a ticket from its folder alone, certify it, and write certificate.json and .md.

    Re-hashes every file, counts the weights again, loads the data that the ticket names, compares
    model.onnx with the weights and our bounds with auto_LiRPA's, certifies the ticket's own figures
    again, and judges the first `examples` examples of `split` (all when None) at every one of the
    `radii` (l-infinity, data units; the ticket's own when None) by `methods` (all that there are,
    exact ones included, when None). An example is given up after `timeout_s` seconds of its own at
    a radius, and all of them after `budget_s` seconds of the whole call: they are unknown.
    `workers` programs are solved at a time (None: one for each CPU). `certified_radius` finds, for
    each example, up to which radius it is verified, at most this one, to within `tolerance` (a
    64th of it when None). `artifacts` are files that ship, such as int8.onnx, to be judged as well:
    all that there are when None, but for model.onnx, which is compared only. An earlier certificate
    that says more of these data is kept, with a warning.

    TicketError when anything differs from what the ticket, or an earlier certificate of it, says:
    it names the file and both values. VerificationError for limits or methods that make no sense,
    and UnsupportedLayer for a network that has no bounds.
    """
    folder, limits = Path(folder), Limits.from_now(timeout_s, budget_s, workers)
    ticket = load_ticket(folder)
    read_certificate(folder)  # what is wrong with an earlier one is told before the work
    evaluation = ticket.config.evaluation
    question = _Question(
        tuple(dict.fromkeys(radii or (evaluation.radius, *evaluation.radii))),
        examples,
        split,
        check_methods(AVAILABLE_METHODS if methods is None else methods),
        _span(certified_radius, tolerance),
        choose_artifacts(folder, artifacts),
    )
    judge = Judge(ticket, folder, limits)
    _check_cost(ticket, folder)
    certificate, counterexamples = _certify(judge, question)
    text = to_markdown(certificate, ticket).encode()
    certificate = certificate.model_copy(update={"text": sha256(text)})
    if check_earlier(certificate, folder):
        warnings.warn(
            f"{folder / CERTIFICATE} was kept: it says as much of every example as this "
            "verification does, and more of some. Delete it to write a lesser one",
            CertificateKept,
            stacklevel=2,
        )
    else:
        _write(folder, certificate, text, counterexamples)
    return certificate


@dataclass(frozen=True)
class _Question:
    """What is asked; `span` is the largest certified radius and its tolerance."""

    radii: tuple[float, ...]
    examples: int | None
    split: str
    methods: tuple[str, ...]
    span: tuple[float, float] | None
    artifacts: tuple[str, ...]

    def __post_init__(self) -> None:
        for radius in self.radii:
            if not 0.0 < radius <= 1.0:
                raise TicketError(f"radius is {radius}: it must be in (0, 1], in data units")
        if self.examples is not None and self.examples < 1:
            raise TicketError(f"examples is {self.examples}: at least one example is needed")
        if self.split not in SPLITS:
            known = ", ".join(SPLITS[:-1])
            raise TicketError(f"there is no split {self.split!r}: use {known} or test")


def _span(largest: float | None, tolerance: float | None) -> tuple[float, float] | None:
    if largest is None:
        if tolerance is not None:
            raise TicketError(f"tolerance is {tolerance}: it is of certified_radius; give that too")
        return None
    if not 0.0 < largest <= 1.0:
        raise TicketError(f"certified_radius is {largest}: it must be in (0, 1], in data units")
    tolerance = largest / _STEPS_OF_BISECTION if tolerance is None else tolerance
    if not 0.0 < tolerance <= largest:
        raise TicketError(
            f"tolerance is {tolerance}: it must be greater than 0 and at most certified_radius "
            f"({largest:g})"
        )
    return largest, tolerance


def _certify(judge: Judge, question: _Question) -> tuple[Certificate, bytes | None]:
    """All checks and verdicts, dearest last, and the counterexamples as a file's content."""
    ticket, folder, limits = judge.ticket, judge.folder, judge.limits
    part = judge.load(question.split)
    x_BCHW, y_B = first_examples(part, question.examples)
    onnx = _check_onnx(ticket, folder, x_BCHW)
    opinion = _second_opinion(judge, x_BCHW, y_B, question.radii[0])
    own_figures = check_own_figures(judge)
    found = judge.verdicts(x_BCHW, y_B, question.radii, question.methods)
    asked = Question(x_BCHW, y_B, question.methods, {r: found[r] for r in question.radii})
    judged = judge_artifacts(judge, asked, question.artifacts)
    counterexamples = _pack_counterexamples(
        {"": found, **{j.record.file: j.results for j in judged}}
    )
    certificate = Certificate(
        ticket_digest=ticket.digest,
        files=read_manifest(folder).files,
        data=ticket.config.data.name,
        split=question.split,
        split_fingerprint=part.fingerprint,
        num_examples=len(y_B),
        bound="+".join(question.methods),
        timeout_s=limits.timeout_s,
        budget_s=limits.budget_s,
        workers=limits.workers,
        tolerances=dict(found[question.radii[0]].tolerances),
        onnx=onnx,
        second_opinion=opinion,
        own_figures=own_figures,
        counterexamples=None if counterexamples is None else sha256(counterexamples),
        versions=_versions(),
        results=tuple(RadiusResult.from_result(found[radius]) for radius in question.radii),
        certified_radius=_certified_radius(judge, x_BCHW, y_B, question),
        artifacts=tuple(one.record for one in judged),
    )
    return certificate, counterexamples


def _check_cost(ticket: Ticket, folder: Path) -> None:
    """Count density, parameters and FLOPs again from the weights."""
    for name, found in model_cost(ticket.model(), ticket.input_shape).items():
        recorded = ticket.metrics.get(name)
        if recorded is not None and not math.isclose(found, recorded, rel_tol=1e-9):
            raise TicketError(
                f"{folder / MANIFEST} says that {name} is {recorded:g}, but the weights give "
                f"{found:g}. Export the ticket again"
            )


def _check_onnx(ticket: Ticket, folder: Path, x_BCHW: Tensor) -> OnnxCheck | None:
    if not (folder / ONNX).exists():
        return None
    return check_onnx(folder / ONNX, ticket.model(), x_BCHW, (len(x_BCHW),))


def _second_opinion(
    judge: Judge, x_BCHW: Tensor, y_B: Tensor, radius: float
) -> SecondOpinionRecord:
    found = judge.second_opinion(x_BCHW, y_B, radius)
    return SecondOpinionRecord(
        radius=radius,
        num_examples=found.num_examples,
        largest_difference=found.largest_difference,
        reason=found.reason,
    )


def _certified_radius(
    judge: Judge, x_BCHW: Tensor, y_B: Tensor, question: _Question
) -> CertifiedRadius | None:
    if question.span is None:
        return None
    found = judge.certified_radii(x_BCHW, y_B, *question.span, question.methods)
    return CertifiedRadius.from_radii(found, "+".join(question.methods))


def _pack_counterexamples(found: Mapping[str, Results]) -> bytes | None:
    tensors = {
        # A copy: radii may share a counterexample, and safetensors refuses shared memory.
        f"{file}/{radius}/{index}".lstrip("/"): x.detach().cpu().clone().contiguous()
        for file, results in found.items()
        for radius, result in results.items()
        for index, x in result.counterexamples.items()
    }
    return safetensors.torch.save(tensors) if tensors else None


def _write(
    folder: Path, certificate: Certificate, text: bytes, counterexamples: bytes | None
) -> None:
    if counterexamples is None:
        (folder / COUNTEREXAMPLES).unlink(missing_ok=True)
    else:
        write_whole(folder / COUNTEREXAMPLES, counterexamples)
    write_whole(folder / CERTIFICATE_TEXT, text)
    write_whole(folder / CERTIFICATE, (certificate.to_json() + "\n").encode())


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "highspy", "auto-lirpa", "onnxruntime")
    return {"goldenticket": code_version(), **{name: library_version(name) for name in names}}
