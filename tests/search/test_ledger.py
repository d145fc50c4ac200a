"""What becomes of a trial, whatever the executor."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_trials import toy_study

from search.ledger import Ledger
from search.records import Observer, SearchRun, TrialRecord
from search.sampling import Sampling
from search.trial import Measurement, Report


class Diary(Observer):
    def __init__(self) -> None:
        self.events: list[tuple[str, int, str]] = []

    def on_trial_start(self, record: TrialRecord) -> None:
        self.events.append(("start", record.number, record.state))

    def on_report(self, record: TrialRecord) -> None:
        self.events.append(("report", record.number, record.state))

    def on_trial_pause(self, record: TrialRecord) -> None:
        self.events.append(("pause", record.number, record.state))

    def on_trial_end(self, record: TrialRecord) -> None:
        self.events.append(("end", record.number, record.state))


def open_ledger(folder: Path, *observers: Observer, **changes: Any) -> Ledger:
    study = toy_study(folder, **changes)
    return Ledger(SearchRun(study, folder, "local"), Sampling(study, folder), observers)


def epoch(number: int, score: float = 0.5) -> Report:
    return Report(number, Measurement({"epoch": float(number), "rung_score": score}), seconds=2.0)


def last(verified: float = 0.5, natural: float = 0.9, flops: float = 1.0) -> Report:
    metrics = {
        "epoch": 3.0,
        "natural_accuracy": natural,
        "verified_accuracy": verified,
        "inference_flops": flops,
    }
    return Report(3, Measurement(metrics, {"bound": "ibp"}), finished=True, seconds=1.0)


def test_a_trial_that_runs_to_its_end_is_completed(tmp_path: Path) -> None:
    diary = Diary()
    ledger = open_ledger(tmp_path, diary)
    job = ledger.ask()
    assert job is not None
    assert job.ticket == tmp_path / "tickets" / "trial_0"
    assert ledger.report(0, epoch(1))
    assert not ledger.report(0, last())
    (record,) = ledger.records
    assert (record.state, record.epochs, record.seconds) == ("completed", 3, 3.0)
    assert record.metrics["rung_score"] == 0.5
    assert record.provenance == {"bound": "ibp"}
    assert [event[0] for event in diary.events] == ["start", "report", "report", "end"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_objective_that_is_not_finite_fails_the_trial(tmp_path: Path, value: float) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    assert not ledger.report(0, last(verified=value))
    assert ledger.records[0].state == "failed"
    assert f"verified_accuracy is {value}" in str(ledger.records[0].reason)


def test_a_missing_constraint_metric_fails_the_trial(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, constraints=["density <= 0.5"])
    ledger.ask()
    ledger.report(0, last())
    assert ledger.records[0].state == "failed"
    assert "density is missing" in str(ledger.records[0].reason)


def test_an_error_ends_the_trial_and_keeps_its_traceback(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    ledger.report(0, epoch(1))
    assert not ledger.report(0, Report(1, error="Traceback ...\nValueError: boom"))
    record = ledger.records[0]
    assert (record.state, record.epochs) == ("failed", 1)
    assert str(record.reason).endswith("boom")


def test_rungs_stop_trials_and_are_rebuilt_when_the_search_is_resumed(tmp_path: Path) -> None:
    asha = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2}
    ledger = open_ledger(tmp_path, scheduler=asha)
    ledger.ask()
    assert ledger.report(0, epoch(1, score=0.8))
    ledger.report(0, epoch(2, score=0.8))
    ledger.report(0, last())
    ledger.ask()
    assert not ledger.report(1, epoch(1, score=0.7))
    assert ledger.records[1].state == "stopped"
    assert "trials at this rung (rung_score 0.7)" in str(ledger.records[1].reason)

    resumed = open_ledger(tmp_path, scheduler=asha)
    assert [record.state for record in resumed.records] == ["completed", "stopped"]
    resumed.ask()
    assert not resumed.report(2, epoch(1, score=0.75))
    resumed.ask()
    assert resumed.report(3, epoch(1, score=0.9))


def test_a_trial_whose_worker_is_lost_comes_out_again_before_new_ones(tmp_path: Path) -> None:
    diary = Diary()
    ledger = open_ledger(tmp_path, diary)
    first = ledger.ask()
    ledger.report(0, epoch(1))
    ledger.report(0, epoch(2))
    assert ledger.fail(0, "its process died")
    assert ledger.records[0].state == "interrupted"
    assert not ledger.is_done
    assert first is not None
    assert ledger.ask() == replace(first, epochs=2)
    assert ledger.report(0, epoch(2))  # done again: nobody is told twice
    assert not ledger.report(0, last())
    assert ledger.records[0].state == "completed"
    assert ledger.records[0].lost_workers == 1
    assert [event[0] for event in diary.events] == [
        "start", "report", "report", "pause", "start", "report", "end",
    ]  # fmt: skip
    following = ledger.ask()
    assert following is not None
    assert following.number == 1


def test_a_trial_that_loses_too_many_workers_fails(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, budget={"trials": 1, "epochs": 3, "retries": 2})
    for state in ("interrupted", "interrupted", "failed"):
        assert ledger.ask() is not None
        ledger.fail(0, "its process died")
        assert ledger.records[0].state == state
    assert "after 2 more attempts" in str(ledger.records[0].reason)
    assert ledger.is_done


def test_an_exception_that_comes_back_word_for_word_is_the_trials_own(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for state in ("interrupted", "failed"):
        ledger.ask()
        error = f"Traceback in process {state}\nRuntimeError: shapes differ"
        ledger.report(0, Report(1, error=error, fault="worker"))
        assert ledger.records[0].state == state


def test_the_budget_counts_every_trial_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, budget={"trials": 3, "epochs": 3})
    ledger.ask()
    ledger.report(0, last())
    ledger.ask()
    ledger.report(1, Report(1, error="ValueError: boom"))
    ledger.ask()
    assert ledger.ask() is None
    assert not ledger.is_done, "the third is running"
    ledger.close()
    assert [r.state for r in ledger.records] == ["completed", "failed", "interrupted"]
    assert not ledger.is_finished
    resumed = open_ledger(tmp_path, budget={"trials": 3, "epochs": 3})
    assert resumed.num_left == 0
    job = resumed.ask()
    assert job is not None
    assert job.number == 2
    assert resumed.ask() is None
    resumed.report(2, last())
    assert resumed.is_finished


def test_a_trial_that_takes_too_long_fails(tmp_path: Path) -> None:
    limits = {"trials": 2, "epochs": 3, "trial_time_s": 10.0}
    ledger = open_ledger(tmp_path, budget=limits)
    ledger.ask()
    ledger.report(0, epoch(1))  # 2 s
    assert not ledger.expire(0, 8.0)
    assert ledger.expire(0, 8.1)
    reason = str(ledger.records[0].reason)
    assert reason.startswith("it ran longer than budget.trial_time_s (10 s): 2 s in 1 epochs")
    assert not ledger.fail(0, "killed"), "it has ended already"
    ledger.ask()
    assert not ledger.report(1, Report(1, epoch(1).measurement, seconds=11.0))
    assert ledger.records[1].state == "failed"


def test_a_full_disk_closes_the_search(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    error = "Traceback\nOSError: [Errno 28] No space left on device"
    assert not ledger.report(0, Report(1, error=error, fault="storage"))
    assert ledger.ask() is None
    assert ledger.is_done
    assert ledger.problem == "OSError: [Errno 28] No space left on device"
    assert ledger.records[0].state == "interrupted"


def test_no_trial_starts_after_the_wall_time(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, budget={"trials": 3, "epochs": 3, "wall_time_s": 1e-9})
    assert ledger.ask() is None


def test_a_worker_that_fails_after_the_end_changes_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    ledger.report(0, last())
    assert not ledger.fail(0, "died")
    assert ledger.records[0].state == "completed"


def test_parameters_that_make_no_valid_trial_fail_and_the_next_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary = Diary()
    ledger = open_ledger(tmp_path, diary)
    decode = ledger._sampling.space.decode
    calls: list[int] = []

    def refuse_the_first(params: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("ramp_end (0.1) must be greater than warmup (0.2)")
        return decode(params)

    monkeypatch.setattr(ledger._sampling.space, "decode", refuse_the_first)
    job = ledger.ask()
    assert job is not None
    assert job.number == 1
    assert ledger.records[0].state == "failed"
    assert "ramp_end" in str(ledger.records[0].reason)
    assert diary.events == [("start", 0, "running"), ("end", 0, "failed"), ("start", 1, "running")]
