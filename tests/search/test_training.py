"""The real trial, as a search runs it."""

from pathlib import Path

import pytest
from toy_trials import toy_study

from analysis import load_ticket
from search import run_study
from search.training import TrainingFactory
from spaces import ConfigError, StudyConfig
from trainers.errors import DataError

EVALUATION = {"radius": 0.05, "examples": 20, "attack_steps": 2, "methods": ["ibp"]}


@pytest.mark.slow
def test_a_search_of_real_trainings_leaves_tickets_that_load(tmp_path: Path) -> None:
    study = toy_study(tmp_path, evaluation=EVALUATION, budget={"trials": 2, "epochs": 2})
    result = run_study(study, "local")
    for record in result.records:
        assert record.state == "completed", record.reason
        assert record.ticket is not None
        ticket = load_ticket(record.ticket)
        assert ticket.config == record.config
        assert ticket.metrics["verified_accuracy"] == record.metrics["verified_accuracy"]
        assert record.provenance["num_examples"] == "20"
        assert record.metrics["training_flops"] > 0


def test_missing_data_are_told_before_anything_starts(tmp_path: Path) -> None:
    data = {"name": "npz", "path": str(tmp_path / "none.npz")}
    study = toy_study(tmp_path, data=data)
    with pytest.raises((DataError, ConfigError), match="none.npz"):
        TrainingFactory().prepare(study)


def test_holes_in_augment_do_not_matter_to_the_check(tmp_path: Path) -> None:
    data = {"name": "digits", "augment": {"shift": {"low": 0, "high": 2}}}
    TrainingFactory().prepare(toy_study(tmp_path, data=data))


def test_a_study_of_which_no_trial_can_be_built_is_refused_before_it_starts() -> None:
    study = StudyConfig.from_dict(
        {
            "name": "impossible",
            "data": {"name": "digits"},
            "evaluation": {"radius": 0.05},
            "space": {"model": {"family": "cnn", "channels": [4, 4, 4, 4, 4]}},
            "budget": {"trials": 1, "epochs": 1},
        }
    )
    with pytest.raises(ConfigError, match="none of 3 trials drawn at random can be built: .*conv"):
        TrainingFactory().prepare(study)
