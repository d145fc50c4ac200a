"""The scheduler for a Tuner of one's own."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.moasha import MoashaScheduler
from spaces.base import ConfigError


def scheduler(**changes: Any) -> MoashaScheduler:
    settings: dict[str, Any] = {"max_t": 9, "grace_period": 1, "reduction_factor": 2}
    return MoashaScheduler({"accuracy": "max", "error": "min"}, **{**settings, **changes})


def report(rule: MoashaScheduler, number: int, epoch: Any, **metrics: Any) -> str:
    trial = SimpleNamespace(trial_id=f"t{number}")
    rule.on_trial_add(None, trial)
    return rule.on_trial_result(None, trial, {"epoch": epoch, **metrics})


def test_a_rung_worked_by_hand() -> None:
    rule = scheduler()
    assert report(rule, 0, 1, accuracy=0.8, error=0.2) == "CONTINUE"
    assert report(rule, 1, 1, accuracy=0.7, error=0.3) == "STOP", "worse in both"
    assert report(rule, 2, 1, accuracy=0.9, error=0.1) == "CONTINUE", "better in both"
    assert report(rule, 2, 3, accuracy=0.0, error=1.0) == "CONTINUE", "first at the rung at 2"
    assert report(rule, 2, 9, accuracy=1.0, error=0.0) == "STOP", "max_t"
    assert "1 trials stopped, rungs at epoch 1, 2, 4, 8" in rule.debug_string()


@pytest.mark.parametrize(
    "metrics", [{"accuracy": math.nan, "error": 0.0}, {"accuracy": 0.9}, {"accuracy": None}, {}]
)
def test_a_trial_without_a_number_for_each_metric_ends_and_is_in_nobodys_way(
    metrics: dict[str, Any],
) -> None:
    rule = scheduler()
    assert report(rule, 0, 1, **metrics) == "STOP"
    assert report(rule, 1, 1, accuracy=0.1, error=0.9) == "CONTINUE"


def test_a_report_without_a_time_is_at_no_rung() -> None:
    assert report(scheduler(), 0, None, accuracy=0.1, error=0.9) == "CONTINUE"
    assert report(scheduler(), 0, math.nan) == "CONTINUE"


def test_static_metrics_say_with_whom_a_trial_is_compared_and_limits_come_first() -> None:
    rule = MoashaScheduler(
        {"accuracy": "max", "flops": "min"},
        static=("flops",), limits={"flops": 100.0}, max_t=9, grace_period=1, reduction_factor=3,
    )  # fmt: skip
    for number in range(12):  # dearer is better, as usual
        report(rule, number, 1, accuracy=0.5 + number / 50, flops=10.0 * (1 + number % 6))
    assert report(rule, 20, 1, accuracy=0.9, flops=100.5) == "STOP", "beyond the limit"
    assert report(rule, 21, 1, accuracy=0.2, flops=10.0) == "STOP", "cheap, and hopeless"
    assert report(rule, 22, 1, accuracy=0.9, flops=10.0) == "CONTINUE"


def test_the_last_report_of_a_trial_that_ends_by_itself_stands_on_its_rung() -> None:
    rule, trial = scheduler(), SimpleNamespace(trial_id="t0")
    rule.on_trial_add(None, trial)
    rule.on_trial_complete(None, trial, {"epoch": 1, "accuracy": 0.9, "error": 0.1})
    assert report(rule, 1, 1, accuracy=0.8, error=0.2) == "STOP"


def test_saved_rungs_decide_as_before(tmp_path: Path) -> None:
    lived, restored = scheduler(brackets=2), scheduler(brackets=2)
    for number in range(6):
        report(lived, number, 2, accuracy=number / 10, error=0.5)
    lived.save(str(tmp_path / "rungs"))
    restored.restore(str(tmp_path / "rungs"))
    for number, accuracy in ((6, 0.35), (7, 0.45), (8, 0.0)):
        decisions = {report(rule, number, 2, accuracy=accuracy, error=0.5)
                     for rule in (lived, restored)}  # fmt: skip
        assert len(decisions) == 1
    assert lived.get_state() == restored.get_state()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"static": ("flops",)}, "static: flops is none of the metrics: accuracy, error"),
        ({"limits": {"error": 0.1}}, "limits: error is not static"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scheduler(**changes)
    with pytest.raises(ConfigError, match='accuracy is \'maximize\', but must be "min" or "max"'):
        MoashaScheduler({"accuracy": "maximize"}, max_t=9)  # type: ignore[dict-item]


@pytest.mark.slow
def test_it_stops_trials_of_a_tuner_and_its_rungs_outlive_it(
    ray_session: None, tmp_path: Path
) -> None:
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, 5):
            metrics = {"epoch": epoch, "accuracy": config["quality"] * epoch, "flops": 5.0}
            if config["quality"] < 0.0:
                del metrics["accuracy"]
            tune.report(metrics)

    rule = MoashaScheduler(
        {"accuracy": "max", "flops": "min"},
        static=("flops",), max_t=4, grace_period=1, reduction_factor=2,
    )  # fmt: skip
    qualities = [0.5, 0.1, 0.9, -1.0, math.nan]
    tuner = tune.Tuner(
        train,
        param_space={"quality": tune.grid_search(qualities)},
        tune_config=tune.TuneConfig(scheduler=rule, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="own", storage_path=str(tmp_path), callbacks=[rule.keeper()], verbose=0
        ),
    )
    results = tuner.fit()
    assert not results.errors
    epochs = {str(r.config["quality"]): r.metrics["epoch"] for r in results}
    assert epochs == {"0.5": 4, "0.1": 1, "0.9": 4, "-1.0": 1, "nan": 1}

    again = tune.Tuner.restore(str(tmp_path / "own"), train)
    again.fit()
    restored = again._local_tuner._tune_config.scheduler
    assert restored is not rule
    assert repr(restored.get_state()) == repr(rule.get_state())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grace_period": 0}, "grace_period: 0 must be a whole number of at least 1"),
        ({"reduction_factor": 1}, "reduction_factor: 1 must be a whole number of at least 2"),
        ({"reduction_factor": 1.5}, "reduction_factor: 1.5 must be a whole number"),
        ({"max_t": "27"}, "max_t: '27' must be a whole number"),
        ({"brackets": 0}, "brackets: 0 must be a whole number of at least 1"),
        ({"grace_period": 27}, "a first rung at 27, not below max_t"),
        ({"brackets": 4}, "a first rung at 81, not below max_t"),
        ({"static": "b"}, r"static: 'b' must be a collection of names: \('b',\)"),
        ({"limits": {"b": math.nan}}, "limits: b: nan must be a finite number"),
        ({"limits": {"b": "x"}}, "limits: b: 'x' must be a finite number"),
        ({"metrics": ["a"]}, "metrics: must name at least one"),
    ],
)
def test_an_option_that_can_do_nothing_is_refused(options: dict[str, Any], told: str) -> None:
    usual: dict[str, Any] = {"metrics": {"a": "max", "b": "min"}, "static": ("b",), "max_t": 27}
    with pytest.raises(ConfigError, match=told):
        MoashaScheduler(**{**usual, **options})
