"""Questions to a tracking store: the right trials, and errors that help."""

import csv
import io
import json
from pathlib import Path

import pytest

from analysis.errors import FrontError
from analysis.front import load_front
from analysis.store import read_study

STUDY = """
name: digits
data: {name: digits}
evaluation: {radius: 0.05}
objectives: [verified_accuracy, inference_flops]
budget: {trials: 8, epochs: 2}
space: {model: {family: mlp, widths: {choice: [[8], [16]]}}}
tracking: {uri: "URI"}
"""


def numbers(trials) -> list[int]:
    return [trial.number for trial in trials]


def test_the_front_holds_completed_trials_that_no_other_one_dominates(store) -> None:
    front = load_front("digits", tracking_uri=store.uri)
    assert numbers(front.members) == [1, 6, 0, 2]
    assert front.objectives == ("natural_accuracy", "verified_accuracy", "inference_flops")


def test_a_stopped_trial_never_enters_however_good_its_figures(store) -> None:
    front = load_front("digits", tracking_uri=store.uri)
    assert 4 not in numbers(front.candidates)
    assert front.study.count("stopped") == 1
    assert front.study.count("failed") == 1


def test_a_completed_trial_without_an_objective_takes_no_part_and_is_listed(store) -> None:
    front = load_front("digits", tracking_uri=store.uri)
    assert numbers(front.unranked) == [7]
    assert json.loads(front.to_json())["num_unranked"] == 1


def test_the_newest_search_counts_unless_another_is_named(store) -> None:
    older = load_front("digits", tracking_uri=store.uri, study_run=store.runs["digits older"])
    assert numbers(older.members) == [0]
    assert older.members[0].metrics["verified_accuracy"] == 1.0
    together = load_front("digits", tracking_uri=store.uri, study_run="all")
    assert len(together.candidates) == 6
    with pytest.raises(FrontError, match="no search with run id 'abc'"):
        load_front("digits", tracking_uri=store.uri, study_run="abc")


def test_constraints_are_applied_before_the_front_is_taken(store) -> None:
    where = ["natural_accuracy < 0.95", "inference_flops <= 1000"]
    front = load_front("digits", tracking_uri=store.uri, where=where)
    assert numbers(front.candidates) == [2, 3]
    assert numbers(front.members) == [2]


def test_objectives_are_the_callers_or_the_studys_own(store) -> None:
    one = load_front("digits", tracking_uri=store.uri, objectives=["verified_accuracy"])
    assert numbers(one.members) == [1]
    other = load_front("other", tracking_uri=store.uri)
    assert other.objectives == ("verified_accuracy", "density")


def test_a_study_file_gives_name_store_and_objectives(store, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("URI", store.uri))
    front = load_front(path)
    assert front.study.name == "digits"
    assert front.objectives == ("verified_accuracy", "inference_flops")
    assert numbers(load_front(str(path)).members) == numbers(front.members)


@pytest.mark.parametrize(
    ("rule", "number"), [("verified", 1), ("natural", 0), ("smallest", 2), ("knee", 0)]
)
def test_rules_pick_one_trial(store, rule: str, number: int) -> None:
    # Knee: scaled costs of 1, 6, 0, 2 are (.5,0,1) (.2,.04,.72) (0,.2,.44) (1,1,0); 0 is nearest.
    assert load_front("digits", tracking_uri=store.uri).best(rule).number == number


def test_smallest_means_among_those_that_satisfy_where_whatever_the_objectives(store) -> None:
    front = load_front(
        "digits",
        tracking_uri=store.uri,
        where=["verified_accuracy >= 0.8"],
        objectives=["verified_accuracy"],
    )
    assert numbers(front.members) == [1]
    assert front.best("smallest").number == 0


def test_an_unknown_rule_is_told_with_the_known_ones(store) -> None:
    with pytest.raises(FrontError, match="'largest': use verified, natural, smallest or knee"):
        load_front("digits", tracking_uri=store.uri).best("largest")


