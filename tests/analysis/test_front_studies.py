"""Questions to several studies at once, and to several seeds of one configuration."""

import csv
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from analysis.errors import FrontError
from analysis.export import export_ticket
from analysis.front import load_front, read_studies
from analysis.plots import plot_front
from spaces.base import ConfigError

MEASURED = {"split": "validation", "bound": "ibp+crown", "num_examples": "300"}
DATA = {
    "data.name": "digits",
    "data.split_seed": "0",
    "data.folder": "a",
    "evaluation.radius": "0.05",
}


@dataclass
class Many:
    """A tracking store to which a test adds studies."""

    uri: str
    client: MlflowClient
    experiment: str

    def study(self, name: str, *trials: Mapping[str, str | float], **changes: str) -> list[str]:
        """A search whose trials have these metrics (numbers) and parameters (texts); run ids."""
        objectives = changes.pop("objectives", "natural_accuracy,verified_accuracy,inference_flops")
        tags = {"goldenticket.study": name}
        search = self._run({**tags, "goldenticket.objectives": objectives})
        how = {**MEASURED, **{k: changes.pop(k) for k in MEASURED if k in changes}}
        params = {**DATA, **{k.replace("__", "."): text for k, text in changes.items()}}
        tags |= {"mlflow.parentRunId": search, "goldenticket.state": "completed"}
        tags |= {f"goldenticket.{name}": text for name, text in how.items()}
        found = []
        for number, trial in enumerate(trials):
            own = {name: text for name, text in trial.items() if isinstance(text, str)}
            figures = {name: value for name, value in trial.items() if name not in own}
            run = self._run({**tags, "goldenticket.number": f"{number}"})
            self.client.log_batch(
                run,
                metrics=[Metric(name, float(value), 0, 0) for name, value in figures.items()],
                params=[Param(*item) for item in {**params, **own}.items()],
            )
            found.append(run)
        return found

    def _run(self, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(self.experiment, tags=tags)
        return str(run.info.run_id)


def figures(natural: float, verified: float, flops: float, **more: float | str) -> dict:
    metrics = {"natural_accuracy": natural, "verified_accuracy": verified, "inference_flops": flops}
    return {**metrics, **{name.replace("__", "."): value for name, value in more.items()}}


@pytest.fixture
def many(store, tmp_path: Path) -> Many:
    """A copy of the store that has other studies already: making a new one takes seconds."""
    uri = f"sqlite:///{shutil.copy(store.uri.removeprefix('sqlite:///'), tmp_path)}"
    return Many(uri, MlflowClient(uri), store.experiment)


# Several studies ----------------------------------------------------------------------------------


def test_trials_of_several_studies_make_one_front_whose_rows_say_their_study(many: Many) -> None:
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


def test_the_first_study_gives_the_objectives_and_all_must_have_them(many: Many) -> None:
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
    many: Many, changes: dict[str, str], values: list[str]
) -> None:
    many.study("a", figures(0.9, 0.7, 500))
    many.study("b", figures(0.9, 0.7, 500), **changes)
    with pytest.raises(FrontError, match="studies 'a' and 'b' cannot be put into one") as caught:
        load_front(["a", "b"], tracking_uri=many.uri)
    assert all(value in str(caught.value) for value in values)


def test_searches_of_one_study_that_were_measured_differently_are_refused(many: Many) -> None:
    many.study("a", figures(0.9, 0.7, 500))
    many.study("a", figures(0.9, 0.7, 500), evaluation__radius="0.1")
    assert len(load_front("a", tracking_uri=many.uri).members) == 1
    with pytest.raises(FrontError, match="two searches of study 'a'.*radius is 0.05.*and 0.1"):
        load_front("a", tracking_uri=many.uri, study_run="all")


def test_constraints_that_no_trial_satisfies_name_the_study_of_the_nearest(many: Many) -> None:
    many.study("a", figures(0.9, 0.7, 500))
    many.study("b", figures(0.9, 0.75, 500))
    with pytest.raises(FrontError, match=r"trial 0 \(run .* of study b\).*misses by 0.05"):
        load_front(["a", "b"], tracking_uri=many.uri, where=["verified_accuracy >= 0.8"])


def test_what_cannot_be_read_together_is_told(many: Many) -> None:
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


def test_a_ticket_is_exported_from_the_study_that_has_it(many: Many, store, tmp_path: Path) -> None:
    many.study("a", figures(0.5, 0.1, 5000))
    with pytest.raises(FrontError, match="has no ticket"):
        export_ticket(["a"], tmp_path / "t", best="verified", tracking_uri=many.uri)
    options = {"tracking_uri": store.uri, "onnx": False}
    run = store.runs["digits/1"]
    folder = export_ticket(["other", "digits"], tmp_path / "t", run=run, **options)
    assert (folder / "ticket.json").exists()
    again = export_ticket(["digits", "other"], tmp_path / "u", best="verified", **options)
    assert (again / "ticket.json").read_bytes() == (folder / "ticket.json").read_bytes()


