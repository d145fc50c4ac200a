"""How a front looks to a person: one row per member, and what there is to know of the figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from search.display import COLUMNS, heading, plain_table, quantity, titled

if TYPE_CHECKING:
    from analysis import Front
    from analysis.recorded import Trial

_EXACT = "exact_verified_accuracy"
_MANY = 2000  # examples from which on an interval is so narrow that tenths of a per cent matter


def front_table(front: Front) -> Group:
    """The members of a front, and how their figures were obtained."""
    names = list(dict.fromkeys([*front.objectives, *COLUMNS]))
    names.sort(key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS))
    if _EXACT not in names and any(_EXACT in trial.metrics for trial in front.members):
        names.insert(names.index("verified_accuracy") + 1, _EXACT)
    several, grouped = len(front.studies) > 1, front.num_repeats is not None
    heads = [*["study"] * several, "trial", *["seeds"] * grouped, *map(heading, names)]
    table = plain_table([*heads, "method", "run"], num_texts=1 + several)
    for trial in front.members:
        table.add_row(
            *[Text(trial.study)] * several,
            f"{trial.number}",
            *[f"{len(trial.runs)}"] * grouped,
            *(_figure(front, trial, name) for name in names),
            Text(trial.method),
            trial.run_id[:8],
        )
    count = front.study.count
    return titled(
        f"Front of {front.study.name}: {len(front.members)} of {count('completed')} completed "
        f"trials ({count('stopped')} stopped early, {count('failed')} failed)",
        table,
        caption="\n".join([front.provenance, *front.notes]),
    )


def _figure(front: Front, trial: Trial, name: str) -> str:
    """A metric's value with its interval, or, of objectives of a group, with its extremes."""
    value = quantity(name, trial.metrics.get(name))
    counted = trial.counted(name)
    found = front.range_of(trial, name)
    if found is None:
        return value
    if counted is not None:  # rounded outwards: it is not narrower than it is
        digits = 0 if counted[1] < _MANY else 1
        scale = 100 * 10**digits
        low, high = math.floor(scale * found[0]) / scale, math.ceil(scale * found[1]) / scale
        return f"{value} ({100 * low:.{digits}f}–{100 * high:.{digits}f})"
    if name not in front.objectives or len(trial.runs) == 1:
        return value
    low_text, high_text = (quantity(name, some) for some in found)
    return f"{value} ({low_text.removesuffix('%')}–{high_text.removesuffix('%')})"
