"""The certificate of a ticket: what anyone can check again from its folder alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from analysis.certificate_model import Certificate, RadiusResult, wilson
from analysis.certificate_text import to_markdown
from analysis.errors import TicketError
from analysis.files import write_whole
from analysis.manifest import MANIFEST, ONNX, read_manifest, sha256
from analysis.onnx_model import check_onnx
from analysis.ticket import Ticket, load_ticket
from analysis.version import code_version, library_version
from trainers.data import Split, load_data
from trainers.device import resolve_device
from trainers.evaluate import first_examples, model_cost
from trainers.verify import AVAILABLE_METHODS, VerificationResult, verify

__all__ = ["Certificate", "RadiusResult", "verify_ticket"]

CERTIFICATE = "certificate.json"
CERTIFICATE_TEXT = "certificate.md"
COUNTEREXAMPLES = "counterexamples.safetensors"
CLAIMED = ("natural_accuracy", "verified_accuracy")
SPLITS = ("train", "validation", "test")


def verify_ticket(
    folder: str | Path,
    *,
    radii: Sequence[float] | None = None,
    examples: int | None = None,
    split: str = "test",
    methods: Sequence[str] | None = None,
    timeout_s: float | None = None,
) -> Certificate:
    """Check a ticket from its folder alone, certify it, and write certificate.json and .md.

    Re-hashes every file, counts the weights again, loads the data that the ticket names, compares
    model.onnx with the weights, and certifies the first `examples` examples of `split` (all when
    None) at every one of the `radii` (l-infinity, data units; the ticket's own when None) by
    `methods` (the ticket's own when None), for at most `timeout_s` seconds per radius.

    TicketError when anything differs from what the ticket, or an earlier certificate of the same
    question, says: it names the file and both values.
    """
    folder = Path(folder)
    ticket = load_ticket(folder)
    evaluation = ticket.config.evaluation
    chosen_radii = tuple(radii) if radii else (evaluation.radius, *evaluation.radii)
    chosen_methods = tuple(methods) if methods else evaluation.methods
    _check_question(chosen_radii, examples, split)
    _check_cost(ticket, folder)
    device = resolve_device("auto")
    part, fingerprint = _load_split(ticket, split, device, folder)
    x_BCHW, y_B = first_examples(part, examples)
    onnx = None
    if (folder / ONNX).exists():
        onnx = check_onnx(folder / ONNX, ticket.model(), x_BCHW, (len(x_BCHW),))
    verified = [
        _verify(ticket, x_BCHW, y_B, radius, chosen_methods, timeout_s) for radius in chosen_radii
    ]
    counterexamples = _pack_counterexamples(verified)
    certificate = Certificate(
        ticket_digest=ticket.digest,
        files=read_manifest(folder).files,
        data=ticket.config.data.name,
        split=split,
        split_fingerprint=fingerprint,
        num_examples=len(y_B),
        bound="+".join(name for name in AVAILABLE_METHODS if name in chosen_methods),
        timeout_s=timeout_s,
        onnx=onnx,
        counterexamples=None if counterexamples is None else sha256(counterexamples),
        versions=_versions(),
        results=tuple(_radius_result(result) for result in verified),
    )
    _check_claims(certificate, ticket, folder)
    _check_own_figures(certificate, ticket, folder, device)
    _write(folder, certificate, counterexamples, ticket)
    return certificate


def _check_question(radii: Sequence[float], examples: int | None, split: str) -> None:
    for radius in radii:
        if not 0.0 < radius <= 1.0:
            raise TicketError(f"radius is {radius}: it must be in (0, 1], in data units")
    if examples is not None and examples < 1:
        raise TicketError(f"examples is {examples}: at least one example is needed")
    if split not in SPLITS:
        raise TicketError(f"there is no split {split!r}: use {', '.join(SPLITS[:-1])} or test")


def _check_cost(ticket: Ticket, folder: Path) -> None:
    """Count density, parameters and FLOPs again from the weights."""
    for name, found in model_cost(ticket.model(), ticket.input_shape).items():
        recorded = ticket.metrics.get(name)
        if recorded is not None and not math.isclose(found, recorded, rel_tol=1e-9):
            raise TicketError(
                f"{folder / MANIFEST} says that {name} is {recorded:g}, but the weights give "
                f"{found:g}. Export the ticket again"
            )


def _load_split(
    ticket: Ticket, split: str, device: torch.device, folder: Path
) -> tuple[Split, str]:
    part: Split = getattr(load_data(ticket.config.data, device), split)
    recorded = ticket.data_fingerprints.get(split)
    if recorded is not None and part.fingerprint != recorded:
        raise TicketError(
            f"the {split} split of {ticket.config.data.name} has changed since training: its "
            f"sha256 is {part.fingerprint}, but {folder / MANIFEST} says {recorded}. Restore the "
            "data, or the library that ships it, to what the ticket was trained with"
        )
    return part, part.fingerprint


def _verify(
    ticket: Ticket,
    x_BCHW: Tensor,
    y_B: Tensor,
    radius: float,
    methods: Sequence[str],
    timeout_s: float | None,
) -> VerificationResult:
    evaluation = ticket.config.evaluation
    return verify(
        ticket.model().to(x_BCHW.device),
        x_BCHW,
        y_B,
        radius,
        methods=methods,
        timeout_s=timeout_s,
        attack_steps=evaluation.attack_steps,
        attack_restarts=evaluation.attack_restarts,
        seed=ticket.seed,
    )


def _radius_result(result: VerificationResult) -> RadiusResult:
    counts, n = Counter(result.verdicts), result.num_examples
    return RadiusResult(
        radius=result.radius,
        natural_accuracy=result.natural_accuracy,
        natural_interval=wilson(n - counts["misclassified"], n),
        verified_accuracy=result.verified_accuracy,
        verified_interval=wilson(counts["verified"], n),
        falsified_accuracy_bound=result.falsified_accuracy_bound,
        num_verified=counts["verified"],
        num_falsified=counts["falsified"],
        num_unknown=counts["unknown"],
        num_misclassified=counts["misclassified"],
        decided_by=dict(sorted(Counter(result.method).items())),
        precision=result.precision,
        seconds=round(result.seconds, 3),
        verdicts=result.verdicts,
        method=result.method,
    )


def _pack_counterexamples(results: Sequence[VerificationResult]) -> bytes | None:
    tensors = {
        f"{result.radius:g}/{index}": x.detach().cpu().contiguous()
        for result in results
        for index, x in result.counterexamples.items()
    }
    return safetensors.torch.save(tensors) if tensors else None


def _write(
    folder: Path, certificate: Certificate, counterexamples: bytes | None, ticket: Ticket
) -> None:
    if counterexamples is None:
        (folder / COUNTEREXAMPLES).unlink(missing_ok=True)
    else:
        write_whole(folder / COUNTEREXAMPLES, counterexamples)
    write_whole(folder / CERTIFICATE_TEXT, to_markdown(certificate, ticket).encode())
    write_whole(folder / CERTIFICATE, (certificate.to_json() + "\n").encode())


def _check_own_figures(
    certificate: Certificate, ticket: Ticket, folder: Path, device: torch.device
) -> None:
    """Certify again what the manifest says of the split that the ticket was selected on."""
    told = ticket.provenance
    part, _ = _load_split(ticket, told.split, device, folder)
    x_BCHW, y_B = first_examples(part, told.num_examples)
    result = _verify(ticket, x_BCHW, y_B, told.radius, told.bound.split("+"), None)
    question = (told.split, told.bound, told.num_examples)
    _compare(_radius_result(result), folder / MANIFEST, dict(ticket.metrics), question, CLAIMED)


def _check_claims(certificate: Certificate, ticket: Ticket, folder: Path) -> None:
    """Compare with what an earlier certificate says of the same question.

    With a time limit the verdicts depend on the machine's speed, so then only the natural accuracy
    is compared.
    """
    question = (certificate.split, certificate.bound, certificate.num_examples)
    names = CLAIMED[: 1 if certificate.timeout_s is not None else 2]
    for found in certificate.results:
        for source, claimed in _claims(certificate, found.radius, folder):
            _compare(found, source, claimed, question, names)


def _compare(
    found: RadiusResult,
    source: Path,
    claimed: dict[str, float],
    question: tuple[str, str, int],
    names: Sequence[str],
) -> None:
    """Raise TicketError where figures differ; rounding may turn one example in a thousand."""
    split, bound, num_examples = question
    slack = math.ceil(num_examples / 1000) / num_examples
    for name in names:
        value = getattr(found, name)
        if abs(value - claimed[name]) > slack + 1e-9:
            raise TicketError(
                f"{source} claims {name} {claimed[name]:.4f} at radius {found.radius:g} on "
                f"{num_examples} {split} examples by {bound}, but certifying again gives "
                f"{value:.4f}"
            )


def _claims(
    certificate: Certificate, radius: float, folder: Path
) -> list[tuple[Path, dict[str, float]]]:
    def question(of: Certificate) -> tuple[object, ...]:
        return of.split, set(of.bound.split("+")), of.num_examples

    claims: list[tuple[Path, dict[str, float]]] = []
    earlier = _earlier(folder)
    if (
        earlier is not None
        and earlier.ticket_digest == certificate.ticket_digest
        and question(earlier) == question(certificate)
        and earlier.timeout_s == certificate.timeout_s
    ):
        claims.extend(
            (folder / CERTIFICATE, r.model_dump(include=set(CLAIMED)))
            for r in earlier.results
            if r.radius == radius
        )
    return claims


def _earlier(folder: Path) -> Certificate | None:
    path = folder / CERTIFICATE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        document.pop("summary")
        return Certificate.model_validate(document)
    except (OSError, ValueError, KeyError, AttributeError, ValidationError) as error:
        raise TicketError(
            f"{path} is not a certificate that this version wrote ({error}): delete it, and "
            "verify again"
        ) from error


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "auto-lirpa", "onnxruntime")
    return {"goldenticket": code_version(), **{name: library_version(name) for name in names}}
