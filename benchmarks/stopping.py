"""Rules of early stopping for a replayed search: goldenticket's own, Ray's and Syne Tune's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler
from replay import Metrics, Scale, Training

from search.rungs import StoppingRule

Rungs = tuple[int, int, int]
"""Epoch of the first one, reduction factor, and epochs of a whole training."""
SYNE_TUNE = Path(__file__).with_name("syne_moasha.py")


def reported(metrics: Metrics) -> dict[str, float]:
    """What a trial of goldenticket reports after an epoch, from what the table has."""
    flops = metrics["inference_flops"]
    return {
        "natural_accuracy": metrics["natural"],
        "verified_accuracy": metrics["verified_1"],
        "rung_score": metrics["verified_0.1"],
        "inference_flops": flops,
        "planned_inference_flops": flops / max(1.0, metrics["planned_share"]),
    }


def never(trial: int, epoch: int, metrics: Metrics) -> bool:
    """Every trial runs to its end."""
    return True


class Own:
    """A rule of goldenticket, asked as the ledger asks it (search/ledger.py)."""

    def __init__(self, rule: StoppingRule) -> None:
        self._rule = rule
        self.promoted = rule.promotable if rule.pauses else None

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        """Whether the trial goes on."""
        if epoch not in self._rule.levels:
            return True
        return self._rule.decide(trial, epoch, self._rule.view(reported(metrics))) is None


class RaysAsha:
    """Ray's ASHA on one score of what is reported; higher is better."""

    def __init__(self, score: Callable[[Metrics], float], rungs: Rungs) -> None:
        grace, factor, max_t = rungs
        self._score = score
        self._scheduler = AsyncHyperBandScheduler(
            "epoch", "score", "max", max_t=max_t, grace_period=grace, reduction_factor=factor
        )
        self._known: set[int] = set()

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        """Whether the trial goes on."""
        named: Any = SimpleNamespace(trial_id=str(trial))
        if trial not in self._known:
            self._known.add(trial)
            self._scheduler.on_trial_add(None, named)
        result = {"epoch": epoch, "score": self._score(reported(metrics))}
        return bool(self._scheduler.on_trial_result(None, named, result) != "STOP")


class SyneTune:
    """Syne Tune's MOASHA on several losses, in a process with an environment of its own."""

    def __init__(self, losses: Callable[[Metrics], Sequence[float]], rungs: Rungs) -> None:
        self._losses = losses
        self._process = subprocess.Popen(
            ["uv", "run", "--quiet", "--script", str(SYNE_TUNE), *map(str, rungs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        """Whether the trial goes on."""
        assert self._process.stdin is not None and self._process.stdout is not None
        losses = list(self._losses(reported(metrics)))
        told = {"trial": trial, "epoch": epoch, "losses": losses}
        print(json.dumps(told), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        assert answer in ("CONTINUE", "STOP"), f"Syne Tune's process answered {answer!r}"
        return answer == "CONTINUE"

    def close(self) -> None:
        """End its process."""
        self._process.communicate()


class Knowing:
    """A rule that no one can have: at the first rung it knows how each trial will end.

    One goes on if it will add to the hypervolume of those that were let go on before it: what is
    left for better rules to save, with these proposals and this first rung.
    """

    def __init__(self, final: Callable[[int], Training], scale: Scale, first_rung: int) -> None:
        self._final, self._scale, self._first = final, scale, first_rung
        self._going: list[Training] = []

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        """Whether the trial goes on."""
        if epoch != self._first:
            return True
        more = [*self._going, self._final(trial)]
        if self._scale.share(more) <= self._scale.share(self._going) + 1e-12:
            return False
        self._going = more
        return True
