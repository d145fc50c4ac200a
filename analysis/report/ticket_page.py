"""The chosen ticket, for a reviewer: what it is, what was proved, and how to check it again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from html import escape

from analysis.certificate_model import Certificate
from analysis.certificate_text import (
    MEANING,
    STEPS,
    limits_text,
    relus_text,
    second_opinion_text,
    tolerances_text,
)
from analysis.report.choice import Choice
from analysis.report.layers import natural_order
from analysis.report.material import Material
from analysis.report.section import Html, Section, bullets, facts, paragraph, table
from analysis.report.shipped import shipped
from analysis.report.words import counted, percent, seconds, value_of
from analysis.ticket import Ticket


def section(material: Material) -> Section:
    """The page, or why there is none."""
    choice = material.choice
    if choice is None:
        return Section("ticket", "The ticket", material.no_choice)
    parts = [
        *_network(choice.ticket),
        *(_proof(choice.certificate) if choice.certificate else _no_proof(choice)),
        *_checked(choice),
        "<h3>How to check it again</h3>",
        *_commands(choice),
        "<h3>What this does not say</h3>",
        bullets(_caveats(choice)),
    ]
    return Section("ticket", "The ticket", _lead(choice), parts)


def _lead(choice: Choice) -> str:
    which = "not a recorded trial of this study" if choice.trial is None else (
        f"trial #{choice.trial.number} of {choice.trial.study} (run {choice.trial.run_id})"
    )  # fmt: skip
    return f"This page is about one network: {which}. Chosen because {choice.rule}."


def _network(ticket: Ticket) -> Iterator[Html]:
    config, layers = ticket.config, ticket.layers
    size = sum(math.prod(layer.shape) for layer in layers.values())
    kept = sum(layer.kept for layer in layers.values())
    nonzero = sum(layer.nonzero for layer in layers.values())
    shape = " × ".join(map(str, ticket.input_shape))
    yield "<h3>What the network is</h3>"
    yield facts(
        [
            ("Network", f"{config.model.family}, input {shape}, {ticket.num_classes} classes"),
            ("Weights kept", f"{kept:,} of {size:,} ({percent(kept / size, 2)}), {nonzero:,} of "
             "them not zero; weights without a mask are not counted"),
            ("Operations", f"{value_of('inference_flops', ticket.metrics.get('inference_flops'))} "
             "FLOPs per example; "
             f"{value_of('', ticket.metrics.get('dense_inference_flops'))} as a dense network"),
            ("Made by", f"topology method {config.topology.method}, loss {config.loss.name}, "
             f"{counted(config.epochs, 'epoch')}, seed {ticket.seed}"),
            ("Data", f"{config.data.name}, training split sha256 "
             f"{ticket.data_fingerprints.get('train', 'not recorded')}"),
            ("Code version", ticket.code_version),
        ]
    )  # fmt: skip
    rows = [
        [
            name,
            " × ".join(map(str, layers[name].shape)),
            f"{layers[name].kept:,}",
            f"{layers[name].nonzero:,}",
            percent(layers[name].kept / math.prod(layers[name].shape), 2),
        ]
        for name in sorted(layers, key=natural_order)
    ]
    heads = ["layer", "shape", "kept", "not zero", "density"]
    yield table("Kept weights by layer, counted from the ticket's masks", heads, rows)


def _proof(certificate: Certificate) -> Iterator[Html]:
    yield "<h3>What was proved</h3>"
    result = certificate.results[0]
    yield paragraph(
        f"On the first {certificate.num_examples:,} examples of the {certificate.split} split of "
        f"{certificate.data}, the network is right on "
        f"{_share(result.natural_accuracy, result.natural_interval)}, and proved right for every "
        f"change within radius {result.radius:g} on "
        f"{_share(result.verified_accuracy, result.verified_interval)} of them."
    )
    yield paragraph(MEANING.replace("*", ""))
    heads = ["radius", "natural", "verified", "not falsified", "verified", "falsified", "unknown",
             "out of time", "misclassified", "time"]  # fmt: skip
    rows = [
        [
            f"{r.radius:g}",
            _share(r.natural_accuracy, r.natural_interval),
            _share(r.verified_accuracy, r.verified_interval),
            percent(r.falsified_accuracy_bound),
            *(f"{n}" for n in (r.num_verified, r.num_falsified, r.num_unknown, r.num_timeouts)),
            f"{r.num_misclassified}",
            seconds(r.seconds),
        ]
        for r in certificate.results
    ]
    caption = (
        f"{certificate.split} split, {certificate.num_examples:,} examples  ·  verified by "
        f"{certificate.bound.replace('+', ' + ')}  ·  in brackets: 95 % interval"
    )
    yield table(caption, heads, rows)
    yield "<h3>By what</h3>"
    yield bullets(
        f"{name}: {STEPS[name]}" for name in certificate.bound.split("+") if name in STEPS
    )
    yield paragraph(f"{limits_text(certificate)} {tolerances_text(certificate)}")
    for r in certificate.results:
        if r.open_relus is not None:
            yield paragraph(relus_text(r.radius, r.open_relus))
    if certificate.artifacts:
        yield from shipped(certificate.artifacts)


def _no_proof(choice: Choice) -> Iterator[Html]:
    told = choice.ticket.provenance
    yield "<h3>What was proved</h3>"
    yield (
        '<p class="warning">This ticket is not certified on the test split yet. Its own figures '
        "are from the split on which it was selected, so they flatter it.</p>"
    )
    natural, verified = (
        choice.ticket.metrics.get(name) for name in ("natural_accuracy", "verified_accuracy")
    )
    yield paragraph(
        f"On {told.num_examples:,} examples of the {told.split} split: "
        f"{value_of('natural_accuracy', natural)} right, "
        f"{value_of('verified_accuracy', verified)} proved right within radius {told.radius:g} "
        f"(l-infinity, data units), by {told.bound.replace('+', ' + ')}; "
        f"{told.num_timeouts} left open for lack of time."
    )


def _checked(choice: Choice) -> Iterator[Html]:
    certificate, manifest = choice.certificate, choice.manifest
    yield "<h3>What was checked</h3>"
    files = manifest.files if certificate is None else certificate.files
    pairs = [("ticket.json", f"digest {manifest.digest}")]
    pairs += [(name, f"sha256 {digest}") for name, digest in sorted(files.items())]
    if certificate is not None:
        pairs.append((f"{certificate.split} split", f"sha256 {certificate.split_fingerprint}"))
        pairs.append(("Bounds", second_opinion_text(certificate)))
        if (own := certificate.own_figures) is not None:
            pairs.append(
                ("Its own figures",
                 f"{percent(own.claimed_verified_accuracy)} of {own.num_examples} {own.split} "
                 f"examples verified at radius {own.radius:g} by {own.bound}; certified again: "
                 f"{percent(own.verified_accuracy)}")
            )  # fmt: skip
        versions = ", ".join(f"{k} {v}" for k, v in certificate.versions.items())
        pairs.append(("Versions", versions))
    yield paragraph(
        "This report has read the ticket's files, found the hashes that ticket.json lists, and "
        "counted the weights again."
    )
    yield facts(pairs)


def _commands(choice: Choice) -> Iterator[Html]:
    lines = []
    folder = str(choice.folder) if choice.folder else "ticket"
    if choice.folder is None and choice.trial is not None:
        trial = choice.trial
        lines.append(
            f"goldenticket export {shlex.quote(trial.study)} --run {trial.run_id} --to ticket "
            f"--tracking-uri {shlex.quote(trial.tracking_uri)}"
        )
    certificate, verify = choice.certificate, f"goldenticket verify {shlex.quote(folder)}"
    if certificate is not None:
        radii = "".join(f" --radius {r.radius:g}" for r in certificate.results)
        verify += (
            f" --split {certificate.split} --examples {certificate.num_examples}{radii} "
            f"--methods {certificate.bound.replace('+', ',')}"
        )
    lines.append(verify)
    yield f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>'
    yield paragraph(
        "It hashes every file, counts the weights, loads the data, certifies the ticket's own "
        "figures again and then these; any difference is an error that names both values."
    )


def _caveats(choice: Choice) -> Iterator[str]:
    told, certificate = choice.ticket.provenance, choice.certificate
    yield (
        f"The ticket was selected by its figures on the {told.split} split, among many trials, so "
        "those are optimistic. Only figures on the test split count for a comparison."
    )
    if certificate is not None and certificate.split != "test":
        yield f"This certificate is about the {certificate.split} split, not the test split."
    if certificate is not None and (open_ := sum(r.num_unknown for r in certificate.results)):
        yield (
            f"{counted(open_, 'verdict')} in the table above {'is' if open_ == 1 else 'are'} "
            "unknown, and counted as not verified."
        )
    yield (
        "Proofs are about changes of each input value by at most the radius, around these "
        "examples. They say nothing about other changes, such as turning or moving a picture, nor "
        "about other examples; the intervals do, if those are drawn like these."
    )
    yield (
        "Proofs are by this program, in floating point with margins for rounding; they were not "
        "checked by a proof checker. What is certified is the network of the ticket's weights, and "
        "of the files that ship those that are called certified above."
    )
    yield (
        "Zeros alone make nothing faster: for speed see the table of exports, measured on one "
        "machine."
    )
    if choice.trial is None:
        yield "No completed trial of this study has this ticket's settings and figures."


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{percent(value)} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
