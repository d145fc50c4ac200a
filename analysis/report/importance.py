"""Which hyperparameters an objective depends on, told from the trials of a study."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from analysis.recorded import Trial
from analysis.report.hyperparameters import Hyperparameter, varied
from analysis.report.words import is_logarithmic

LEAST_TRIALS = 10
FEW_TRIALS = 40
MOST_TRIALS = 600
_FOLDS, _TREES, _REPEATS = 5, 100, 10


@dataclass(frozen=True)
class Importance:
    """How much of an objective's variance is no longer explained once a setting is shuffled.

    `shares` and `spreads` are the mean loss of R² and its standard deviation over repetitions, per
    name, largest first; `explained` is R² on trials that the forests had not seen.
    """

    objective: str
    num_trials: int
    explained: float
    shares: dict[str, float]
    spreads: dict[str, float]


def importance(
    trials: Sequence[Trial], objective: str, searched: Collection[str] | None = None
) -> Importance | None:
    """Permutation importance (Breiman 2001) of each varied hyperparameter for one objective.

    Forests are fitted on four fifths of the trials and judged on the rest, five times. A setting's
    values are shuffled among the trials that have it, all its columns together, so that a
    conditional one does not get the credit of the choice that brings it along. Counts, FLOPs and
    densities are taken as logarithms. None when too few trials, or no differences, are recorded.
    """
    known = [trial for trial in trials if objective in trial.metrics][:MOST_TRIALS]
    settings = varied(known, searched)
    values = np.array([trial.metrics[objective] for trial in known])
    if is_logarithmic(objective):
        values = np.log(np.maximum(values, 1e-12))
    if len(known) < LEAST_TRIALS or not settings or math.isclose(values.std(), 0.0, abs_tol=1e-12):
        return None
    errors, losses = _errors(settings, values)
    total = float(((values - values.mean()) ** 2).sum())
    order = sorted(range(len(settings)), key=lambda i: -losses[i].mean())
    return Importance(
        objective,
        len(known),
        1.0 - errors / total,
        {settings[i].name: float(losses[i].mean()) / total for i in order},
        {settings[i].name: float(losses[i].std()) / total for i in order},
    )


def _errors(settings: Sequence[Hyperparameter], values: np.ndarray) -> tuple[float, np.ndarray]:
    """Squared error on unseen trials, and how much more of it per shuffled setting and repeat."""
    columns = [_columns(setting) for setting in settings]
    rng = np.random.default_rng(0)
    errors, losses = 0.0, np.zeros((len(settings), _REPEATS))
    for train, held in KFold(_FOLDS, shuffle=True, random_state=0).split(values):
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=0, n_jobs=1)
        forest.fit(np.hstack(columns)[train], values[train])
        parts = [column[held] for column in columns]
        shuffled = [
            _with_shuffled(parts, index, [setting.texts[i] is not None for i in held], rng)
            for index, setting in enumerate(settings)
            for _ in range(_REPEATS)
        ]
        # All in one call: a forest is slow to start and fast with many rows.
        predicted = forest.predict(np.vstack([np.hstack(parts), *shuffled]))
        wrong = ((predicted.reshape(-1, len(held)) - values[held]) ** 2).sum(axis=1)
        errors += float(wrong[0])
        losses += wrong[1:].reshape(losses.shape) - wrong[0]
    return errors, losses


def _columns(setting: Hyperparameter) -> np.ndarray:
    """Numbers as one column, choices as one per level; absent is below all numbers, or no level."""
    if setting.numbers is None:
        levels = setting.levels
        return np.array([[float(text == level) for level in levels] for text in setting.texts])
    known = [number for number in setting.numbers if number is not None]
    absent = min(known) - 1.0
    return np.array([[absent if number is None else number] for number in setting.numbers])


def _with_shuffled(
    parts: Sequence[np.ndarray], index: int, has: Sequence[bool], rng: np.random.Generator
) -> np.ndarray:
    column, rows = parts[index].copy(), np.flatnonzero(has)
    column[rows] = rng.permutation(column[rows])
    return np.hstack([*parts[:index], column, *parts[index + 1 :]])
