"""The report as one HTML document: nothing in it is fetched from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from analysis.front import Front
from analysis.report.drawing import Drawing
from analysis.report.material import Material, settings_of, summary_of
from analysis.report.section import Html, Section, facts, paragraph, prose
from analysis.report.svg import inline_svg
from analysis.report.tables import front_table
from analysis.report.words import counted, listed, moment, name_of, value_of

_HERE = Path(__file__).parent
_SHOWN = (
    "natural_accuracy",
    "verified_accuracy",
    "exact_verified_accuracy",
    "density",
    "inference_flops",
    "num_active_parameters",
    "training_flops",
)


def to_page(material: Material, sections: Sequence[Section]) -> str:
    """The document, the same for the same material and sections."""
    name = material.front.study.name
    titles = {trial.run_id: summary_of(trial) for trial in material.shown}
    stops = frozenset(trial.run_id for trial in material.members)
    body = "\n".join(_section(section, titles, stops) for section in sections)
    links = "".join(f'<li><a href="#{s.name}">{escape(s.title)}</a></li>' for s in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be fetched, whatever a study's names hold: the page needs itself only.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(name)}: goldenticket report</title>\n"
        f"<style>\n{(_HERE / 'report.css').read_text()}</style>\n</head>\n<body>\n"
        f"{_head(material)}\n"
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n<main>\n{front_table(material)}\n'
        f"{body}\n</main>\n"
        '<div id="card" role="status" hidden></div>\n'
        f'<script type="application/json" id="trials">{_data(material)}</script>\n'
        f"<script>\n{(_HERE / 'report.js').read_text()}</script>\n</body>\n</html>\n"
    )


def _head(material: Material) -> Html:
    front, record = material.front, material.front.study
    first = front.members[0]
    where = f", where {listed([str(c) for c in front.where])}" if front.where else ""
    data = first.params.get("data.name", "not recorded")
    versions = sorted({t.tags["goldenticket.version"] for t in front.study.trials
                       if "goldenticket.version" in t.tags})  # fmt: skip
    radius = "unknown" if first.radius is None else f"{first.radius:g} (l∞, data units)"
    examples = "an unknown number of" if first.num_examples is None else f"{first.num_examples:,}"
    lead = (
        f"{counted(len(front.members), 'network')} of {record.count('completed'):,} that "
        f"completed their training: no other trial is at least as good in "
        f"{listed([name_of(name) for name in front.objectives])}, and better in one of "
        f"them{where}."
    )
    return (
        f'<header><p class="kind">goldenticket report</p>\n<h1>{escape(record.name)}</h1>\n'
        f"{paragraph(lead)}\n"
        + facts(
            [
                ("Newest trial", moment(material.newest)),
                ("Data", f"{data}: {examples} examples of the {first.split} split"),
                ("Radius", radius),
                ("Verified by", first.bound.replace("+", " + ")),
                ("Trials", _counts(front)),
                ("Code version", listed(versions) if versions else "not recorded"),
            ]
        )
        + "</header>"
    )


def _counts(front: Front) -> str:
    count = front.study.count
    text = (
        f"{count('completed'):,} completed, {count('stopped'):,} stopped early, "
        f"{count('failed'):,} failed"
    )
    rest = len(front.study.trials) - sum(map(count, ("completed", "stopped", "failed")))
    return text + (f", {rest:,} not ended" if rest else "")


def _section(section: Section, titles: Mapping[str, str], stops: frozenset[str]) -> Html:
    parts = [f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>']
    parts.append(paragraph(section.lead))
    for are_drawings, group in groupby(section.parts, lambda part: isinstance(part, Drawing)):
        if not are_drawings:
            parts += [part for part in group if isinstance(part, str)]
            continue
        drawings = [part for part in group if isinstance(part, Drawing)]
        figures = "\n".join(_figure(drawing, titles, stops) for drawing in drawings)
        parts.append(f'<div class="figures">\n{figures}\n</div>')
    parts += [f'<p class="remark">{prose(text)}</p>' for text in section.remarks]
    return "\n".join(parts) + "\n</section>"


def _figure(drawing: Drawing, titles: Mapping[str, str], stops: frozenset[str]) -> Html:
    svg = inline_svg(drawing, titles, stops if drawing.is_way_in else frozenset())
    wide = " wide" if drawing.figure.get_size_inches()[0] > 6.0 else ""
    return f'<figure id="figure-{drawing.name}" class="scroll{wide}">{svg}</figure>'


def _data(material: Material) -> str:
    """What the card says of each trial, as JSON that no value in it can end."""
    trials = material.shown
    settings = settings_of(trials, material.searched)
    names = list(dict.fromkeys([*material.objectives, *_SHOWN]))
    on_front = {trial.run_id for trial in material.members}
    document = {
        trial.run_id: {
            "title": f"trial {material.name_of(trial)}, {trial.method}",
            "state": "on the front"
            if trial.run_id in on_front
            else _STATES.get(trial.state, trial.state),
            "figures": [
                [name_of(name), value_of(name, trial.metrics[name])]
                for name in names
                if name in trial.metrics
            ],
            "settings": list(settings[trial.run_id].items()),
        }
        for trial in trials
    }
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_STATES = {"completed": "completed, not on the front", "stopped": "stopped early"}


def drawings_of(sections: Sequence[Section]) -> Iterator[Drawing]:
    """All drawings of a report, in its order."""
    for section in sections:
        yield from (part for part in section.parts if isinstance(part, Drawing))
