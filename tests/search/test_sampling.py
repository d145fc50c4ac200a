"""What Optuna is asked and told, and what the journal keeps."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from toy_trials import toy_study

from search.records import TrialRecord
from search.sampling import JOURNAL, Sampling
from search.tpe import Tpe
from spaces import StudyConfig

METRICS = {"natural_accuracy": 0.9, "verified_accuracy": 0.7, "inference_flops": 1e6}


def asked(sampling: Sampling) -> TrialRecord:
    number, params = sampling.ask()
    return TrialRecord(number, params, sampling.space.decode(params), started=100.0)


def good(sampling: Sampling) -> list[int]:
    """Numbers, in the study, of the trials that its TPE would now take for good."""
    sampler, study = sampling.optuna_study.sampler, sampling.optuna_study
    assert isinstance(sampler, Tpe)
    return [trial.number for trial in sampler.divide(study, study.trials)[0]]


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
    sampling.note(replace(asked(sampling), state="interrupted"))
    states = [trial.state for trial in sampling.optuna_study.trials]
    assert states == [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
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
        ticket=tmp_path / "tickets" / "trial_0",
    )
    before.tell(completed)
    failed = replace(asked(before), state="failed", reason="boom", metrics={"epoch": math.nan})
    before.tell(failed)
    after = Sampling(study, tmp_path).history()
    assert after[0] == completed
    assert after[1].reason == "boom"
    assert math.isnan(after[1].metrics["epoch"])


def test_a_trial_that_was_left_running_is_interrupted_and_can_be_told_later(
    study: StudyConfig, tmp_path: Path
) -> None:
    before = Sampling(study, tmp_path)
    first, second = asked(before), asked(before)
    before.note(replace(second, state="paused", epochs=2, lost_workers=1))
    after = Sampling(study, tmp_path)
    unknown, noted = after.history()
    assert (unknown.state, unknown.params, unknown.epochs) == ("interrupted", first.params, 0)
    assert unknown.config == first.config
    assert (noted.state, noted.epochs, noted.lost_workers) == ("paused", 2, 1)
    after.tell(replace(unknown, state="completed", metrics=METRICS))
    states = [trial.state for trial in after.optuna_study.trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING]


def test_a_trial_that_was_still_being_proposed_is_forgotten(
    study: StudyConfig, tmp_path: Path
) -> None:
    Sampling(study, tmp_path).optuna_study.ask()
    after = Sampling(study, tmp_path)
    assert after.history() == []
    assert after.optuna_study.trials[0].state == TrialState.FAIL


def test_an_end_that_was_noted_but_not_told_is_told(study: StudyConfig, tmp_path: Path) -> None:
    before = Sampling(study, tmp_path)
    before.note(replace(asked(before), state="completed", metrics=METRICS))
    after = Sampling(study, tmp_path)
    assert [record.state for record in after.history()] == ["completed"]
    assert after.optuna_study.trials[0].values == [0.9, 0.7, 1e6]


def test_rung_views_outlive_the_process(study: StudyConfig, tmp_path: Path) -> None:
    before = Sampling(study, tmp_path)
    record = asked(before)
    before.note_rung(record.number, 3, (0.25, 7.0))
    before.note_rung(record.number, 9, (math.nan,))
    views = list(Sampling(study, tmp_path).rung_views())
    assert views[0] == (0, 3, (0.25, 7.0))
    assert views[1][:2] == (0, 9)
    assert math.isnan(views[1][2][0])


def test_the_sampler_of_a_resumed_search_reads_the_rungs_where_trials_wait(tmp_path: Path) -> None:
    study = toy_study(
        tmp_path,
        sampler={"name": "tpe"},
        scheduler={"name": "moasha", "variant": "promotion", "grace_epochs": 1},
    )
    before = Sampling(study, tmp_path)
    for score in (0.1, 0.5, 0.3, 0.4, 0.2):
        record = asked(before)
        before.note_rung(record.number, 1, (-score, -score, 1e6, 0.0))
        before.note(replace(record, state="paused"))
    assert good(Sampling(study, tmp_path)) == [1, 3]


def test_a_half_written_last_line_is_dropped(study: StudyConfig, tmp_path: Path) -> None:
    before = Sampling(study, tmp_path)
    before.tell(replace(asked(before), state="completed", metrics=METRICS))
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes() + b'{"op_code": 4, "work')
    after = Sampling(study, tmp_path)
    assert [record.state for record in after.history()] == ["completed"]
    after.tell(replace(asked(after), state="completed", metrics=METRICS))
    assert len(Sampling(study, tmp_path).history()) == 2


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "gp", "random", "qmc"])
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