def test_several_studies_are_drawn(many: Many, tmp_path: Path) -> None:
    many.study("wide", figures(0.95, 0.8, 1000))
    many.study("deep", figures(0.9, 0.7, 500))
    page = plot_front(load_front(["wide", "deep"], tracking_uri=many.uri), tmp_path / "f.html")
    text = page.read_text()
    assert "<td>deep</td>" in text
    assert "wide, deep: 2 of 2 completed trials on the front" in text


# Seeds --------------------------------------------------------------------------------------------


def test_seeds_of_a_configuration_are_one_row_and_the_front_is_that_of_means(many: Many) -> None:
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


def test_constraints_are_on_the_means_of_seeds(many: Many) -> None:
    many.study("mlp", *(figures(0.9, v, 1000, seed=f"{v}") for v in (0.7, 0.9)))
    options = {"tracking_uri": many.uri, "group_seeds": True}
    assert len(load_front("mlp", where=["verified_accuracy >= 0.79"], **options).members) == 1
    with pytest.raises(FrontError, match="none of the 1 configurations.*it has 0.8,"):
        load_front("mlp", where=["verified_accuracy >= 0.85"], **options)


def test_seeds_may_be_in_several_studies(many: Many) -> None:
    many.study("first", figures(0.9, 0.7, 1000, seed="0"))
    many.study("second", figures(0.9, 0.8, 1000, seed="1"))
    front = load_front(["first", "second"], tracking_uri=many.uri, group_seeds=True)
    assert [trial.study for trial in front.members] == ["first, second"]


def test_of_runs_with_one_seed_the_last_counts(many: Many) -> None:
    for verified in (0.1, 0.7):
        many.study("mlp", figures(0.9, verified, 1000, seed="0"))
    options = {"tracking_uri": many.uri, "study_run": "all"}
    front = load_front("mlp", group_seeds=True, **options)
    assert [t.metrics["verified_accuracy"] for t in front.members] == [0.7]
    assert front.num_repeats == 1
    assert "1 runs repeat the configuration and seed" in front.notes[1]


def test_settings_that_were_cut_off_are_not_taken_to_be_the_same(many: Many) -> None:
    cut = "1," * 248 + "..."
    many.study("mlp", *(figures(0.9, 0.7, 1000, seed=s, long=cut + "x") for s in "01"))
    front = load_front("mlp", tracking_uri=many.uri, group_seeds=True)
    assert [len(trial.runs) for trial in front.candidates] == [1, 1]


def test_a_run_that_is_gone_is_not_in_a_group(many: Many) -> None:
    runs = many.study("mlp", *(figures(0.9, v, 1000, seed=f"{v}") for v in (0.7, 0.9)))
    many.client.delete_run(runs[1])
    front = load_front("mlp", tracking_uri=many.uri, group_seeds=True)
    assert [t.metrics["verified_accuracy"] for t in front.members] == [0.7]


# Radii, thinning and volume -----------------------------------------------------------------------


def test_the_evaluation_radius_may_be_named(many: Many) -> None:
    many.study("a", figures(0.9, 0.7, 500), figures(0.9, 0.9, 800))
    where = ["verified_accuracy_at_0.05 >= 0.8"]
    front = load_front("a", tracking_uri=many.uri, where=where)
    assert [trial.number for trial in front.candidates] == [1]
    assert [str(c) for c in front.where] == ["verified_accuracy >= 0.8"]
    named = ["verified_accuracy_at_0.05", "inference_flops", "verified_accuracy"]
    front = load_front("a", tracking_uri=many.uri, objectives=named)
    assert front.objectives == ("verified_accuracy", "inference_flops")
    given = {"verified_accuracy_at_0.05": 0.5}
    thinned = load_front("a", tracking_uri=many.uri, epsilon=given, objectives=named)
    assert [trial.number for trial in thinned.members] == [0]
    point = {**given, "inference_flops": 1000.0}
    assert thinned.hypervolume(point) == pytest.approx(0.2 * 500)


def test_a_radius_that_was_not_measured_is_told_with_those_that_were(many: Many) -> None:
    many.study("a", {**figures(0.9, 0.7, 500), "verified_accuracy_at_0.02": 0.8})
    expected = "verified_accuracy is at 0.05, verified_accuracy_at_0.02"
    with pytest.raises(FrontError, match=f"at_0.07 is not recorded: .*{expected}"):
        load_front("a", tracking_uri=many.uri, where=["verified_accuracy_at_0.07 >= 0.5"])
    with pytest.raises(FrontError, match=f"recorded verified_accuracy_at_0.07: .*{expected}"):
        load_front("a", tracking_uri=many.uri, objectives=["verified_accuracy_at_0.07"])


