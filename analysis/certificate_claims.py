"""Compares what was found with what a ticket, or an earlier certificate of it, says."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.certificate_model import (
    SCHEMA_VERSION,
    Certificate,
    CertifiedRadius,
    OwnFigures,
    RadiusResult,
)
from analysis.errors import TicketError
from analysis.judge import Judge
from analysis.manifest import MANIFEST, digest, sha256
from trainers.evaluate import first_examples

CERTIFICATE = "certificate.json"
CERTIFICATE_TEXT = "certificate.md"
COUNTEREXAMPLES = "counterexamples.safetensors"
_SEALED_SINCE = 3  # schema_version


@dataclass(frozen=True)
class _Figures:
    """What someone says of some examples at one radius, and how many of them time left open."""

    natural_accuracy: float
    verified_accuracy: float
    num_timeouts: int

    @classmethod
    def of(cls, result: RadiusResult) -> _Figures:
        return cls(result.natural_accuracy, result.verified_accuracy, result.num_timeouts)


def check_own_figures(judge: Judge) -> OwnFigures:
    """Certify again what the manifest says of the split that the ticket was selected on.

    By the bound that it names, and at the same radii together, as at the end of the trial.
    TicketError when the figures differ.
    """
    ticket, told = judge.ticket, judge.ticket.provenance
    x_BCHW, y_B = first_examples(judge.load(told.split), told.num_examples)
    radii = (told.radius, *ticket.config.evaluation.radii)
    results = judge.verdicts(x_BCHW, y_B, radii, told.bound.split("+"))
    found = RadiusResult.from_result(results[told.radius])
    claimed = _Figures(
        ticket.metrics["natural_accuracy"], ticket.metrics["verified_accuracy"], told.num_timeouts
    )
    about = f"{told.num_examples} {told.split} examples by {told.bound}"
    _compare(found, judge.folder / MANIFEST, claimed, told.num_examples, about)
    return OwnFigures(
        split=told.split,
        bound=told.bound,
        radius=told.radius,
        num_examples=told.num_examples,
        claimed_verified_accuracy=claimed.verified_accuracy,
        verified_accuracy=found.verified_accuracy,
        num_timeouts=found.num_timeouts,
    )


def check_earlier(certificate: Certificate, folder: Path) -> bool:
    """Compare with the certificate in the folder, when it is of this ticket and these data.

    Figures must agree where the question is the same; an example that one of the two proves robust
    must not have a counterexample in the other, whatever was asked. TicketError otherwise. Returns
    whether the earlier one says at least as much of every example, and more of some.
    """
    path = folder / CERTIFICATE
    _check_verdicts(certificate, certificate, "this verification")
    earlier = read_certificate(folder)
    if earlier is None or _subject(earlier) != _subject(certificate):
        return False
    if _question(earlier) == _question(certificate):
        about = f"{certificate.num_examples} {certificate.split} examples by {certificate.bound}"
        before = _all_figures(earlier)
        for (*network, radius), found in _all_figures(certificate).items():
            if (*network, radius) in before:
                claimed = _Figures.of(before[*network, radius])
                of_file = f", of {network[0]}" if network[0] else ""
                _compare(found, path, claimed, certificate.num_examples, about + of_file)
    _check_verdicts(earlier, certificate, str(path))
    return _says_more(earlier, certificate)


def _all_figures(certificate: Certificate) -> dict[tuple[Any, ...], RadiusResult]:
    """By file, its sha256 and radius; the ticket's own weights have no file."""
    networks = [("", "", certificate.results)]
    networks += [(a.file, a.sha256, a.results) for a in certificate.artifacts]
    return {(*of, r.radius): r for *of, results in networks for r in results}


def _says_more(earlier: Certificate, certificate: Certificate) -> bool:
    before, now, pairs = _all_known(earlier), _all_known(certificate), []
    for network in before.keys() | now.keys():
        sides = before.get(network, []), now.get(network, [])
        pairs += list(itertools.zip_longest(*sides, fillvalue=_Known()))
    as_much = all(b.verified >= n.verified and b.falsified <= n.falsified for b, n in pairs)
    more = any(b.verified > n.verified or b.falsified < n.falsified for b, n in pairs)
    return as_much and more


def _subject(certificate: Certificate) -> tuple[str, ...]:
    return certificate.ticket_digest, certificate.split, certificate.split_fingerprint


def _question(certificate: Certificate) -> tuple[object, ...]:
    # Bounds were computed by other code when the schema was older, a little looser or tighter.
    bound = frozenset(certificate.bound.split("+"))
    return bound, certificate.num_examples, certificate.schema_version


