"""Which settings matter: only those that differ, and only as far as unseen trials say so."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.recorded import Trial
from analysis.report.hyperparameters import searched_names, varied
from analysis.report.importance import importance
from spaces import StudyConfig


def trial(number: int, params: dict[str, object], **metrics: float) -> Trial:
    texts = {name: str(value) for name, value in params.items()}
    return Trial(f"run{number}", number, "completed", metrics, texts, {}, "")


def test_only_settings_that_differ_count() -> None:
    trials = [
        trial(0, {"seed": 0, "epochs": 5, "optimizer.lr": 0.1, "model.widths": "[16]"}),
        trial(1, {"seed": 1, "epochs": 5, "optimizer.lr": 0.001, "model.widths": "[8]"}),
    ]
    settings = {setting.name: setting for setting in varied(trials)}
    assert list(settings) == ["model.widths", "optimizer.lr"]
    assert settings["optimizer.lr"].numbers == (0.1, 0.001)
    assert settings["optimizer.lr"].is_logarithmic
    assert settings["model.widths"].levels == ["[8]", "[16]"]
    assert [s.name for s in varied(trials, {"optimizer.lr"})] == ["optimizer.lr"]


def test_what_a_method_alone_has_is_conditional_and_tells_nothing_unless_it_differs() -> None:
    base = {"topology.method": "rigl", "topology.drop": "magnitude", "topology.update_every": 20}
    trials = [
        trial(0, base),
        trial(1, {**base, "topology.drop": "sensitivity"}),
        trial(2, {"topology.method": "snip"}),
    ]
    settings = {setting.name: setting for setting in varied(trials)}
    assert list(settings) == ["topology.drop", "topology.method"]
    assert settings["topology.drop"].texts == ("magnitude", "sensitivity", None)
    assert settings["topology.drop"].is_conditional
    assert not settings["topology.method"].is_conditional


def test_holes_are_recorded_without_the_labels_of_variants() -> None:
    study = StudyConfig.from_yaml("examples/digits.yaml")
    names = searched_names(study)
    assert {
        "topology.drop",
        "topology.method",
        "loss.kappa",
        "model.widths",
        "optimizer.lr",
    } <= names
    assert "topology.distribution" not in names


def made_up(count: int, noise: float = 0.0) -> list[Trial]:
    """Verified accuracy depends on lr alone; drop is of rigl alone, and without effect."""
    rng = np.random.default_rng(1)
    trials = []
    for number in range(count):
        lr, rigl = rng.uniform(), rng.uniform() < 0.5
        params = {"optimizer.lr": lr, "batch_size": rng.integers(1, 9), "topology.method": "snip"}
        if rigl:
            params |= {"topology.method": "rigl", "topology.drop": rng.uniform()}
        value = lr + noise * rng.normal()
        trials.append(trial(number, params, verified_accuracy=value, inference_flops=1000.0))
    return trials


def test_the_setting_that_decides_has_nearly_all_of_it() -> None:
    found = importance(made_up(60), "verified_accuracy")
    assert found is not None
    assert found.num_trials == 60
    assert found.explained > 0.8
    first, *rest = found.shares.items()
    assert first[0] == "optimizer.lr"
    assert first[1] > 1.0  # shuffled values are as wrong as twice the variance
    assert all(abs(share) < 0.05 for _, share in rest)


def test_the_same_trials_give_the_same_importance() -> None:
    trials = made_up(20)
    assert importance(trials, "verified_accuracy") == importance(trials, "verified_accuracy")


def test_noise_explains_nothing() -> None:
    found = importance(made_up(40, noise=50.0), "verified_accuracy")
    assert found is not None
    assert found.explained < 0.1


@pytest.mark.parametrize("objective", ["inference_flops", "density"])
def test_an_objective_that_never_differs_or_was_not_recorded_has_none(objective: str) -> None:
    assert importance(made_up(20), objective) is None


def test_few_trials_have_none() -> None:
    assert importance(made_up(9), "verified_accuracy") is None
