"""Exact verdicts on the members of a front: who gets them, when, and where they are recorded."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from toy_trials import toy_study

from analysis import load_front
from search import ExactVerdicts, Observer, StudyResult, TrialRecord, certify, certify_front
from search.certify import certification_budget
from search.records import SearchRun
from search.run import run_study
from search.tracking import MlflowTracker
from spaces import StudyConfig

FOUND = ExactVerdicts(0.8, 0.85, "ibp+exact", "validation", 20, 1, 2.5)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def result(tmp_path: Path, empty_store: Path) -> StudyResult:
    """A search that has ended: trials 0 and 2 are on its front, 1 is not."""
    shutil.copy(empty_store, tmp_path)
    study = toy_study(tmp_path)
    run = SearchRun(study, tmp_path, "local")
    (tmp_path / "study.yaml").write_text("name: toy\n")
    records = tuple(
        a_trial(study, number, verified_accuracy=verified, inference_flops=flops)
        for number, verified, flops in ((0, 0.6, 1e5), (1, 0.5, 1e6), (2, 0.7, 1e6))
    )
    tracker = MlflowTracker(study.tracking.uri)
    tracker.on_study_start(run, records)
    tracker.on_study_end(run, records)
    front = (records[0], records[2])
    return StudyResult(run, records, front, tracker.run_id, tracker.trial_run_ids)


def a_trial(study: StudyConfig, number: int, **metrics: float) -> TrialRecord:
    params = {"topology.method": "static", "topology.static.density": 0.5, "optimizer.lr": 0.01}
    config = study.search_space().decode(params)
    figures = {"natural_accuracy": 0.9, **metrics}
    how = {"split": "validation", "bound": "ibp", "num_examples": "20"}
    return TrialRecord(
        number, params, config, 1000.0, "completed", 3, figures, how, seconds=40.0, ended=1010.0
    )


class Listener(Observer):
    def __init__(self) -> None:
        self.started: list[tuple[list[int], list[int], float]] = []
        self.told: dict[int, ExactVerdicts | str] = {}

    def on_certify_start(
        self, known: Mapping[int, ExactVerdicts], members: Any, budget_s: float
    ) -> None:
        self.started.append((sorted(known), [r.number for r in members], budget_s))

    def on_certified(self, record: TrialRecord, found: ExactVerdicts | str) -> None:
        self.told[record.number] = found


def answer(monkeypatch: pytest.MonkeyPatch, answers: Mapping[int, ExactVerdicts | str]) -> list:
    """Let verdicts be `answers`; returns what was asked, with the seconds that it was given."""
    asked = []

    def verdicts(record: TrialRecord, limits: Any) -> ExactVerdicts | str:
        asked.append((record.number, round(limits.budget_s), limits.timeout_s))
        return answers[record.number]

    monkeypatch.setattr(certify, "_verdicts", verdicts)
    return asked


def test_each_member_is_judged_once_best_first_within_a_share_of_the_time(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, {0: FOUND, 2: FOUND})
    listener = Listener()
    certified = certify_front(result, observers=[listener], budget_s=100.0)
    # Half of the time for the first, and all that it left for the second.
    assert asked == [(2, 50, 60.0), (0, 100, 60.0)]
    assert listener.started == [([], [2, 0], 100.0)]
    assert certified.exact == {0: FOUND, 2: FOUND} == listener.told
    again = certify_front(result, observers=[listener], budget_s=100.0)
    assert listener.started[1] == ([0, 2], [], 100.0)
    assert (again.exact, len(asked)) == (certified.exact, 2)


def test_a_member_that_fails_holds_up_no_other_and_is_tried_again(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, {0: FOUND, 2: "time ran out"})
    listener = Listener()
    assert certify_front(result, observers=[listener]).exact == {0: FOUND}
    assert listener.told == {0: FOUND, 2: "time ran out"}
    asked = answer(monkeypatch, {2: FOUND})
    assert certify_front(result, observers=[listener]).exact == {0: FOUND, 2: FOUND}
    assert [number for number, *_ in asked] == [2]


def test_a_ticket_that_is_not_there_is_told(result: StudyResult) -> None:
    listener = Listener()
    assert certify_front(result, observers=[listener]).exact == {}
    assert listener.told == dict.fromkeys((0, 2), "the trial has left no ticket")


@pytest.mark.parametrize(("seconds", "budget"), [(1.0, 60.0), (100.0, 100.0), (1e5, 3600.0)])
def test_the_time_is_a_third_of_the_trials_within_limits(seconds: float, budget: float) -> None:
    trial = a_trial(toy_study(Path("nowhere")), 0)
    assert certification_budget([replace(trial, seconds=seconds)] * 3) == pytest.approx(budget)


# What is recorded ---------------------------------------------------------------------------------


def test_the_trials_run_gets_metrics_and_how_they_were_obtained(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, {0: "time ran out", 2: FOUND})
    certify_front(result)
    client = MlflowClient(result.study.tracking.uri)
    run = client.get_run(result.trial_run_ids[2])
    assert run.data.metrics["exact_verified_accuracy"] == 0.8
    assert run.data.metrics["exact_falsified_accuracy_bound"] == 0.85
    assert run.info.status == "FINISHED"
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("goldenticket.exact")}
    assert tags == {
        "goldenticket.exact_bound": "ibp+exact",
        "goldenticket.exact_split": "validation",
        "goldenticket.exact_num_examples": "20",
        "goldenticket.exact_num_unknown": "1",
        "goldenticket.exact_seconds": "2.5",
    }
    other = client.get_run(result.trial_run_ids[0])
    assert other.data.tags["goldenticket.exact_problem"] == "time ran out"
    assert "exact_verified_accuracy" not in other.data.metrics


def test_verdicts_that_the_store_lacks_are_filled_in(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, {0: FOUND, 2: FOUND})
    certify_front(result, observers=[])  # MLflow was away
    certify_front(result)
    client = MlflowClient(result.study.tracking.uri)
    for number in (0, 2):
        run = client.get_run(result.trial_run_ids[number])
        assert run.data.metrics["exact_verified_accuracy"] == 0.8
        history = client.get_metric_history(run.info.run_id, "exact_verified_accuracy")
        assert len(history) == 1


def test_a_front_shows_them_where_they_are_and_can_be_asked_for_them(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, {0: "time ran out", 2: FOUND})
    certify_front(result)
    uri = result.study.tracking.uri
    front = load_front("toy", tracking_uri=uri)
    assert front.provenance.endswith(
        "verified by ibp  ·  exact: by exact too, at most 1 of 20 open"
    )
    members = {member["number"]: member for member in json.loads(front.to_json())["members"]}
    assert members[2]["exact"] == {
        "bound": "ibp+exact", "split": "validation", "num_examples": 20, "num_unknown": 1,
        "seconds": 2.5,
    }  # fmt: skip
    assert members[0]["exact"] is None
    head, *rows = front.to_csv().splitlines()
    names = head.split(",")
    assert names.index("exact_verified_accuracy") < names.index("run_id")
    column = [row.split(",")[names.index("exact_verified_accuracy")] for row in rows]
    assert sorted(column) == ["", "0.8"]
    chosen = load_front("toy", tracking_uri=uri, where=["exact_verified_accuracy >= 0.75"])
    assert [trial.number for trial in chosen.candidates] == [2]


# The real thing -----------------------------------------------------------------------------------

TINY = {
    "model": {"family": "mlp", "widths": [16]},
    "topology": {"method": "static", "density": {"low": 0.4, "high": 0.9}},
    "optimizer": {"lr": 0.01},
}


@pytest.mark.slow
def test_a_search_ends_with_exact_verdicts_on_its_front(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path)
    settings = {
        "space": TINY,
        "evaluation": {"radius": 0.05, "examples": 40, "methods": ["ibp"]},
        "budget": {"trials": 2, "epochs": 3},
    }
    result = run_study(toy_study(tmp_path, **settings), "local")
    assert result.exact.keys() == {record.number for record in result.front}
    for record in result.front:
        exact = result.exact[record.number]
        assert record.metrics["verified_accuracy"] <= exact.verified_accuracy
        assert exact.verified_accuracy == exact.falsified_accuracy_bound
        assert (exact.num_unknown, exact.num_examples, exact.split) == (0, 40, "validation")
    assert json.loads((result.run.folder / "exact.json").read_text()).keys() == {
        str(number) for number in result.exact
    }
    off = {**settings, "evaluation": {**settings["evaluation"], "certify_front": False}}  # type: ignore[dict-item]
    resumed = run_study(toy_study(tmp_path, **off), "local", resume=True)  # it may be switched off
    assert resumed.exact == {}


@pytest.mark.slow
def test_a_trial_that_boasts_is_found_out(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path)
    evaluation = {"radius": 0.3, "examples": 40, "certify_front": False}
    budget = {"trials": 1, "epochs": 1}
    study = toy_study(tmp_path, space=TINY, evaluation=evaluation, budget=budget)
    result = run_study(study, "local")
    (record,) = result.front
    boaster = replace(record, metrics={**record.metrics, "verified_accuracy": 0.99})
    listener = Listener()
    certified = certify_front(replace(result, front=(boaster,)), observers=[listener])
    assert certified.exact == {}
    assert "claims verified_accuracy 0.9900, but counterexamples leave" in str(listener.told[0])
    # Without time, no figure stands that would be lower than the trial's own.
    late = replace(record, metrics={**record.metrics, "verified_accuracy": 0.05})
    certified = certify_front(replace(result, front=(late,)), observers=[listener], budget_s=0.0)
    assert certified.exact == {}
    assert str(listener.told[0]).startswith("time ran out with ")
