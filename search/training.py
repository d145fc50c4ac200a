"""The trial that searches run: a real training, measured by the whole cascade, kept as a ticket."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from analysis.ticket import Ticket, save_ticket
from search.trial import Measurement, TrialJob
from spaces.base import ConfigError
from spaces.data import DataConfig
from spaces.study import StudyConfig
from spaces.trial import TrialConfig
from trainers import build
from trainers.data import load_data
from trainers.device import release_memory, resolve_device

_NUM_REHEARSALS = 3


class TrainingTrial:
    """A training and, at its end, its ticket."""

    def __init__(self, job: TrialJob) -> None:
        device = resolve_device(job.config.compute.device)
        self._job = job
        self._training = build(job.config, load_data(job.config.data, device))
        self._last: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs have been run."""
        return self._training.finished

    def run_epoch(self) -> Measurement:
        """Train for one epoch and measure by the cheap bound."""
        self._last = self._training.run_epoch()
        evaluation = self._job.config.evaluation
        num_examples = min(evaluation.epoch_examples, len(self._training.data.validation))
        provenance = {
            "split": "validation",
            "bound": "ibp",
            "radius": str(evaluation.radius),
            "num_examples": str(num_examples),
        }
        return Measurement(self._last, provenance)

    def finish(self) -> Measurement:
        """Measure by the whole cascade on the validation split and write the ticket's folder."""
        metrics = {**self._last, **self._training.final_metrics()}
        evaluation = self._training.evaluation
        assert evaluation is not None
        ticket = Ticket.from_training(self._training, metrics)
        provenance = {name: str(value) for name, value in evaluation.provenance().items()}
        return Measurement(metrics, provenance, save_ticket(ticket, self._job.ticket))

    def state_dict(self) -> dict[str, Any]:
        """The training's state, and what its last epoch measured."""
        return {"training": self._training.state_dict(), "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._training.load_state_dict(state["training"])
        self._last = dict(state["last"])


def _problem(config: TrialConfig) -> str | None:
    """Why the training of a trial cannot be built; None if it can."""
    cpu = config.compute.model_copy(update={"device": "cpu", "compile": False})
    try:
        build(config.model_copy(update={"compute": cpu}), load_data(config.data, "cpu"))
    except ValueError as error:
        return str(error)
    return None


class TrainingFactory:
    """Builds real trainings; a process keeps the data set of its last trial."""

    def prepare(self, study: StudyConfig) -> None:
        """Read the data and build a few trials, so that what cannot work is told at the start."""
        fixed = {key: value for key, value in study.data.items() if key != "augment"}
        config: DataConfig = TypeAdapter(DataConfig).validate_python(fixed)
        load_data(config, "cpu")
        space, rng = study.search_space(), random.Random(study.seed)
        problems = [_problem(space.decode(space.sample(rng))) for _ in range(_NUM_REHEARSALS)]
        if all(problems):
            raise ConfigError(
                f"space: none of {_NUM_REHEARSALS} trials drawn at random can be built: "
                f"{problems[0]}"
            )

    def __call__(self, job: TrialJob) -> TrainingTrial:
        """Build the training of a job."""
        return TrainingTrial(job)

    def release(self) -> None:
        """Give memory back, on the device too."""
        release_memory()
