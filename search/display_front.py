"""How a front looks to a person: one row per member, and what there is to know of the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from search.display import COLUMNS, heading, plain_table, quantity, titled

if TYPE_CHECKING:
    from analysis import Front
    from analysis.recorded import Trial

WIDTH = 120
"""Characters that a table may take where there is no terminal that says so."""
_EXACT = "exact_verified_accuracy"
_SPARE = ("density", "method", _EXACT, "inference_flops")
_FIRST = ("natural_accuracy", "verified_accuracy")
_MANY = 2000  # examples from which on an interval is so narrow that tenths of a per cent matter


def front_table(front: Front, width: int = WIDTH) -> Group:
    """The members of a front, and how their figures were obtained.

    Figures have in brackets what they may vary by, as many as `width` characters have room for.
    """
    asked = [*front.objectives, *(constraint.metric for constraint in front.where)]
    names = list(dict.fromkeys([*asked, *COLUMNS]))
    names.sort(key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS))
    if _EXACT not in names and any(_EXACT in trial.metrics for trial in front.members):
        names.insert(names.index("verified_accuracy") + 1, _EXACT)
    spare = [name for name in _SPARE if name == "method" or name in names and name not in asked]
    # First without intervals, then without columns that nobody asked for: a cut figure is none.
    choices = [*((some, 0) for some in (names, asked, _FIRST)), *_fewer(spare)]
    for bracketed, num_spared in choices:
        table = _rows(front, names, bracketed, spare[:num_spared])
        if Console(width=10_000).measure(table).maximum <= width:
            break
    lines = [front.provenance, *_about_brackets(front, bracketed), *front.notes]
    if num_spared:
        left_out = ", ".join(heading(name) for name in spare[:num_spared])
        lines.append(f"left out for lack of room: {left_out}")
    return titled(_title(front), table, caption="\n".join(lines))


def _fewer(spare: Sequence[str]) -> list[tuple[Sequence[str], int]]:
    """Tables without brackets, and without none, one, two... of the columns to spare."""
    return [((), count) for count in range(len(spare) + 1)]


def _title(front: Front) -> str:
    count, members = front.study.count, len(front.members)
    others = f"{count('stopped')} stopped early, {count('failed')} failed"
    if front.num_repeats is None:
        what = f"{members} of {count('completed')} completed trials ({others})"
    else:
        what = (
            f"{members} of {len(front.candidates)} configurations "
            f"({count('completed')} trials completed, {others})"
        )
    return f"Front of {front.study.name}: {what}"


def _rows(
    front: Front, names: Sequence[str], bracketed: Sequence[str], spared: Sequence[str]
) -> Table:
    names = [name for name in names if name not in spared]
    method = ["method"] if "method" not in spared else []
    several, grouped = len(front.studies) > 1, front.num_repeats is not None
    heads = [*["study"] * several, "trial", *["seeds"] * grouped, *map(heading, names)]
    table = plain_table([*heads, *method, "run"], num_texts=1 + several)
    for trial in front.members:
        figures = (quantity(name, trial.metrics.get(name)) for name in names)
        ranges = (_brackets(front, trial, name) if name in bracketed else "" for name in names)
        table.add_row(
            *[Text(trial.study)] * several,
            f"{trial.number}",
            *[f"{len(trial.runs)}"] * grouped,
            *(figure + more for figure, more in zip(figures, ranges, strict=True)),
            *[Text(trial.method)] * len(method),
            trial.run_id[:8],
        )
    return table


def _brackets(front: Front, trial: Trial, name: str) -> str:
    """The interval of an accuracy, or the extremes of an objective over seeds; or nothing."""
    found, counted = front.range_of(trial, name), trial.counted(name)
    if found is None:
        return ""
    if counted is not None:  # rounded outwards: it is not narrower than it is
        digits = 0 if counted[1] < _MANY else 1
        scale = 100 * 10**digits
        low, high = math.floor(scale * found[0]) / scale, math.ceil(scale * found[1]) / scale
        return f" ({100 * low:.{digits}f}–{100 * high:.{digits}f})"
    if found[0] == found[1] or name not in (*front.objectives, _EXACT):
        return ""
    low_text, high_text = (quantity(name, some) for some in found)
    return f" ({low_text.removesuffix('%')}–{high_text.removesuffix('%')})"


def _about_brackets(front: Front, bracketed: Sequence[str]) -> list[str]:
    texts = [_brackets(front, t, name) for t in front.members for name in front.columns()]
    if not any(texts):
        return []
    shown = any(_brackets(front, t, name) for t in front.members for name in bracketed)
    if front.num_repeats is not None:
        what = "lowest and highest over seeds"
    else:
        what = "95 % interval (Wilson) of the accuracy, on these examples"
    return [f"in brackets: {what}"] if shown else [f"{what}: --format json or csv"]
