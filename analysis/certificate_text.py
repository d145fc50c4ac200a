"""certificate.md: a certificate for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.certificate_model import (
    ArtifactRecord,
    Certificate,
    CertifiedRadius,
    OpenRelus,
    RadiusResult,
)
from analysis.ticket import Ticket

STEPS = {
    "natural": "the network is right without any change",
    "ibp": "interval bounds",
    "pgd": "attack by projected gradient descent, its find replayed",
    "crown-ibp": "linear bounds backwards through the network, on intervals",
    "crown": "linear bounds, with linear bounds in front of every ReLU",
    "alpha-crown": "the same, the lines below ReLUs optimised",
    "exact": "mixed-integer programs, solved by HiGHS",
    "replay": "attack on the file itself, as its runtime computes it",
}

MEANING = (
    "*Verified* means: the network classifies the example correctly, and a proof says that no "
    "change of each input value by at most the radius (l-infinity, in data units, within "
    "[0, 1]) changes the class. *Falsified*: an input within the radius that changes the class "
    "was found, and replayed through the network. *Unknown*: neither, within the time given or "
    "because the margin is too near to zero to tell; such examples count as not verified. "
    "Intervals are 95 % (Wilson), for other examples drawn like these."
)


_COLUMNS = (
    "| radius | natural accuracy | verified accuracy | upper bound (not falsified) | verified "
    "| falsified | unknown | of them timeouts | misclassified | seconds |"
)


def to_markdown(certificate: Certificate, ticket: Ticket) -> str:
    """The certificate as a page: what is proved, for what network, on which examples, by what."""
    lines = [
        *_subject(certificate, ticket),
        *_accuracies(certificate),
        *_how(certificate),
        *(() if certificate.certified_radius is None else _radii(certificate.certified_radius)),
        *(_artifacts(certificate.artifacts) if certificate.artifacts else ()),
        *_checks(certificate),
    ]
    return "\n".join(lines) + "\n"


def _subject(certificate: Certificate, ticket: Ticket) -> Iterator[str]:
    kept = sum(layer.kept for layer in ticket.layers.values())
    nonzero = sum(layer.nonzero for layer in ticket.layers.values())
    yield "# Certificate"
    yield ""
    yield (
        f"A {ticket.config.model.family} network with {kept:,} kept weights ({nonzero:,} of them "
        f"not zero), on the first {certificate.num_examples:,} examples of the {certificate.split} "
        f"split of {certificate.data}."
    )
    yield ""


def _accuracies(certificate: Certificate) -> Iterator[str]:
    yield MEANING
    yield ""
    yield _COLUMNS
    yield "|---:" * 10 + "|"
    yield from (_row(result) for result in certificate.results)
    yield ""


def _row(result: RadiusResult) -> str:
    return (
        f"| {result.radius:g} | {_percent(result.natural_accuracy, result.natural_interval)} | "
        f"{_percent(result.verified_accuracy, result.verified_interval)} | "
        f"{100 * result.falsified_accuracy_bound:.1f} % | {result.num_verified} | "
        f"{result.num_falsified} | {result.num_unknown} | {result.num_timeouts} | "
        f"{result.num_misclassified} | {result.seconds:.1f} |"
    )


def _how(certificate: Certificate) -> Iterator[str]:
    yield "## How"
    yield ""
    yield (
        f"Cascade: {certificate.bound}, cheap steps first; an example stops at the first step that "
        f"decides it. {limits_text(certificate)}"
    )
    yield ""
    yield "| radius | step | examples that came to it | decided | seconds |"
    yield "|---:|---|---:|---:|---:|"
    for result in certificate.results:
        for step in result.steps:
            yield (
                f"| {result.radius:g} | {step.name}: {STEPS.get(step.name, '')} | "
                f"{step.num_examples} | {step.num_decided} | {step.seconds:.2f} |"
            )
        for name in ("larger radius", "smaller radius"):
            if count := result.decided_by.get(name):
                yield f"| {result.radius:g} | follows from a {name} | {count} | {count} | 0.00 |"
    yield ""
    for result in certificate.results:
        if result.open_relus is not None:
            yield relus_text(result.radius, result.open_relus)
            yield ""
    yield tolerances_text(certificate)
    yield ""


def limits_text(certificate: Certificate) -> str:
    """How much time verification had, as a sentence."""

    def limit(seconds: float | None, what: str) -> str:
        return f"no limit {what}" if seconds is None else f"{seconds:g} s {what}"

    text = f"Time: {limit(certificate.timeout_s, 'for each example at a radius')}, "
    text += f"{limit(certificate.budget_s, 'for everything')}"
    if certificate.workers is not None:
        text += f"; {certificate.workers} programs at a time"
    return text + "."


def relus_text(radius: float, relus: OpenRelus) -> str:
    """How hard the programs were that came to the solver, as a sentence."""
    return (
        f"At radius {radius:g}, {relus.num_examples} examples came to the solver; ReLUs that "
        "CROWN's bounds left on either side of zero, each a binary of their programs: median "
        f"{relus.median:g}, largest {relus.largest}."
    )


def tolerances_text(certificate: Certificate) -> str:
    """What rounding and the solver are trusted with."""
    text = f"Bounds are computed in {certificate.results[0].precision}"
    told = certificate.tolerances
    if not told:
        return text + ", with a margin for rounding."
    return (
        f"{text}. A margin counts as proven when it exceeds four times the measured rounding of "
        f"the example's logits and {told['rounding']:g} of the largest of them; a program must "
        f"prove {told['solver_margin']:g} of it more. The solver may miss a constraint by "
        f"{told['solver_feasibility']:g}; what it finds counts as a counterexample only when a "
        "replay through the network, in its own type and in the one of the bounds, agrees. Solver "
        "and floating-point arithmetic are trusted up to these margins."
    )


def _artifacts(artifacts: Sequence[ArtifactRecord]) -> Iterator[str]:
    yield "## Files that ship"
    yield ""
    for artifact in artifacts:
        batch = f", for batches of {artifact.batch_size}" if artifact.batch_size else ""
        how = artifact.how[:1].upper() + artifact.how[1:]
        yield f"- **{artifact.file}: {artifact.status}**{batch}. {how}."
        if artifact.agreement is not None:
            yield (
                f"  Against the ticket's weights on {artifact.num_examples} examples: the same "
                f"class for {100 * artifact.agreement:.2f} %, logits within "
                f"{artifact.difference_from_weights:.1e}."
            )
        if artifact.max_abs_difference is not None:
            yield (
                "  Its runtime's logits are within "
                f"{artifact.max_abs_difference:.1e} of those of the network read from it."
            )
    yield ""
    certified = [artifact for artifact in artifacts if artifact.results]
    if certified:
        yield "| file " + _COLUMNS
        yield "|---" + "|---:" * 10 + "|"
        for artifact in certified:
            yield from (f"| {artifact.file} {_row(result)}" for result in artifact.results)
        yield ""
        yield (
            "*Falsified* and *misclassified* are what the file's own runtime gets wrong, with each "
            "example in a batch of its own."
        )
        yield ""


def _radii(radii: CertifiedRadius) -> Iterator[str]:
    yield "## Certified radius"
    yield ""
    yield (
        f"Mean over the examples: {radii.mean:.4g} (misclassified ones count as 0, none counts for "
        f"more than {radii.largest:g}), found by bisection to within {radii.tolerance:.3g}, by "
        f"{radii.bound}, in {radii.seconds:.1f} s. The radius of each example is in "
        "certificate.json."
    )
    yield ""
    yield "| radius | verified accuracy | upper bound (not falsified) |"
    yield "|---:|---:|---:|"
    for radius, verified, not_falsified in radii.curve[::2]:
        yield f"| {radius:.4g} | {100 * verified:.1f} % | {100 * not_falsified:.1f} % |"
    yield ""


def _checks(certificate: Certificate) -> Iterator[str]:
    yield "## What was checked"
    yield ""
    yield f"- ticket.json, digest `{certificate.ticket_digest}`"
    yield from (f"- {name}, sha256 `{digest}`" for name, digest in certificate.files.items())
    yield f"- {certificate.split} split, sha256 `{certificate.split_fingerprint}`"
    yield f"- {_onnx(certificate)}"
    yield f"- {second_opinion_text(certificate)}"
    if (own := certificate.own_figures) is not None:
        late = f", {own.num_timeouts} examples short of time" if own.num_timeouts else ""
        yield (
            f"- the ticket's own verified accuracy, {100 * own.claimed_verified_accuracy:.1f} % of "
            f"{own.num_examples} {own.split} examples at radius {own.radius:g} by {own.bound}: "
            f"certified again, {100 * own.verified_accuracy:.1f} %{late}"
        )
    yield f"- versions: {', '.join(f'{k} {v}' for k, v in certificate.versions.items())}"
    yield ""
    yield (
        "Per-example verdicts are in certificate.json, and an input that changes the class of each "
        "falsified example in counterexamples.safetensors. To check all this again: "
        "`goldenticket verify` and this folder."
    )


def _percent(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _onnx(certificate: Certificate) -> str:
    if certificate.onnx is None:
        return "no model.onnx in the folder"
    return (
        f"model.onnx gives the weights' outputs on these examples to "
        f"{certificate.onnx.max_abs_difference:.1e} (allowed: {certificate.onnx.tolerance:.1e})"
    )


def second_opinion_text(certificate: Certificate) -> str:
    """How our bounds compared with another program's, without a full stop."""
    found = certificate.second_opinion
    if found is None:
        return "bounds were not compared with another program's"
    if found.reason is not None:
        return f"bounds could not be compared with auto_LiRPA's: {found.reason}"
    return (
        f"{found.method} bounds are those of auto_LiRPA on the first {found.num_examples} examples "
        f"at radius {found.radius:g}: largest difference {found.largest_difference:.1e} of a margin"
    )