def _compare(
    found: RadiusResult, source: Path, claimed: _Figures, num_examples: int, about: str
) -> None:
    """Raise TicketError where figures differ.

    Rounding may turn one example in a thousand. What one side left open for lack of time, the
    other may have verified.
    """
    slack = math.ceil(num_examples / 1000) / num_examples + 1e-9
    here, there = _Figures.of(found), claimed
    late_here, late_there = here.num_timeouts / num_examples, there.num_timeouts / num_examples
    rise = here.verified_accuracy - there.verified_accuracy
    agree = {
        "natural_accuracy": abs(here.natural_accuracy - there.natural_accuracy) <= slack,
        "verified_accuracy": -slack - late_here <= rise <= slack + late_there,
    }
    for name, fine in agree.items():
        if not fine:
            late = f" with {here.num_timeouts} timeouts" if here.num_timeouts else ""
            raise TicketError(
                f"{source} claims {name} {getattr(there, name):.4f} at radius {found.radius:g} on "
                f"{about}, but certifying again gives {getattr(here, name):.4f}{late}"
            )


@dataclass(frozen=True)
class _Known:
    """Of one example: the largest radius proved safe, the nearest counterexample, and its name."""

    verified: float = 0.0
    falsified: float = math.inf
    how: str = "falsified"


def _all_known(certificate: Certificate) -> dict[tuple[str, str], list[_Known]]:
    """Of each example, by file and its sha256; the ticket's own weights have neither."""
    count = certificate.num_examples
    known = {("", ""): _known(count, certificate.results, certificate.certified_radius)}
    for artifact in certificate.artifacts:
        known[artifact.file, artifact.sha256] = _known(count, artifact.results, None)
    return known


def _known(
    num_examples: int, results: Sequence[RadiusResult], radii: CertifiedRadius | None
) -> list[_Known]:
    known = [_Known() for _ in range(num_examples)]

    def learn(i: int, verdict: str, radius: float) -> None:
        old = known[i]
        if verdict == "verified":
            known[i] = _Known(max(old.verified, radius), old.falsified, old.how)
        elif verdict in ("falsified", "misclassified") and radius < old.falsified:
            known[i] = _Known(old.verified, radius, verdict)

    for result in results:
        for i, verdict in enumerate(result.verdicts):
            learn(i, verdict, 0.0 if verdict == "misclassified" else result.radius)
    if radii is not None:
        for i, (safe, distance) in enumerate(zip(radii.verified, radii.falsified, strict=True)):
            if safe is not None:
                learn(i, "verified", safe)
            if distance is not None:
                learn(i, "misclassified" if safe is None else "falsified", distance)
    return known


def _check_verdicts(earlier: Certificate, certificate: Certificate, source: str) -> None:
    """Raise TicketError for an example that one side proves robust and the other refutes."""
    before, now = _all_known(earlier), _all_known(certificate)
    for network in before.keys() & now.keys():
        what = f", by {network[0]}," if network[0] else ""
        for i, (there, here) in enumerate(zip(before[network], now[network], strict=False)):
            said, found = _contradiction(there, here)
            if said:
                raise TicketError(
                    f"{source} says that example {i} of the {certificate.split} split{what} is "
                    f"{said}, but now it is {found}: both cannot be true, so one of the proofs is "
                    "wrong. Report it, with this folder; nothing was written"
                )


def _contradiction(there: _Known, here: _Known) -> tuple[str, str]:
    """What either side says, when both cannot be true."""
    if there.verified > 0.0 and there.verified >= here.falsified:
        return _says("verified", there.verified), _says(here.how, here.falsified)
    if here.verified > 0.0 and here.verified >= there.falsified:
        return _says(there.how, there.falsified), _says("verified", here.verified)
    return "", ""


def _says(verdict: str, radius: float) -> str:
    return verdict if verdict == "misclassified" else f"{verdict} at radius {radius:g}"


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate in a ticket's folder, if there is one, with the files that belong to it.

    TicketError naming the file when one of them is not as it was written.
    """
    path = folder / CERTIFICATE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        version = document.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ValueError(f"schema_version is {version}; known are those up to {SCHEMA_VERSION}")
        seal = document.pop("digest", None)
        if seal != digest(document) and (seal is not None or version >= _SEALED_SINCE):
            raise ValueError(f"its digest is {seal!r}, but its content gives {digest(document)}")
        document.pop("summary")
        certificate = Certificate.model_validate(document)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise TicketError(
            f"{path} is not a certificate as this version wrote it or can read it ({error}): "
            "delete it, and verify again"
        ) from error
    if certificate.text:
        _check_beside(path, CERTIFICATE_TEXT, certificate.text)
    if certificate.counterexamples:
        _check_beside(path, COUNTEREXAMPLES, certificate.counterexamples)
    return certificate


def _check_beside(path: Path, name: str, recorded: str) -> None:
    """Raise TicketError unless the file beside the certificate is the one that it is of."""
    beside = path.with_name(name)
    found = sha256(beside.read_bytes()) if beside.exists() else "missing"
    if found != recorded:
        raise TicketError(
            f"{beside} is not what was written with {path.name}: its sha256 is {found}, but "
            f"{path.name} says {recorded}. Delete {path.name}, and verify again"
        )
