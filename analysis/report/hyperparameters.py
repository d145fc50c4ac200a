"""What differed between trials: the hyperparameters of a study, as it was recorded."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from analysis.recorded import Trial
from spaces.study import StudyConfig

_NOT_SEARCHED = ("seed", "compute.", "evaluation.")
_LOG_RATIO = 8.0


@dataclass(frozen=True)
class Hyperparameter:
    """One setting with more than one value: per trial its text, or None where it has no meaning.

    `numbers` are the same as numbers, when all of them are; else `values` are choices, in `levels`.
    """

    name: str
    texts: tuple[str | None, ...]
    numbers: tuple[float | None, ...] | None

    @property
    def levels(self) -> list[str]:
        """The different texts: sizes in their order, names in that of the alphabet."""
        return sorted({text for text in self.texts if text is not None}, key=_order)

    @property
    def is_logarithmic(self) -> bool:
        """Whether its numbers are positive and span nearly a factor of ten."""
        known = [number for number in self.numbers or () if number is not None]
        return bool(known) and min(known) > 0.0 and max(known) / min(known) >= _LOG_RATIO

    @property
    def is_conditional(self) -> bool:
        """Whether some trials have it and others do not."""
        return None in self.texts


def varied(
    trials: Sequence[Trial], searched: Collection[str] | None = None
) -> list[Hyperparameter]:
    """The parameters of which these trials have different values, in the order of their names.

    `searched` are the only names that count, where it is known what was searched. A parameter that
    some of them lack and the others agree on says nothing that the choice which
    brings it along does not say.
    """
    names = sorted({name for trial in trials for name in trial.params})
    found = []
    for name in names:
        if name.startswith(_NOT_SEARCHED) or (searched is not None and name not in searched):
            continue
        texts = tuple(trial.params.get(name) for trial in trials)
        if len({text for text in texts if text is not None}) > 1:
            found.append(Hyperparameter(name, texts, _numbers(texts)))
    return found


def searched_names(study: StudyConfig) -> frozenset[str]:
    """Names under which the holes of a study's space are recorded.

    A hole's path has the variant's label after a union (`topology.rigl.drop`), a recorded name has
    not (`topology.drop`); a name that no trial has does no harm.
    """
    names = set()
    for hole in study.search_space().parameters():
        parts = hole.path.split(".")
        names.add(hole.path)
        names.update(".".join(parts[:k] + parts[k + 1 :]) for k in range(1, len(parts) - 1))
    return frozenset(names)


def _numbers(texts: Sequence[str | None]) -> tuple[float | None, ...] | None:
    try:
        return tuple(None if text is None else float(text) for text in texts)
    except ValueError:
        return None


def _order(text: str) -> tuple[int, list[float], str]:
    """Lists of numbers, such as widths, by their numbers."""
    try:
        value = json.loads(text)
        numbers = [float(number) for number in (value if isinstance(value, list) else [value])]
    except (TypeError, ValueError):
        return 1, [], text
    return 0, numbers, text


def short_value(text: str) -> str:
    """A recorded value for people: fewer digits of numbers, no quotes."""
    try:
        number = float(text)
    except ValueError:
        return text.replace('"', "").replace(",", ", ")
    return f"{number:.4g}"
