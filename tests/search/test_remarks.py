"""Settings without effect are told when a search starts."""

from pathlib import Path
from typing import Any, Literal

import pytest
from toy_trials import toy_study

from search.records import SearchRun
from search.remarks import remarks

BUDGET = {"trials": 6, "epochs": 3}


@pytest.mark.parametrize(
    ("changes", "executor", "told"),
    [
        ({}, "ray", None),
        ({"sampler": {"name": "tpe", "startup_trials": 5}}, "ray", None),
        ({"sampler": {"name": "tpe", "startup_trials": 6}}, "ray", "tpe learns from trial 7 on"),
        ({"sampler": {"name": "nsga2"}}, "ray", "nsga2 draws its first 20 trials at random"),
        ({"space": {"topology": {"method": "dense"}}}, "ray", "all 6 trials are the same training"),
        ({"resources": {"gpus_per_trial": 0.5}}, "ray", None),
        ({"resources": {"gpus_per_trial": 0.5}}, "local", "gpus_per_trial has no effect"),
        ({"resources": {"cpus_per_trial": 4096}}, "local", "4096 threads on"),
    ],
)
def test_a_setting_without_effect_is_told(
    tmp_path: Path, changes: dict[str, Any], executor: Literal["ray", "local"], told: str | None
) -> None:
    study = toy_study(tmp_path, budget=BUDGET, **changes)
    found = remarks(SearchRun(study, tmp_path, executor))
    assert len(found) == (told is not None)
    assert all(told is not None and told in line for line in found)
