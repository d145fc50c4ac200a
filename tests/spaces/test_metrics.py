"""Names of metrics, and conditions on them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from spaces import ConfigError, Constraint
from spaces.metrics import METRICS, metric, radius_metric

CONTRACT = (
    "natural_accuracy verified_accuracy falsified_accuracy_bound density num_active_parameters "
    "num_grafted_units "
    "inference_flops training_flops epoch train_epsilon rung_score duration_s "
    "dense_inference_flops dense_twin_natural_accuracy dense_twin_verified_accuracy "
    "unstable_relus_ibp unstable_share_ibp unstable_relus_crown unstable_share_crown "
    "planned_inference_flops planned_density planned_num_active_parameters "
    "exact_verified_accuracy exact_falsified_accuracy_bound "
    "compacted_flops flash_bytes ram_bytes latency_s latency_256_s"
).split()


def test_every_metric_of_the_contract_is_known_and_described():
    assert set(CONTRACT) == set(METRICS)
    assert all(m.name == name and m.unit and m.description for name, m in METRICS.items())


def test_directions():
    assert metric("verified_accuracy").direction == "maximize"
    assert metric("inference_flops").direction == "minimize"
    assert metric("epoch").direction == "none"
    assert metric("dense_twin_verified_accuracy").direction == "maximize"


def test_verified_accuracy_at_a_radius():
    assert radius_metric(0.1) == "verified_accuracy_at_0.1"
    assert metric("verified_accuracy_at_0.1").direction == "maximize"


@pytest.mark.parametrize("suffix", ["", "x", "0.10", "-1", "nan", "inf", "0"])
def test_a_radius_is_written_in_one_way(suffix):
    with pytest.raises(ConfigError, match=r"for example verified_accuracy_at_0\.1$"):
        metric(f"verified_accuracy_at_{suffix}")


def test_an_unknown_metric_gets_a_suggestion():
    with pytest.raises(ConfigError, match="'natural_acc' is no metric; did you mean natural_acc"):
        metric("natural_acc")


@pytest.mark.parametrize(
    ("text", "value", "holds", "violation"),
    [
        ("natural_accuracy >= 0.75", 0.75, True, 0.0),
        ("natural_accuracy >= 0.75", 0.5, False, 0.25),
        ("natural_accuracy >= 0.75", 1.0, True, -0.25),
        ("inference_flops <= 1e6", 1_000_001, False, 1.0),
        ("inference_flops<=1e6", 999_999, True, -1.0),
        ("density > 0.5", 0.75, True, -0.25),
        ("density > 0.5", 0.5, False, 5e-324),
        ("density < 0.5", 0.5, False, 5e-324),
        ("density < 0.5", 0.25, True, -0.25),
        ("density >= 0.5", math.nan, False, math.inf),
    ],
)
def test_a_constraint_holds_or_is_violated(text, value, holds, violation):
    constraint = Constraint.parse(text)
    metrics = {constraint.metric: value}
    assert constraint.holds(metrics) is holds
    assert constraint.violation(metrics) == violation


@given(st.sampled_from([">=", "<=", ">", "<"]), st.floats(-2, 2), st.floats(-2, 2))
def test_a_constraint_holds_exactly_where_nothing_is_violated(operator, bound, value):
    constraint = Constraint.parse(f"duration_s {operator} {bound}")
    metrics = {"duration_s": value}
    assert constraint.holds(metrics) == (constraint.violation(metrics) <= 0)
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("natural_acc >= 1", "'natural_acc' is no metric; did you mean natural_accuracy?"),
        (
            "natural_accuracy >= 85",
            "'natural_accuracy >= 85': natural_accuracy is a share, from 0 to 1: 85 of a hundred "
            "is written 0.85",
        ),
        ("density <= -1", "'density <= -1': density is a share, from 0 to 1"),
        (
            "density == 1",
            "'density == 1': the operator must be >=, <=, > or <, not ==",
        ),
        (
            "density",
            "'density' is no constraint: write it as `<metric> <operator> <number>`, "
            "for example `natural_accuracy >= 0.85`",
        ),
        (
            "density >= many",
            "'density >= many': 'many' must be a finite number, which may end in k, M, G, KiB, "
            "MiB, us, ms: write it as `<metric> <operator> <number>`, for example "
            "`natural_accuracy >= 0.85`",
        ),
    ],
)
def test_a_wrong_constraint_says_why(text, message):
    with pytest.raises(ConfigError) as caught:
        Constraint.parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("flash_bytes <= 64KiB", 65536.0),
        ("ram_bytes < 0.5MiB", 524288.0),
        ("inference_flops <= 1M", 1e6),
        ("inference_flops <= 1.5e3k", 1.5e6),
        ("latency_s <= 50us", 5e-5),
        ("latency_256_s < 2ms", 2e-3),
    ],
)
def test_a_bound_may_have_a_unit(text, bound):
    assert Constraint.parse(text).bound == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("number", ["64KB", "64kb", "KiB", "1Mk", "1 M", "1e", "0x10", "infk"])
def test_a_unit_that_could_mean_two_things_is_refused(number):
    with pytest.raises(ConfigError, match=r"may end in k, M, G, KiB, MiB, us, ms|no constraint"):
        Constraint.parse(f"flash_bytes <= {number}")


def test_a_metric_that_was_not_measured_is_an_error():
    with pytest.raises(ConfigError, match=r"^density: was not measured, so `density < 0\.5`"):
        Constraint.parse("density < 0.5").holds({"epoch": 1})


def test_pydantic_reads_and_writes_constraints_as_text():
    adapter = TypeAdapter(tuple[Constraint, ...])
    constraints = adapter.validate_python(["density <= 0.1"])
    assert constraints[0] == Constraint(metric="density", operator="<=", bound=0.1)
    assert json.loads(adapter.dump_json(constraints)) == ["density <= 0.1"]
    for wrong in ("densty <= 0.1", 3, {"metric": "densty", "operator": "<=", "bound": 1}):
        with pytest.raises(ValidationError):
            adapter.validate_python([wrong])
