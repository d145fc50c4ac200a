"""The early stopping rule: asynchronous successive halving (Li et al. 2020), stopping variant."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from spaces.scheduler import AshaConfig
from spaces.study import StudyConfig

View = Sequence[float]
"""What a rule keeps of a report at a rung."""


class StoppingRule(ABC):
    """Decides at rungs which trials go on."""

    levels: tuple[int, ...]
    """Epochs of the rungs, ascending."""
    pauses: bool = False
    """Whether a trial that does not go on waits to be promoted, instead of ending."""

    @abstractmethod
    def view(self, metrics: Mapping[str, float]) -> View:
        """What the rule reads of a report."""

    @abstractmethod
    def record(self, trial: int, epoch: int, view: View) -> None:
        """Enter what was reported at a rung without deciding: so rungs are rebuilt."""

    @abstractmethod
    def decide(self, trial: int, epoch: int, view: View) -> str | None:
        """Enter it; None if the trial goes on, else the reason why not, for people."""

    def promotable(self, waiting: Collection[int]) -> int | None:
        """Which of the waiting trials goes on next; None if none does at present."""
        return None


def build_rule(study: StudyConfig) -> StoppingRule | None:
    """The rule of a study; None if it stops no trial early."""
    config = study.scheduler
    if not isinstance(config, AshaConfig):
        return None
    return Asha(config.grace_epochs, config.reduction_factor, study.budget.epochs, config.brackets)


class Asha(StoppingRule):
    """Temporary adapter."""

    def __init__(
        self, grace_epochs: int, reduction_factor: int, max_epochs: int, brackets: int = 1
    ) -> None:
        self._rungs = Rungs(grace_epochs, reduction_factor, max_epochs, brackets)
        self.levels = self._rungs.levels

    def view(self, metrics: Mapping[str, float]) -> View:
        """The score."""
        return (metrics.get("rung_score", math.nan),)

    def record(self, trial: int, epoch: int, view: View) -> None:
        """Enter."""
        self._rungs.record(trial, epoch, view[0])

    def decide(self, trial: int, epoch: int, view: View) -> str | None:
        """Decide."""
        if self._rungs.decide(trial, epoch, view[0]):
            return None
        return (
            f"rung_score {view[0]:.4g} after epoch {epoch} is not among the best "
            f"1/{self._rungs.reduction_factor} of the trials at this rung"
        )


class Rungs:
    """Stops a trial whose score is not among the best of those that reached the same rung.

    Rungs lie at `grace_epochs * reduction_factor^k`, below `max_epochs`; bracket s skips the first
    s of them, and trial n belongs to bracket n modulo `brackets`. A trial that reaches a rung as
    the n-th goes on if fewer than max(1, floor(n / reduction_factor)) scores there are better than
    its own: nobody waits for anybody, so early arrivals have it easier. Higher scores are better;
    a score that is not finite never goes on.
    """

    def __init__(
        self, grace_epochs: int, reduction_factor: int, max_epochs: int, brackets: int = 1
    ) -> None:
        self.reduction_factor = reduction_factor
        self.brackets = brackets
        levels: list[int] = []
        while (level := grace_epochs * reduction_factor ** len(levels)) < max_epochs:
            levels.append(level)
        self.levels = tuple(levels)
        self._scores: dict[tuple[int, int], dict[int, float]] = {}

    def decide(self, trial: int, epoch: int, score: float) -> bool:
        """Record the score if the trial has reached a new rung; return whether it may go on."""
        rung = self._rung(trial, epoch)
        if rung is None or trial in self._scores.get(rung, {}):
            return True
        self.record(trial, epoch, score)
        scores = self._scores[rung]
        if not math.isfinite(score):
            return False
        num_better = sum(other > score for other in scores.values())
        return num_better < max(1, len(scores) // self.reduction_factor)

    def record(self, trial: int, epoch: int, score: float) -> None:
        """Enter a score without deciding: so rungs are rebuilt when a search is resumed."""
        rung = self._rung(trial, epoch)
        if rung is not None:
            self._scores.setdefault(rung, {}).setdefault(
                trial, score if math.isfinite(score) else -math.inf
            )

    def _rung(self, trial: int, epoch: int) -> tuple[int, int] | None:
        bracket = trial % self.brackets
        reached = [level for level in self.levels[bracket:] if level <= epoch]
        return (bracket, reached[-1]) if reached else None
