"""certificate.md: a certificate for people."""

from __future__ import annotations

from analysis.certificate_model import Certificate, RadiusResult
from analysis.ticket import Ticket


def to_markdown(certificate: Certificate, ticket: Ticket) -> str:
    """The certificate as a page: what is proved, for what network, on which examples, by what."""
    kept = sum(layer.kept for layer in ticket.layers.values())
    nonzero = sum(layer.nonzero for layer in ticket.layers.values())
    lines = [
        "# Certificate",
        "",
        f"A {ticket.config.model.family} network with {kept:,} kept weights ({nonzero:,} of them "
        f"not zero), on the first {certificate.num_examples:,} examples of the {certificate.split} "
        f"split of {certificate.data}.",
        "",
        "*Verified* means: the network classifies the example correctly, and a proof says that no "
        "change of each input value by at most the radius (l-infinity, in data units, within "
        "[0, 1]) changes the class. *Unknown* examples count as not verified. Intervals are 95 % "
        "(Wilson), for other examples drawn like these.",
        "",
        "| radius | natural accuracy | verified accuracy | upper bound (attack) | verified | "
        "falsified | unknown | misclassified | seconds |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *[_row(result) for result in certificate.results],
        "",
        f"Bounds, cheapest first: {certificate.bound}. "
        + _limit(certificate.timeout_s)
        + " Bounds are computed in "
        f"{certificate.results[0].precision}, with a margin for rounding.",
        "",
        "| radius | decided by |",
        "|---:|---|",
        *[
            f"| {result.radius:g} | "
            + ", ".join(f"{name} {count}" for name, count in result.decided_by.items())
            + " |"
            for result in certificate.results
        ],
        "",
        "## What was checked",
        "",
        f"- ticket.json, digest `{certificate.ticket_digest}`",
        *[f"- {name}, sha256 `{digest}`" for name, digest in certificate.files.items()],
        f"- {certificate.split} split, sha256 `{certificate.split_fingerprint}`",
        f"- {_onnx(certificate)}",
        f"- versions: {', '.join(f'{k} {v}' for k, v in certificate.versions.items())}",
        "",
        "Per-example verdicts are in certificate.json, and an input that changes the class of each "
        "falsified example in counterexamples.safetensors. To check all this again: "
        "`goldenticket verify` and this folder.",
        "",
    ]
    return "\n".join(lines)


def _row(result: RadiusResult) -> str:
    return (
        f"| {result.radius:g} | {_percent(result.natural_accuracy, result.natural_interval)} | "
        f"{_percent(result.verified_accuracy, result.verified_interval)} | "
        f"{100 * result.falsified_accuracy_bound:.1f} % | {result.num_verified} | "
        f"{result.num_falsified} | {result.num_unknown} | {result.num_misclassified} | "
        f"{result.seconds:.1f} |"
    )


def _percent(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _limit(timeout_s: float | None) -> str:
    return "No time limit." if timeout_s is None else f"Time limit: {timeout_s:g} s per radius."


def _onnx(certificate: Certificate) -> str:
    if certificate.onnx is None:
        return "no model.onnx in the folder"
    return (
        f"model.onnx gives the weights' outputs on these examples to "
        f"{certificate.onnx.max_abs_difference:.1e} (allowed: {certificate.onnx.tolerance:.1e})"
    )
