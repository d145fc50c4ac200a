"""A section of a report: prose, tables and drawings, or the reason why there is nothing to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from analysis.report.drawing import Drawing

Html = str
"""A fragment of a page: whatever a person or a store wrote has been escaped."""


@dataclass(frozen=True)
class Section:
    """`name` is its anchor; `lead` is plain text above its `parts`, `remarks` are below them.

    Drawings that follow each other stand side by side. A section without parts says why in `lead`.
    """

    name: str
    title: str
    lead: str
    parts: Sequence[Drawing | Html] = ()
    remarks: Sequence[str] = field(default=())


def prose(text: str) -> Html:
    """Plain text; what stands between backticks is code, and no line breaks before a `%`."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(re.sub(r"(?<=\d) %", "\u00a0%", text)))


def paragraph(text: str) -> Html:
    """Plain text as a paragraph."""
    return f"<p>{prose(text)}</p>"


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    num_texts: int = 1,
    runs: Sequence[str] = (),
) -> Html:
    """A table of plain texts: `num_texts` columns of words, then numbers to the right.

    `runs` are the run ids of its rows, which are marks then as those of figures are.
    """
    head = "".join(
        f'<th scope="col"{_left(place < num_texts)}>{escape(text)}</th>'
        for place, text in enumerate(heads)
    )
    body = []
    for index, row in enumerate(rows):
        mark = f' class="mark" tabindex="0" data-run="{escape(runs[index])}"' if runs else ""
        first = f'<th scope="row"{_left(num_texts > 0)}>{escape(row[0])}</th>'
        rest = "".join(
            f"<td{_left(place < num_texts)}>{escape(text)}</td>"
            for place, text in enumerate(row[1:], start=1)
        )
        body.append(f"<tr{mark}>{first}{rest}</tr>")
    return (
        f'<p class="caption">{prose(caption)}</p>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and values as a list of definitions, in plain text."""
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>\n" for k, v in pairs)
    return f"<dl>\n{rows}</dl>"


def bullets(items: Iterable[str]) -> Html:
    """Plain texts as a list."""
    return "<ul>\n" + "".join(f"<li>{prose(item)}</li>\n" for item in items) + "</ul>"


def _left(is_text: bool) -> str:
    return ' class="words"' if is_text else ""
