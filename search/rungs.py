"""Rules of early stopping: asynchronous successive halving (Li et al. 2020), on one or more scores.

A rule knows no executor: it is told what a trial reported at a rung, and says whether it goes on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from search.orders import Figures, pareto_places
from spaces.constraint import Constraint
from spaces.metrics import metric
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
    def places(self, views: Sequence[View], asked: Sequence[int]) -> list[int]:
        """How many of the views at a rung come before each one `asked` for; all are finite."""

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
        if self._places(rung, [trial])[trial] < quota:
            return None
        return (
            f"after epoch {epoch} it is not among the best 1/{self.reduction_factor} of the "
            f"{len(self._views[rung])} trials at this rung ({self.told(view)})"
        )

    def promotable(self, waiting: Collection[int]) -> int | None:
        """Which of the waiting trials goes on next, highest rung first; None if none may."""
        for rung in sorted(self._views, key=lambda rung: -rung[1]):
            quota = len(self._views[rung]) // self.reduction_factor
            places = self._places(rung, [n for n in waiting if self._highest(n) == rung])
            best = min(places, key=lambda number: (places[number], number), default=None)
            if best is not None and places[best] < quota:
                return best
        return None

    def judged(self) -> set[int]:
        """The trials that have reached a rung."""
        return {number for views in self._views.values() for number in views}

    def leaders(self, least: int, share: float) -> list[int]:
        """The best share at the highest rung that `least` trials have reached; none if none has."""
        for rung in sorted(self._views, key=lambda rung: -rung[1]):
            num_reached = len(self._views[rung])
            if num_reached >= least:
                places = self._places(rung, list(self._views[rung]))
                finite = [number for number in places if places[number] < num_reached]
                finite.sort(key=lambda number: (places[number], number))
                return finite[: math.ceil(share * num_reached)]
        return []

    def state(self) -> dict[tuple[int, int], dict[int, tuple[float, ...]]]:
        """What was reported at each rung (bracket, epoch), by trial."""
        return {rung: dict(views) for rung, views in self._views.items()}

    def load_state(self, state: Mapping[tuple[int, int], Mapping[int, View]]) -> None:
        """Take up what `state` gave."""
        self._views = {
            rung: {number: tuple(view) for number, view in views.items()}
            for rung, views in state.items()
        }

    def told(self, view: View) -> str:
        """A view for people."""
        return ", ".join(f"{value:.4g}" for value in view)

    def _places(self, rung: tuple[int, int], trials: Sequence[int]) -> dict[int, int]:
        views = self._views[rung]
        finite = {n: view for n, view in views.items() if all(map(math.isfinite, view))}
        index = {number: k for k, number in enumerate(finite)}
        asked = [number for number in trials if number in index]
        places = dict.fromkeys(trials, len(views))
        if asked:
            found = self.places(list(finite.values()), [index[number] for number in asked])
            places.update(zip(asked, found, strict=True))
        return places

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

    def places(self, views: Sequence[View], asked: Sequence[int]) -> list[int]:
        """How many have a better score."""
        return [sum(view[0] > views[index][0] for view in views) for index in asked]

    def told(self, view: View) -> str:
        """The score by its name."""
        return f"rung_score {view[0]:.4g}"


class ParetoRule(StoppingRule):
    """The rule on several figures; `search.orders` says which trial comes before which.

    Costs are known from the start and barely move: they do not shield a hopeless trial, they say
    with which trials it is compared. Trials that differ in cost alone are compared by it.
    """

    def __init__(
        self,
        moving: Sequence[str],
        costs: Sequence[str],
        grace_epochs: int,
        reduction_factor: int,
        max_epochs: int,
        brackets: int = 1,
    ) -> None:
        super().__init__(grace_epochs, reduction_factor, max_epochs, brackets)
        # Several objectives may have one and the same figure at a rung.
        moving, costs = (tuple(dict.fromkeys(names)) for names in (moving, costs))
        self._moving, self._costs = (moving, costs) if moving else (costs, ())

    @abstractmethod
    def loss(self, name: str, metrics: Mapping[str, float]) -> float:
        """A metric, or its negative if more of it is better; NaN when it is missing."""

    @abstractmethod
    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much a trial misses its constraints, as far as they can be judged at a rung."""

    def view(self, metrics: Mapping[str, float]) -> View:
        """Losses of the moving figures, costs, and the violation."""
        losses = [self.loss(name, metrics) for name in (*self._moving, *self._costs)]
        return (*losses, self.violation(metrics))

    def places(self, views: Sequence[View], asked: Sequence[int]) -> list[int]:
        """Feasible ones first, then by fronts among trials of like cost."""
        table = np.asarray(views, dtype=float)
        end = len(self._moving)
        figures = Figures(table[:, :end], table[:, end:-1], table[:, -1])
        return pareto_places(figures, asked, self.reduction_factor)

    def told(self, view: View) -> str:
        """The figures by their names."""
        figures = zip((*self._moving, *self._costs), view, strict=False)
        return ", ".join(
            f"{name} {value * self.loss(name, {name: 1.0}):.4g}" for name, value in figures
        )


class Moasha(ParetoRule):
    """The rule on the objectives of a study.

    Each has a counterpart that says something at a rung: verified accuracy at the target radius
    does not while the training radius grows, so `rung_score` stands for it; what a network costs
    is what is planned for the end of training. Constraints on costs hold at a rung as they do at
    the end; what training still improves is no reason yet to call a trial infeasible.
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
        moving = [at_rung(name) for name in objectives if not metric(name).is_static]
        costs = [at_rung(name) for name in objectives if metric(name).is_static]
        super().__init__(moving, costs, grace_epochs, reduction_factor, max_epochs, brackets)
        self.pauses = pauses
        # A limit is in its own metric's unit: it says nothing of what stands in for that.
        static = (c for c in constraints if metric(c.metric).is_static)
        self._limits = tuple(c for c in static if not metric(c.metric).stand_in)

    def loss(self, name: str, metrics: Mapping[str, float]) -> float:
        """By the direction that the metric has."""
        value = metrics.get(name, math.nan)
        return -value if metric(name).direction == "maximize" else value

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much limits on costs are exceeded."""
        planned = {c.metric: metrics.get(at_rung(c.metric), math.nan) for c in self._limits}
        return sum(max(0.0, c.violation(planned)) for c in self._limits)


def at_rung(name: str) -> str:
    """The metric that stands for an objective before the end of training."""
    if name.startswith("verified_accuracy") or name == "falsified_accuracy_bound":
        return "rung_score"
    if metric(name).has_plan:
        return f"planned_{name}"
    return metric(name).stand_in or name


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