def test_a_thinned_front_says_what_stands_for_what(many: Many) -> None:
    runs = many.study("a", figures(0.9, 0.804, 900), figures(0.9, 0.8, 300), figures(0.9, 0.6, 100))
    options = {"tracking_uri": many.uri}
    assert len(load_front("a", **options).members) == 3
    front = load_front("a", epsilon={"verified_accuracy": 0.005}, **options)
    assert [trial.number for trial in front.members] == [1, 2]
    document = json.loads(front.to_json())
    assert document["epsilon"] == {
        "natural_accuracy": "0",
        "verified_accuracy": "0.005",
        "inference_flops": "0",
    }
    assert document["num_thinned"] == 1
    assert document["thinned"] == {runs[0]: runs[1]}
    assert front.best("verified").number == 0  # rules choose among all that satisfy --where
    with pytest.raises(FrontError, match="epsilon names density, which is no objective here"):
        load_front("a", epsilon={"density": 0.1}, **options)
    with pytest.raises(ConfigError, match="did you mean verified_accuracy"):
        load_front("a", epsilon={"verifed_accuracy": 0.1}, **options)


def test_json_has_the_hypervolume_up_to_a_reference_and_each_members_part(many: Many) -> None:
    many.study("a", figures(0.9, 0.8, 500), figures(0.9, 0.6, 100))
    names = ["verified_accuracy", "inference_flops"]
    front = load_front("a", tracking_uri=many.uri, objectives=names)
    assert json.loads(front.to_json())["hypervolume"] is None
    document = json.loads(
        front.up_to({"verified_accuracy": 0.5, "inference_flops": 1000}).to_json()
    )
    # 0.1 x 900 for the small one, and 0.2 x 500 more above it: 0.3 x 500 + 0.1 x 400.
    assert document["hypervolume"]["value"] == pytest.approx(190)
    assert document["hypervolume"]["reference"]["inference_flops"] == 1000
    parts = [member["hypervolume_contribution"] for member in document["members"]]
    assert parts == pytest.approx([0.2 * 500, 0.1 * 400])
    with pytest.raises(FrontError, match="reference has no value for inference_flops"):
        front.up_to({"verified_accuracy": 0.5})
    with pytest.raises(FrontError, match="reference names density, which is no objective"):
        front.up_to({"verified_accuracy": 0.5, "inference_flops": 9, "density": 1})
    with pytest.raises(FrontError, match="needs a reference"):
        front.hypervolume()


def test_json_and_csv_have_intervals_and_say_who_cannot_be_told_apart(many: Many) -> None:
    runs = many.study("a", figures(0.9, 0.8, 900), figures(0.9, 0.79, 500), figures(0.9, 0.4, 100))
    front = load_front("a", tracking_uri=many.uri)
    members = json.loads(front.to_json())["members"]
    # Wilson (1927) for 240 of 300.
    assert members[0]["intervals"]["verified_accuracy"] == pytest.approx((0.7510, 0.8413), abs=1e-4)
    assert members[0]["intervals"].keys() == {"natural_accuracy", "verified_accuracy"}
    assert [m["cannot_be_told_apart_from"] for m in members] == [[runs[1]], [runs[0]], []]
    row = next(csv.DictReader(io.StringIO(front.to_csv())))
    assert float(row["verified_accuracy_low"]) == pytest.approx(0.7510, abs=1e-4)
    assert "inference_flops_low" not in row
    assert front.notes == [
        "members 0 and 1 cannot be told apart in natural and verified accuracy on 300 examples "
        "(95 %)"
    ]
    assert front.only("smallest").notes == []


@pytest.mark.parametrize(
    "name", ["duration_s", "training_flops", "num_active_parameters", "verified_accuracy_at_0.02",
             "falsified_accuracy_bound", "dense_inference_flops", "unstable_share_ibp"],
)  # fmt: skip
def test_any_metric_with_a_direction_may_be_an_objective(many: Many, name: str) -> None:
    many.study("a", {**figures(0.9, 0.8, 900), name: 0.3}, {**figures(0.8, 0.9, 900), name: 0.4})
    front = load_front("a", tracking_uri=many.uri, objectives=[name])
    best = 0.4 if "accuracy" in name else 0.3
    assert [trial.metrics[name] for trial in front.members] == [best]
    assert name in next(csv.DictReader(io.StringIO(front.to_csv())))
