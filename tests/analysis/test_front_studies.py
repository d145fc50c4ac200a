"""Questions to several studies at once, and to several seeds of one configuration."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import FrontError
from analysis.export import export_ticket
from analysis.front import load_front, read_studies
from analysis.plots import plot_front


def figures(natural: float, verified: float, flops: float, **more: float | str) -> dict[str, Any]:
    metrics = {"natural_accuracy": natural, "verified_accuracy": verified, "inference_flops": flops}
    return {**metrics, **{name.replace("__", "."): value for name, value in more.items()}}


# Several studies ----------------------------------------------------------------------------------


def test_trials_of_several_studies_make_one_front_whose_rows_say_their_study(many) -> None:
    many.study("wide", figures(0.95, 0.8, 1000), figures(0.9, 0.7, 900))
    many.study("deep", figures(0.9, 0.7, 500), figures(0.96, 0.6, 2000), data__folder="elsewhere")
    front = load_front(["wide", "deep"], tracking_uri=many.uri)
    assert [(t.study, t.number) for t in front.members] == [("wide", 0), ("deep", 0), ("deep", 1)]
    assert front.study.name == "wide, deep"
    document = json.loads(front.to_json())
    assert [m["study"] for m in document["members"]] == ["wide", "deep", "deep"]
    assert [s["study"] for s in document["studies"]] == ["wide", "deep"]
    assert [s["num_completed"] for s in document["studies"]] == [2, 2]
    assert document["num_completed"] == 4
    rows = list(csv.DictReader(io.StringIO(front.to_csv())))
    assert [row["study"] for row in rows] == ["wide", "deep", "deep"]
    assert load_front(["wide", "deep"], tracking_uri=many.uri).best("smallest").study == "deep"
    assert front.labels() == {
        trial.run_id: f"{trial.study}/{trial.number}" for trial in front.members
    }


def test_the_first_study_gives_the_objectives_and_all_must_have_them(many) -> None:
    many.study("a", figures(0.9, 0.7, 500, density=0.5), objectives="verified_accuracy,density")
    many.study("b", figures(0.8, 0.9, 100, density=0.1))
    front = load_front(["a", "b"], tracking_uri=many.uri)
    assert front.objectives == ("verified_accuracy", "density")
    assert [trial.study for trial in front.members] == ["b"]
    many.study("bare", figures(0.8, 0.9, 100))
    with pytest.raises(FrontError, match="no completed trial of study 'bare' has recorded density"):
        load_front(["a", "bare"], tracking_uri=many.uri)
    assert len(load_front(["bare", "a"], tracking_uri=many.uri).members) == 2


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"data__name": "mnist5k"}, ["data.name is digits in a and mnist5k in b"]),
        ({"data__split_seed": "3"}, ["data.split_seed is 0 in a and 3 in b"]),
        ({"split": "test"}, ["split is validation in a and test in b"]),
        ({"num_examples": "100"}, ["number of examples is 300 in a and 100 in b"]),
        ({"evaluation__radius": "0.1"}, ["evaluation.radius is 0.05 in a and 0.1 in b"]),
        ({"bound": "ibp"}, ["bound of verified_accuracy is ibp+crown in a and ibp in b"]),
    ],
)
def test_studies_that_were_measured_differently_are_refused(
    many, changes: dict[str, str], values: list[str]
) -> None:
    many.study("a", figures(0.9, 0.7, 500))
    many.study("b", figures(0.9, 0.7, 500), **changes)
    with pytest.raises(FrontError, match="studies 'a' and 'b' cannot be put into one") as caught:
        load_front(["a", "b"], tracking_uri=many.uri)
    assert all(value in str(caught.value) for value in values)


def test_searches_of_one_study_that_were_measured_differently_are_refused(many) -> None:
    many.study("a", figures(0.9, 0.7, 500))
    many.study("a", figures(0.9, 0.7, 500), evaluation__radius="0.1")
    assert len(load_front("a", tracking_uri=many.uri).members) == 1
    with pytest.raises(FrontError, match="two searches of study 'a'.*radius is 0.05.*and 0.1"):
        load_front("a", tracking_uri=many.uri, study_run="all")


def test_constraints_that_no_trial_satisfies_name_the_study_of_the_nearest(many) -> None:
    many.study("a", figures(0.9, 0.7, 500))
    many.study("b", figures(0.9, 0.75, 500))
    with pytest.raises(FrontError, match=r"trial 0 \(run .* of study b\).*misses by 0.05"):
        load_front(["a", "b"], tracking_uri=many.uri, where=["verified_accuracy >= 0.8"])


def test_what_cannot_be_read_together_is_told(many) -> None:
    (run,) = many.study("a", figures(0.9, 0.7, 500))
    many.study("b", figures(0.9, 0.7, 500))
    with pytest.raises(FrontError, match="no study is named"):
        load_front([], tracking_uri=many.uri)
    with pytest.raises(FrontError, match="study 'a' is named twice"):
        load_front(["a", "b", "a"], tracking_uri=many.uri)
    with pytest.raises(FrontError, match="study_run abc is a search of one study, but 2"):
        load_front(["a", "b"], tracking_uri=many.uri, study_run="abc")
    with pytest.raises(FrontError, match="no study is called 'c'"):
        load_front(["a", "c"], tracking_uri=many.uri)
    together = read_studies(["b", "a"], tracking_uri=many.uri)
    assert together.trial(run).study == "a"
    with pytest.raises(FrontError, match="study 'b, a' has no run 'xyz': `goldenticket front b a`"):
        together.trial("xyz")


def test_a_ticket_is_exported_from_the_study_that_has_it(many, store, tmp_path: Path) -> None:
    many.study("a", figures(0.5, 0.1, 5000))
    with pytest.raises(FrontError, match="has no ticket"):
        export_ticket(["a"], tmp_path / "t", best="verified", tracking_uri=many.uri)
    options = {"tracking_uri": store.uri, "routes": ()}
    run = store.runs["digits/1"]
    folder = export_ticket(["other", "digits"], tmp_path / "t", run=run, **options)
    assert (folder / "ticket.json").exists()
    again = export_ticket(["digits", "other"], tmp_path / "u", best="verified", **options)
    assert (again / "ticket.json").read_bytes() == (folder / "ticket.json").read_bytes()


def test_several_studies_are_drawn(many, tmp_path: Path) -> None:
    many.study("wide", figures(0.95, 0.8, 1000))
    many.study("deep", figures(0.9, 0.7, 500))
    page = plot_front(load_front(["wide", "deep"], tracking_uri=many.uri), tmp_path / "f.html")
    text = page.read_text()
    assert "<td>deep</td>" in text
    assert "wide, deep: 2 of 2 completed trials on the front" in text


# Seeds --------------------------------------------------------------------------------------------


def test_seeds_of_a_configuration_are_one_row_and_the_front_is_that_of_means(many) -> None:
    # Alone, seed 1 of the first would be the best; on average the second configuration is.
    for seed, first, second in (("0", 0.70, 0.82), ("1", 0.86, 0.84)):
        many.study(
            "mlp",
            figures(0.9, first, 1000, model__widths="[8]", seed=seed, compute__threads=seed),
            figures(0.9, second, 1000, model__widths="[16]", seed=seed),
        )
    options = {"tracking_uri": many.uri, "study_run": "all"}
    assert [t.metrics["verified_accuracy"] for t in load_front("mlp", **options).members] == [0.86]
    front = load_front("mlp", group_seeds=True, **options)
    (member,) = front.members
    assert member.metrics["verified_accuracy"] == pytest.approx(0.83)
    assert [run.params["seed"] for run in member.runs] == ["0", "1"]
    assert member.run_id == member.runs[1].run_id  # the best verified one
    assert len(front.candidates) == 2
    assert front.best("smallest").metrics["verified_accuracy"] == pytest.approx(0.83)

    document = json.loads(front.to_json())
    assert document["grouped_by_seed"]
    (group,) = document["members"]
    assert group["num_seeds"] == 2
    assert (group["lowest"]["verified_accuracy"], group["highest"]["verified_accuracy"]) == (
        0.82,
        0.84,
    )
    assert [run["seed"] for run in group["runs"]] == ["0", "1"]
    assert group["intervals"] == {}
    (row,) = csv.DictReader(io.StringIO(front.to_csv()))
    assert row["seeds"] == "2"
    assert (row["verified_accuracy_lowest"], row["verified_accuracy_highest"]) == ("0.82", "0.84")


def test_constraints_are_on_the_means_of_seeds(many) -> None:
    many.study("mlp", *(figures(0.9, v, 1000, seed=f"{v}") for v in (0.7, 0.9)))
    options = {"tracking_uri": many.uri, "group_seeds": True}
    assert len(load_front("mlp", where=["verified_accuracy >= 0.79"], **options).members) == 1
    with pytest.raises(FrontError, match="none of the 1 configurations.*it has 0.8,"):
        load_front("mlp", where=["verified_accuracy >= 0.85"], **options)


def test_seeds_may_be_in_several_studies(many) -> None:
    many.study("first", figures(0.9, 0.7, 1000, seed="0"))
    many.study("second", figures(0.9, 0.8, 1000, seed="1"))
    front = load_front(["first", "second"], tracking_uri=many.uri, group_seeds=True)
    assert [trial.study for trial in front.members] == ["first, second"]


def test_of_runs_with_one_seed_the_last_counts(many) -> None:
    for verified in (0.1, 0.7):
        many.study("mlp", figures(0.9, verified, 1000, seed="0"))
    options = {"tracking_uri": many.uri, "study_run": "all"}
    front = load_front("mlp", group_seeds=True, **options)
    assert [t.metrics["verified_accuracy"] for t in front.members] == [0.7]
    assert front.num_repeats == 1
    assert "1 runs repeat the configuration and seed" in front.notes[1]


def test_settings_that_were_cut_off_are_not_taken_to_be_the_same(many) -> None:
    cut = "1," * 248 + "..."
    many.study("mlp", *(figures(0.9, 0.7, 1000, seed=s, long=cut + "x") for s in "01"))
    front = load_front("mlp", tracking_uri=many.uri, group_seeds=True)
    assert [len(trial.runs) for trial in front.candidates] == [1, 1]


def test_a_run_that_is_gone_is_not_in_a_group(many) -> None:
    runs = many.study("mlp", *(figures(0.9, v, 1000, seed=f"{v}") for v in (0.7, 0.9)))
    many.client.delete_run(runs[1])
    front = load_front("mlp", tracking_uri=many.uri, group_seeds=True)
    assert [t.metrics["verified_accuracy"] for t in front.members] == [0.7]
