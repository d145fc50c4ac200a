"""Rules of early stopping: asynchronous successive halving (Li et al. 2020), on one or more scores.

A rule knows no executor: it is told what a trial reported at a rung, and says whether it goes on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from search.orders import Figures, pareto_place
from spaces.metrics import Constraint, metric
from spaces.scheduler import AshaConfig, MoashaConfig
from spaces.study import StudyConfig

View = Sequence[float]
"""What a rule keeps of a report at a rung."""


class StoppingRule(ABC):
    """Decides at rungs which trials go on.

    Rungs lie at `grace_epochs * reduction_factor^k`, below `max_epochs`; bracket s skips the first
    s of them, and trial n belongs to bracket n modulo `brackets`. A trial that reaches a rung as
    the n-th goes on if its place among them is within the first max(1, floor(n /
    reduction_factor)): nobody waits for anybody, so early arrivals have it easier. A trial with a
    figure that is not finite never goes on, and beats nobody.
    """

    pauses: bool = False
    """Whether a trial that does not go on waits to be promoted, instead of ending."""

    def __init__(
        self, grace_epochs: int, reduction_factor: int, max_epochs: int, brackets: int = 1
    ) -> None:
        self.reduction_factor = reduction_factor
        self.brackets = brackets
        levels: list[int] = []
        while (level := grace_epochs * reduction_factor ** len(levels)) < max_epochs:
            levels.append(level)
        self.levels = tuple(levels)
        self._views: dict[tuple[int, int], dict[int, tuple[float, ...]]] = {}

    @abstractmethod
    def view(self, metrics: Mapping[str, float]) -> View:
        """What the rule reads of a report."""

    @abstractmethod
    def place(self, views: Sequence[View], index: int) -> int:
        """How many of the views at a rung come before the one at `index`; all are finite."""

    def record(self, trial: int, epoch: int, view: View) -> None:
        """Enter what was reported at a rung without deciding: so rungs are rebuilt."""
        rung = self._rung(trial, epoch)
        if rung is not None:
            self._views.setdefault(rung, {}).setdefault(trial, tuple(view))

    def decide(self, trial: int, epoch: int, view: View) -> str | None:
        """Enter it; None if the trial goes on, else the reason why not, for people."""
        rung = self._rung(trial, epoch)
        if rung is None or trial in self._views.get(rung, {}):
            return None
        self.record(trial, epoch, view)
        quota = max(1, len(self._views[rung]) // self.reduction_factor)
        if self._place(rung, trial) < quota:
            return None
        return (
            f"after epoch {epoch} it is not among the best 1/{self.reduction_factor} of the "
            f"{len(self._views[rung])} trials at this rung ({self.told(view)})"
        )

    def promotable(self, waiting: Collection[int]) -> int | None:
        """Which of the waiting trials goes on next, highest rung first; None if none may."""
        for rung in sorted(self._views, key=lambda rung: -rung[1]):
            quota = len(self._views[rung]) // self.reduction_factor
            here = [n for n in waiting if self._highest(n) == rung]
            places = {number: self._place(rung, number) for number in here}
            best = min(places, key=lambda number: (places[number], number), default=None)
            if best is not None and places[best] < quota:
                return best
        return None

    def told(self, view: View) -> str:
        """A view for people."""
        return ", ".join(f"{value:.4g}" for value in view)

    def _place(self, rung: tuple[int, int], trial: int) -> int:
        views = self._views[rung]
        if not all(map(math.isfinite, views[trial])):
            return len(views)
        finite = [n for n, view in views.items() if all(map(math.isfinite, view))]
        return self.place([views[n] for n in finite], finite.index(trial))

    def _highest(self, trial: int) -> tuple[int, int] | None:
        bracket = trial % self.brackets
        reached = [level for level in self.levels if trial in self._views.get((bracket, level), {})]
        return (bracket, reached[-1]) if reached else None

    def _rung(self, trial: int, epoch: int) -> tuple[int, int] | None:
        bracket = trial % self.brackets
        reached = [level for level in self.levels[bracket:] if level <= epoch]
        return (bracket, reached[-1]) if reached else None


class Asha(StoppingRule):
    """The scalar rule, on rung_score: higher is better, and equal scores all go on."""

    def view(self, metrics: Mapping[str, float]) -> View:
        """The score."""
        return (metrics.get("rung_score", math.nan),)

    def place(self, views: Sequence[View], index: int) -> int:
        """How many have a better score."""
        return sum(view[0] > views[index][0] for view in views)

    def told(self, view: View) -> str:
        """The score by its name."""
        return f"rung_score {view[0]:.4g}"


class Moasha(StoppingRule):
    """The rule on several objectives; `search.orders` says which trial comes before which.

    Each objective has a counterpart that says something at a rung: verified accuracy at the target
    radius does not while the training radius grows, so `rung_score` stands for it; what a network
    costs is what is planned for the end of training. Costs are known from the start and barely
    move: they do not shield a hopeless trial, they say with which trials it is compared.
    Constraints on costs hold at a rung as they do at the end; what training still improves is no
    reason yet to call a trial infeasible.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        constraints: Sequence[Constraint],
        grace_epochs: int,
        reduction_factor: int,
        max_epochs: int,
        brackets: int = 1,
        pauses: bool = False,
    ) -> None:
        super().__init__(grace_epochs, reduction_factor, max_epochs, brackets)
        self.pauses = pauses
        moving = [name for name in objectives if not metric(name).is_static]
        # Trials that differ in cost alone are compared by it.
        self._moving = tuple(dict.fromkeys(map(at_rung, moving))) or tuple(map(at_rung, objectives))
        self._costs = tuple(at_rung(n) for n in objectives if metric(n).is_static and moving)
        self._limits = tuple(c for c in constraints if metric(c.metric).is_static)

    def view(self, metrics: Mapping[str, float]) -> View:
        """Losses of the moving objectives, costs, and by how much limits on costs are exceeded."""
        losses = [_loss(name, metrics) for name in (*self._moving, *self._costs)]
        planned = {c.metric: metrics.get(at_rung(c.metric), math.nan) for c in self._limits}
        return (*losses, sum(max(0.0, c.violation(planned)) for c in self._limits))

    def place(self, views: Sequence[View], index: int) -> int:
        """Feasible ones first, then by fronts among trials of like cost."""
        table = np.asarray(views, dtype=float)
        end = len(self._moving)
        figures = Figures(table[:, :end], table[:, end:-1], table[:, -1])
        return pareto_place(figures, index, self.reduction_factor)

    def told(self, view: View) -> str:
        """The figures by their names."""
        names = (*self._moving, *self._costs)
        signs = [-1.0 if metric(name).direction == "maximize" else 1.0 for name in names]
        figures = zip(names, signs, view, strict=False)
        return ", ".join(f"{name} {sign * value:.4g}" for name, sign, value in figures)


def at_rung(name: str) -> str:
    """The metric that stands for an objective before the end of training."""
    if name.startswith("verified_accuracy") or name == "falsified_accuracy_bound":
        return "rung_score"
    planned = f"planned_{name}"
    return planned if metric(name).has_plan else name


def build_rule(study: StudyConfig) -> StoppingRule | None:
    """The rule of a study; None if it stops no trial early."""
    config, epochs = study.scheduler, study.budget.epochs
    if isinstance(config, AshaConfig):
        return Asha(config.grace_epochs, config.reduction_factor, epochs, config.brackets)
    if isinstance(config, MoashaConfig):
        return Moasha(
            study.objectives,
            study.constraints,
            config.grace_epochs,
            config.reduction_factor,
            epochs,
            config.brackets,
            pauses=config.variant == "promotion",
        )
    return None


def _loss(name: str, metrics: Mapping[str, float]) -> float:
    value = metrics.get(name, math.nan)
    return -value if metric(name).direction == "maximize" else value