def test_json_says_how_the_figures_were_obtained(store) -> None:
    document = json.loads(load_front("digits", tracking_uri=store.uri).to_json())
    assert document["study"] == "digits"
    assert document["split"] == "validation"
    assert document["radius"] == 0.05
    assert document["bound"] == "ibp+crown"
    assert document["num_examples"] == 300
    assert document["objectives"]["inference_flops"] == "minimize"
    assert document["members"][0]["run_id"] == store.runs["digits/1"]
    assert document["members"][0]["metrics"]["verified_accuracy"] == 0.85


def test_csv_has_a_row_per_member(store) -> None:
    front = load_front("digits", tracking_uri=store.uri)
    rows = list(csv.DictReader(io.StringIO(front.to_csv())))
    assert [int(row["number"]) for row in rows] == [1, 6, 0, 2]
    assert rows[0]["verified_accuracy"] == "0.85"
    assert rows[0]["run_id"] == store.runs["digits/1"]


def test_hypervolume_needs_a_reference_for_each_objective(store) -> None:
    front = load_front(
        "digits", tracking_uri=store.uri, objectives=["verified_accuracy", "inference_flops"]
    )
    # (0.6, 200), (0.8, 1000), (0.84, 1500), (0.85, 2000) above (0, 2500).
    volume = 0.6 * 2300 + 0.2 * 1500 + 0.04 * 1000 + 0.01 * 500
    reference = {"verified_accuracy": 0.0, "inference_flops": 2500.0}
    assert front.hypervolume(reference) == pytest.approx(volume)
    with pytest.raises(FrontError, match="no value for inference_flops"):
        front.hypervolume({"verified_accuracy": 0.0})


# What goes wrong


def test_an_unknown_study_is_told_with_those_that_exist(store) -> None:
    with pytest.raises(FrontError, match="'digit'.*did you mean 'digits'.*bare, digits, other"):
        load_front("digit", tracking_uri=store.uri)


def test_a_name_that_would_break_a_query_is_just_unknown(store) -> None:
    with pytest.raises(FrontError, match="no study is called"):
        load_front("x' OR '1'='1", tracking_uri=store.uri)


def test_a_study_without_completed_trials_says_what_there_is(store) -> None:
    with pytest.raises(FrontError, match="no completed trial yet .1 recorded: 1 stopped early"):
        load_front("bare", tracking_uri=store.uri)


def test_constraints_that_none_satisfies_name_the_nearest_and_by_how_much(store) -> None:
    with pytest.raises(FrontError) as caught:
        load_front(
            "digits",
            tracking_uri=store.uri,
            where=["verified_accuracy >= 0.9", "natural_accuracy >= 0.9"],
        )
    message = str(caught.value)
    assert "nearest is trial 1" in message
    assert store.runs["digits/1"] in message
    assert "verified_accuracy >= 0.9 (it has 0.85, which misses by 0.05)" in message
    assert "fails natural_accuracy" not in message


def test_a_constraint_on_a_metric_that_was_not_recorded_is_not_satisfied(store) -> None:
    with pytest.raises(FrontError, match="is not recorded"):
        load_front("digits", tracking_uri=store.uri, where=["training_flops <= 10"])


def test_a_missing_database_is_told_and_not_created(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(FrontError, match=r"no tracking store mlflow.db .*--tracking-uri"):
        load_front("digits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"a diary"])
def test_a_file_that_is_no_tracking_store_is_told_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(content)
    with pytest.raises(FrontError, match="mlflow.db cannot be read as an MLflow database"):
        load_front("digits", tracking_uri=f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_a_run_is_found_by_the_beginning_of_its_id(store) -> None:
    study = read_study("digits", tracking_uri=store.uri)
    run = store.runs["digits/1"]
    assert study.trial(run).number == 1
    assert study.trial(run[:12]).number == 1
    with pytest.raises(FrontError, match="has no run 'xyz'"):
        study.trial("xyz")
    with pytest.raises(FrontError, match="has no run ''"):
        study.trial("")


def test_more_trials_than_one_page_are_all_read(store, monkeypatch) -> None:
    monkeypatch.setattr("analysis.store._PAGE", 3)
    assert len(read_study("digits", tracking_uri=store.uri).trials) == 8
