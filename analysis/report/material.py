"""Everything that a report shows, read once: its sections only draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from analysis.front import Front
from analysis.manifest import LayerCount
from analysis.recorded import Trial
from analysis.report.artifacts import Learning, read_layers, read_learning, read_study_file
from analysis.report.choice import Choice
from analysis.report.drawing import Inks
from analysis.report.hyperparameters import searched_names, short_value, varied
from analysis.report.words import name_of, value_of
from spaces.study import StudyConfig

MOST_MARKS = 300
"""Completed trials off the front that are drawn, and as many stopped ones."""
MOST_CURVES = 60
MOST_LAYERED = 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class Material:
    """A front with what was read beside it; figures show `members` and a part of the others.

    `others` are completed trials off the front, `stopped` those stopped early. `layers` is by run
    id. `choice` is the ticket at the end, or None with the reason in `no_choice`.
    """

    front: Front
    study: StudyConfig | None
    members: tuple[Trial, ...]
    others: tuple[Trial, ...]
    stopped: tuple[Trial, ...]
    learning: tuple[Learning, ...]
    layers: Mapping[str, Mapping[str, LayerCount]]
    choice: Choice | None
    no_choice: str
    inks: Inks

    @property
    def completed(self) -> tuple[Trial, ...]:
        """All completed trials, drawn or not, in their order."""
        return tuple(t for t in self.front.study.trials if t.state == "completed")

    @property
    def num_others(self) -> int:
        """Completed trials off the front, drawn or not."""
        on_front = {trial.run_id for trial in self.members}
        return sum(trial.run_id not in on_front for trial in self.completed)

    @property
    def shown(self) -> tuple[Trial, ...]:
        """Every trial with a mark or a curve somewhere, without repetition."""
        curves = (learning.trial for learning in self.learning)
        every = (*self.members, *self.others, *self.stopped, *curves)
        return tuple({trial.run_id: trial for trial in every}.values())

    @property
    def searched(self) -> frozenset[str] | None:
        """Names of the settings that the study searched; None without its file."""
        one_search = len(self.front.study.run_ids) == 1
        return searched_names(self.study) if self.study is not None and one_search else None

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics by which the front was found."""
        return self.front.objectives

    def name_of(self, trial: Trial) -> str:
        """`#12`, or `study/12` where several studies were asked."""
        name = f"{self._names.get(trial.run_id, trial.number)}"
        return name if "/" in name else f"#{name}"

    @cached_property
    def _names(self) -> dict[str, str]:
        return self.front.labels()

    @property
    def weight(self) -> float:
        """How strong the lines of members are: less so when there are many."""
        return 2.0 if len(self.members) <= 15 else 1.2

    @property
    def newest(self) -> int:
        """When the newest trial began, in milliseconds since 1970: the report's date."""
        return max(trial.started for trial in self.front.study.trials)


def gather(front: Front, choice: Choice | None, no_choice: str = "") -> Material:
    """Read curves, layers and the study file of a front; FrontError when the store fails."""
    on_front = {trial.run_id for trial in front.members}
    trials = front.study.trials
    others = [t for t in trials if t.state == "completed" and t.run_id not in on_front]
    stopped = [t for t in trials if t.state == "stopped"]
    rest = [trial for trial in trials if trial.run_id not in on_front]
    curves = [*evenly(front.members, MOST_CURVES), *evenly(rest, MOST_CURVES)]
    return Material(
        front=front,
        study=read_study_file(front.study) if len(front.studies) == 1 else None,
        members=front.members,
        others=tuple(evenly(others, MOST_MARKS)),
        stopped=tuple(evenly(stopped, MOST_MARKS)),
        learning=tuple(read_learning(curves)),
        layers=read_layers(evenly(front.members, MOST_LAYERED)),
        choice=choice,
        no_choice=no_choice,
        inks=Inks.of(front.members),
    )


def evenly(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many of them, at even distances, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def summary_of(trial: Trial) -> str:
    """A trial in a few lines, for a tooltip without a script."""
    shown = ("natural_accuracy", "verified_accuracy", "density", "inference_flops")
    figures = [f"{name_of(k)} {value_of(k, trial.metrics[k])}" for k in shown if k in trial.metrics]
    return "\n".join([f"trial {trial.number} ({trial.state}, {trial.method})", *figures])


def settings_of(
    trials: Sequence[Trial], searched: Collection[str] | None
) -> dict[str, dict[str, str]]:
    """Per run id, the settings that differ between trials."""
    settings = varied(trials, searched)
    return {
        trial.run_id: {
            setting.name: short_value(text)
            for setting in settings
            if (text := setting.texts[index]) is not None
        }
        for index, trial in enumerate(trials)
    }
