"""What Optuna is asked and told, and what the journal keeps."""

import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from toy_trials import toy_study

from search.records import TrialRecord
from search.sampling import JOURNAL, Sampling, build_sampler
from spaces import StudyConfig

METRICS = {"natural_accuracy": 0.9, "verified_accuracy": 0.7, "inference_flops": 1e6}


def asked(sampling: Sampling) -> TrialRecord:
    number, params = sampling.ask()
    return TrialRecord(number, params, sampling.space.decode(params), started=100.0)


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return toy_study(tmp_path, constraints=["natural_accuracy >= 0.85"])


def test_a_completed_trial_is_told_with_its_values_and_constraints(
    study: StudyConfig, tmp_path: Path
) -> None:
    sampling = Sampling(study, tmp_path)
    sampling.tell(replace(asked(sampling), state="completed", metrics=METRICS))
    (trial,) = sampling.optuna_study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [0.9, 0.7, 1e6]
    assert trial.constraints == {"natural_accuracy >= 0.85": pytest.approx(-0.05)}
    directions = [direction.name for direction in sampling.optuna_study.directions]
    assert directions == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]


def test_a_stopped_trial_is_pruned_without_values_and_a_failed_one_fails(
    study: StudyConfig, tmp_path: Path
) -> None:
    sampling = Sampling(study, tmp_path)
    sampling.tell(replace(asked(sampling), state="stopped", metrics=METRICS))
    sampling.tell(replace(asked(sampling), state="failed", reason="Traceback: boom"))
    sampling.tell(replace(asked(sampling), state="stopped", interrupted=True))
    states = [trial.state for trial in sampling.optuna_study.trials]
    assert states == [TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert all(trial.values is None for trial in sampling.optuna_study.trials)
    assert sampling.optuna_study.best_trials == []


def test_the_journal_gives_records_back(study: StudyConfig, tmp_path: Path) -> None:
    before = Sampling(study, tmp_path)
    completed = replace(
        asked(before),
        state="completed",
        metrics=METRICS,
        provenance={"bound": "ibp"},
        ended=110.0,
        seconds=9.5,
        epochs=3,
        ticket=tmp_path / "ticket",
    )
    before.tell(completed)
    failed = replace(asked(before), state="failed", reason="boom", metrics={"epoch": math.nan})
    before.tell(failed)
    after = Sampling(study, tmp_path).history()
    assert after[0] == completed
    assert after[1].reason == "boom"
    assert math.isnan(after[1].metrics["epoch"])


def test_a_trial_that_was_left_running_is_failed_and_counts_as_interrupted(
    study: StudyConfig, tmp_path: Path
) -> None:
    before = Sampling(study, tmp_path)
    asked(before)
    after = Sampling(study, tmp_path)
    (record,) = after.history()
    assert (record.state, record.interrupted) == ("stopped", True)
    assert after.optuna_study.trials[0].state == TrialState.FAIL
    (again,) = Sampling(study, tmp_path).history()
    assert again.interrupted


def test_rung_scores_outlive_the_process(study: StudyConfig, tmp_path: Path) -> None:
    before = Sampling(study, tmp_path)
    record = asked(before)
    before.note_rung(record.number, 3, 0.25)
    before.note_rung(record.number, 9, math.nan)
    scores = list(Sampling(study, tmp_path).rung_scores())
    assert scores[0] == (0, 3, 0.25)
    assert scores[1][:2] == (0, 9)
    assert math.isnan(scores[1][2])


def test_a_half_written_last_line_is_dropped(study: StudyConfig, tmp_path: Path) -> None:
    before = Sampling(study, tmp_path)
    before.tell(replace(asked(before), state="completed", metrics=METRICS))
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes() + b'{"op_code": 4, "work')
    after = Sampling(study, tmp_path)
    assert [record.state for record in after.history()] == ["completed"]
    after.tell(replace(asked(after), state="completed", metrics=METRICS))
    assert len(Sampling(study, tmp_path).history()) == 2


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_the_seed_fixes_what_is_proposed_and_a_resumed_search_goes_on(
    name: str, tmp_path: Path
) -> None:
    study = toy_study(tmp_path, sampler={"name": name}, seed=7)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = Sampling(study, tmp_path / "a"), Sampling(study, tmp_path / "b")
    params = [first.ask()[1] for _ in range(3)]
    assert params == [second.ask()[1] for _ in range(3)]
    resumed = Sampling(study, tmp_path / "a")
    assert resumed.ask()[1] not in params


def test_samplers_are_those_that_the_study_names(tmp_path: Path) -> None:
    kinds = {"tpe": "TPESampler", "nsga2": "NSGAIISampler", "random": "RandomSampler"}
    for name, kind in kinds.items():
        sampler = build_sampler(toy_study(tmp_path, sampler={"name": name}))
        assert type(sampler) is getattr(optuna.samplers, kind)
