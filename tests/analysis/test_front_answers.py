"""What else a front answers: thinning, volume, intervals, other radii and other objectives."""

import csv
import io
import json
import re
from typing import Any

import pytest

from analysis.errors import FrontError
from analysis.front import load_front
from spaces.base import ConfigError


def figures(natural: float, verified: float, flops: float, **more: float | str) -> dict[str, Any]:
    metrics = {"natural_accuracy": natural, "verified_accuracy": verified, "inference_flops": flops}
    return {**metrics, **{name.replace("__", "."): value for name, value in more.items()}}


def test_the_evaluation_radius_may_be_named(many) -> None:
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


def test_a_radius_that_was_not_measured_is_told_with_those_that_were(many) -> None:
    many.study("a", {**figures(0.9, 0.7, 500), "verified_accuracy_at_0.02": 0.8})
    expected = "verified_accuracy is at 0.05, verified_accuracy_at_0.02"
    with pytest.raises(FrontError, match=f"at_0.07 is not recorded by any .*{expected}"):
        load_front("a", tracking_uri=many.uri, where=["verified_accuracy_at_0.07 >= 0.5"])
    with pytest.raises(FrontError, match=f"recorded verified_accuracy_at_0.07: .*{expected}"):
        load_front("a", tracking_uri=many.uri, objectives=["verified_accuracy_at_0.07"])


def test_a_thinned_front_says_what_stands_for_what(many) -> None:
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


def test_json_has_the_hypervolume_up_to_a_reference_and_each_members_part(many) -> None:
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


def test_json_and_csv_have_intervals_and_say_who_cannot_be_told_apart(many) -> None:
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
def test_any_metric_with_a_direction_may_be_an_objective(many, name: str) -> None:
    many.study("a", {**figures(0.9, 0.8, 900), name: 0.3}, {**figures(0.8, 0.9, 900), name: 0.4})
    front = load_front("a", tracking_uri=many.uri, objectives=[name])
    best = 0.4 if "accuracy" in name else 0.3
    assert [trial.metrics[name] for trial in front.members] == [best]
    assert name in next(csv.DictReader(io.StringIO(front.to_csv())))


def test_numbers_of_an_epsilon_may_have_units_as_constraints_have(many) -> None:
    many.study("a", figures(0.9, 0.8, 1500), figures(0.9, 0.7, 600))
    front = load_front("a", tracking_uri=many.uri, epsilon={"inference_flops": "1k"})
    assert [trial.number for trial in front.members] == [0]


def test_many_sets_that_cannot_be_told_apart_are_counted_as_pairs(many) -> None:
    many.study("a", *(figures(0.99 - 0.01 * k, 0.99 - 0.01 * k, 1000 - k) for k in range(20)))
    (note,) = load_front("a", tracking_uri=many.uri).notes
    assert re.match(r"\d+ of the 190 pairs of members cannot be told apart in natural and", note)
