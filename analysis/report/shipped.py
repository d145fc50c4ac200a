"""The files that ship: what was proved of each, and how the others were checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.certificate_model import ArtifactRecord, RadiusResult
from analysis.report.section import Html, bullets, paragraph, table
from analysis.report.words import percent, seconds


def shipped(artifacts: Sequence[ArtifactRecord]) -> Iterator[Html]:
    """A table of verdicts by file and radius, and in words what they rest on."""
    yield "<h3>What was proved of the files that ship</h3>"
    heads = ["file", "status", "radius", "natural", "verified", "not falsified", "unknown", "time"]
    rows = [row for artifact in artifacts for row in _rows(artifact)]
    caption = (
        "Verified from the file's own bytes; falsified and misclassified is what its own runtime "
        "gets wrong"
    )
    yield table(caption, heads, rows, num_texts=2)
    yield bullets(_in_words(artifact) for artifact in artifacts)
    if any(artifact.status == "not certified" for artifact in artifacts):
        yield paragraph("For a file that is not certified, nothing at all is claimed.")


def _rows(artifact: ArtifactRecord) -> list[list[str]]:
    if not artifact.results:
        return [[artifact.file, artifact.status, *["–"] * 6]]
    return [[artifact.file, artifact.status, *_figures(result)] for result in artifact.results]


def _figures(result: RadiusResult) -> list[str]:
    shares = (result.natural_accuracy, result.verified_accuracy, result.falsified_accuracy_bound)
    return [
        f"{result.radius:g}",
        *map(percent, shares),
        f"{result.num_unknown}",
        seconds(result.seconds),
    ]


def _in_words(artifact: ArtifactRecord) -> str:
    text = f"{artifact.file}: {artifact.status}"
    if artifact.batch_size is not None:
        text += f", for batches of {artifact.batch_size}"
    text += f". {artifact.how}."
    if artifact.agreement is not None:
        text += (
            f" Against the ticket's weights, on {artifact.num_examples} examples: the same class "
            f"for {percent(artifact.agreement)}, logits within "
            f"{artifact.difference_from_weights:.1e}."
        )
    return text
