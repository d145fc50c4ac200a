"""What changes over training: the radius and the learning rate, as pure functions of the step."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from spaces.training import EpsilonConfig, OptimizerConfig

_BETA = 4
_MID = 0.4


@dataclass(frozen=True)
class EpsilonSchedule:
    """The training radius: 0 up to `warmup`, a ramp up to `ramp_end`, then exactly `target`.

    Steps count from 0 to `total_steps`; `warmup` and `ramp_end` are shares of the epochs, and so
    of the steps too, unless `epoch_ends` says which step is the last of each epoch. The smoothed
    ramp starts like t**4 and goes on linearly, with the same slope, from 40 % of its length
    (auto_LiRPA's SmoothedScheduler; Xu et al. 2020).
    """

    target: float
    warmup: float
    ramp_end: float
    total_steps: int
    shape: Literal["smoothed", "linear"] = "smoothed"
    epoch_ends: tuple[int, ...] = ()

    @classmethod
    def from_config(
        cls,
        config: EpsilonConfig,
        radius: float,
        total_steps: int,
        epoch_ends: tuple[int, ...] = (),
    ) -> EpsilonSchedule:
        """The schedule of a training to be evaluated at `radius` (data units)."""
        target = radius * config.train_factor
        return cls(target, config.warmup, config.ramp_end, total_steps, config.shape, epoch_ends)

    def __call__(self, step: int) -> float:
        """The radius at `step`, in data units."""
        return self.target * self.progress(step)

    def progress(self, step: int) -> float:
        """The radius at `step` over the target, in [0, 1]."""
        start, end = self.warmup * self.total_steps, self.ramp_end * self.total_steps
        now = self._even(step)
        if now >= end:
            return 1.0
        if now <= start:
            return 0.0
        t = (now - start) / (end - start)
        return t if self.shape == "linear" else _smoothed(t)

    def _even(self, step: int) -> float:
        """Which step it would be if all epochs were of one length."""
        if not self.epoch_ends or step >= self.total_steps:
            return step
        epoch = bisect_left(self.epoch_ends, step)
        begin, end = (0, *self.epoch_ends)[epoch : epoch + 2]
        epochs = epoch + (step - begin) / (end - begin)
        return epochs * self.total_steps / len(self.epoch_ends)


def _smoothed(t: float) -> float:
    """Return a t^4 up to _MID, then the line through (1, 1) that continues its slope."""
    a = 1.0 / (_MID**_BETA + _BETA * _MID ** (_BETA - 1) * (1.0 - _MID))
    if t < _MID:
        return a * t**_BETA
    return a * (_MID**_BETA + _BETA * _MID ** (_BETA - 1) * (t - _MID))


@dataclass(frozen=True)
class LearningRate:
    """The learning rate at each step, from 1 to `total_steps`: constant, step or cosine."""

    config: OptimizerConfig
    total_steps: int

    def __call__(self, step: int) -> float:
        """step: lr * lr_factor for each milestone passed; cosine: half a period, from lr to 0."""
        lr, share = self.config.lr, (step - 1) / self.total_steps
        if self.config.lr_schedule == "constant":
            return lr
        if self.config.lr_schedule == "cosine":
            return lr / 2.0 * (1.0 + math.cos(math.pi * share))
        passed = sum(share >= milestone for milestone in self.config.lr_milestones)
        return lr * self.config.lr_factor**passed
