"""The study file: what it may say, and what is told about a wrong one."""

import copy
import pickle
import random
from pathlib import Path

import pytest
import yaml

from spaces import ConfigError, Constraint, StudyConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONTRACT = """
name: digits
seed: 0
data: {name: digits}
evaluation: {radius: 0.05, radii: [0.02, 0.1], examples: 300}
objectives: [natural_accuracy, verified_accuracy, inference_flops]
constraints: ["natural_accuracy >= 0.85"]
space:
  model: {family: mlp, widths: {choice: [[64, 32], [128, 64]]}}
  topology:
    choice:
      - {method: rigl, density: {low: 0.02, high: 0.3, log: true}, drop: {choice: [magnitude, sensitivity]}, drop_fraction: {low: 0.1, high: 0.5}}
      - {method: snip, density: {low: 0.02, high: 0.3, log: true}}
  loss: {name: ibp, kappa: {low: 0.0, high: 0.7}}
  epsilon: {train_factor: {low: 1.0, high: 1.5}, warmup: 0.1, ramp_end: {low: 0.4, high: 0.8}}
  optimizer: {name: adam, lr: {low: 0.0003, high: 0.01, log: true}}
sampler: {name: tpe}
scheduler: {name: asha, grace_epochs: 3, reduction_factor: 3}
budget: {trials: 24, epochs: 20}
resources: {cpus_per_trial: 2, gpus_per_trial: 0, concurrent: 2}
tracking: {uri: "sqlite:///mlflow.db"}
storage: {path: runs}
"""  # noqa: E501
MINIMAL = {
    "name": "small",
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05},
    "budget": {"trials": 2, "epochs": 4},
}


def problems(**changes):
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_dict(copy.deepcopy(MINIMAL) | changes)
    return list(caught.value.problems)


def test_the_contracts_example_loads(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(CONTRACT)
    study = StudyConfig.from_yaml(path)
    assert study.constraints == (Constraint.parse("natural_accuracy >= 0.85"),)
    assert study.directions == ("maximize", "maximize", "minimize")
    assert (study.sampler.startup_trials, study.scheduler.brackets) == (10, 1)
    assert [p.path for p in study.search_space().parameters()] == [
        "model.mlp.widths",
        "topology.method",
        "topology.rigl.density",
        "topology.rigl.drop",
        "topology.rigl.drop_fraction",
        "topology.snip.density",
        "loss.ibp.kappa",
        "epsilon.train_factor",
        "epsilon.ramp_end",
        "optimizer.lr",
    ]


def test_the_study_sets_what_all_trials_share():
    study = StudyConfig.from_dict(MINIMAL | {"seed": 3, "resources": {"cpus_per_trial": 2}})
    config = study.search_space().decode({})
    assert (config.seed, config.epochs, config.compute.threads) == (3, 4, 2)
    assert config.evaluation == study.evaluation
    assert config.data.name == "digits"


def test_defaults():
    study = StudyConfig.from_dict(MINIMAL)
    assert study.objectives == ("natural_accuracy", "verified_accuracy", "inference_flops")
    assert (study.sampler.name, study.scheduler.name) == ("tpe", "fifo")
    assert (study.resources.concurrent, study.budget.wall_time_s) == (None, None)
    assert (study.tracking.uri, study.storage.path) == ("sqlite:///mlflow.db", "runs")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_load_and_every_sample_decodes(path):
    space = StudyConfig.from_yaml(path).search_space()
    rng = random.Random(0)
    for _ in range(20):
        params = space.sample(rng)
        assert space.encode(space.decode(params)) == params


def test_a_study_survives_json_and_pickle():
    study = StudyConfig.from_dict(yaml.safe_load(CONTRACT))
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
    assert pickle.loads(pickle.dumps(study)) == study


def test_a_changed_copy_has_the_space_of_its_own_budget():
    study = StudyConfig.from_dict(MINIMAL)
    longer = study.model_copy(update={"budget": study.budget.model_copy(update={"epochs": 9})})
    assert study.search_space().decode({}).epochs == 4
    assert longer.search_space().decode({}).epochs == 9


ONE_PROBLEM = [
    (
        {"obectives": []},
        "obectives: unknown key; did you mean objectives?",
    ),
    (
        {"name": "../x"},
        "name: '../x' does not have the right form; letters, digits, '.', '_' and '-', "
        "at most 64, since it also names a folder",
    ),
    ({"name": 3}, "name: 3 must be text: put it in quotes"),
    ({"seed": -1}, "seed: -1 must be greater than or equal to 0; allowed: >= 0, <= 4294967295"),
    (
        {"budget": {"trials": 0, "epochs": 4}},
        "budget.trials: 0 must be greater than or equal to 1; allowed: >= 1",
    ),
    ({"budget": {"trials": 2}}, "budget.epochs: is missing"),
    (
        {"data": {"name": "digitz"}},
        "data.name: 'digitz' must be one of: digits, breast_cancer, mnist5k, mnist, "
        "fashion_mnist, cifar10, cifar100, svhn, npz, csv, image_folder, python; "
        "did you mean digits?",
    ),
    (
        {"data": {"name": "digits", "split_seed": {"choice": [0, 1]}}},
        "data.digits.split_seed: must be one fixed value, so that all trials are measured on the "
        "same examples; only data.augment may have holes",
    ),
    (
        {"evaluation": {"radius": {"low": 0.1, "high": 0.2}}},
        "evaluation.radius: {'low': 0.1, 'high': 0.2} must be a valid number; "
        "ranges and choices may stand in `space` only",
    ),
    (
        {"evaluation": {"radius": 0.1, "radii": [0.2, 0.1]}},
        "evaluation: radii: 0.1 appears twice in radius and radii: remove it",
    ),
    (
        {"objectives": ["natural_acuracy"]},
        "objectives.0: 'natural_acuracy' is no metric; did you mean natural_accuracy?",
    ),
    ({"objectives": []}, "objectives: [] must have at least 1 item"),
    ({"objectives": ["density"] * 2}, "objectives: density appears twice: remove it"),
    (
        {"objectives": ["epoch"]},
        "objectives.0: epoch cannot be an objective: neither more nor less of it is better",
    ),
    (
        {"objectives": ["verified_accuracy_at_0.1"]},
        "objectives.0: verified_accuracy_at_0.1 is not measured: add 0.1 to evaluation.radii "
        "(now [])",
    ),
    (
        {"objectives": ["verified_accuracy_at_0.05"]},
        "objectives.0: verified_accuracy_at_0.05 is at evaluation.radius: its name is "
        "verified_accuracy here",
    ),
    (
        {"constraints": ["verified_accuracy_at_0.1 > 0"]},
        "constraints.0: verified_accuracy_at_0.1 is not measured: add 0.1 to evaluation.radii "
        "(now [])",
    ),
    (
        {"constraints": ["densty < 1"]},
        "constraints.0: 'densty' is no metric; did you mean density?",
    ),
    (
        {
            "constraints": ["dense_twin_natural_accuracy > 0.9"],
            "space": {"topology": {"choice": [{"method": "acdc"}, {"method": "rigl"}]}},
        },
        "constraints.0: dense_twin_natural_accuracy is measured for topology methods acdc and "
        "deadwooding only, so trials with rigl would fail: search those methods alone, or leave "
        "this metric out (it is recorded all the same)",
    ),
    (
        {"objectives": ["natural_accuracy", "dense_twin_verified_accuracy"]},
        "objectives.1: dense_twin_verified_accuracy is measured for topology methods acdc and "
        "deadwooding only, so trials with dense would fail: search those methods alone, or leave "
        "this metric out (it is recorded all the same)",
    ),
    (
        {"sampler": {"name": "tpe", "startup_trial": 3}},
        "sampler.startup_trial: unknown key; did you mean startup_trials?",
    ),
    (
        {"scheduler": {"name": "moashaa"}},
        "scheduler.name: 'moashaa' must be one of: asha, moasha, fifo; did you mean moasha?",
    ),
    (
        {"scheduler": {"name": "asha", "grace_epochs": 4}},
        "scheduler.grace_epochs: 4 must be less than budget.epochs (4), or no trial could be "
        "stopped: lower it, or use scheduler {name: fifo}",
    ),
    (
        {"scheduler": {"name": "asha", "brackets": 2}},
        "scheduler.grace_epochs: 3 with brackets 2 and reduction_factor 3 puts a first rung at "
        "epoch 9, which must be less than budget.epochs (4), or no trial could be stopped: lower "
        "it, or use scheduler {name: fifo}",
    ),
    (
        {"resources": {"gpus_per_trial": 2}},
        "resources.gpus_per_trial: 2 must be less than or equal to 1; allowed: >= 0, <= 1",
    ),
    (
        {"resources": {"device": "cuda"}},
        "resources: device: cuda needs a share of a GPU: set gpus_per_trial, for example to 0.5",
    ),
    (
        {"space": {"epochs": {"low": 1, "high": 2}}},
        "space.epochs: is set for the whole study: write budget: {epochs: ...}",
    ),
    (
        {"space": {"data": {"name": "digits"}}},
        "space.data: is set for the whole study: write data at the top level of the study file",
    ),
    (
        {"space": {"optimizer": {"lr": {"low": 0.1, "high": 11}}}},
        "space.optimizer.lr.high: 11 must be less than or equal to 10; allowed: > 0, <= 10",
    ),
    ({"space": []}, "space: [] must be a mapping"),
]


@pytest.mark.parametrize(("changes", "line"), ONE_PROBLEM)
def test_one_problem_is_one_line(changes, line):
    assert problems(**changes) == [line]


@pytest.mark.parametrize("name", ["exact_verified_accuracy", "exact_falsified_accuracy_bound"])
def test_what_only_members_of_the_front_have_cannot_steer_the_search(name):
    instead = name.removeprefix("exact_")
    said = (
        f"{name} is found once the search has ended, for members of the front: use {instead} here, "
        "and choose by `goldenticket front tiny --where`"
    )
    lines = problems(
        name="tiny", objectives=["natural_accuracy", name], constraints=[f"{name} >= 0.8"]
    )
    assert lines == [f"objectives.1: {said}", f"constraints.0: {said}"]


@pytest.mark.parametrize("name", ["density", "num_active_parameters", "inference_flops"])
def test_what_is_planned_before_the_end_is_no_aim_of_its_own(name):
    said = f"planned_{name} is what is planned before the end, for early stopping: use {name} here"
    lines = problems(objectives=[f"planned_{name}"], constraints=[f"planned_{name} <= 0.1"])
    assert lines == [f"objectives.0: {said}", f"constraints.0: {said}"]


def test_rungs_are_no_part_of_a_trial():
    schedulers = [
        {"name": "fifo"},
        {"name": "asha", "grace_epochs": 1},
        {"name": "asha", "grace_epochs": 3, "reduction_factor": 2},
    ]
    space = {"epsilon": {"ramp_end": {"low": 0.3, "high": 0.9}}}
    fifo, *others = (
        StudyConfig.from_dict(MINIMAL | {"space": space, "scheduler": scheduler}).search_space()
        for scheduler in schedulers
    )
    params = fifo.sample(random.Random(0))
    assert all(other.decode(params) == fifo.decode(params) for other in others)


def test_the_data_fraction_may_be_fixed_or_searched():
    fixed = {"fidelity": {"data_start": 0.25}}
    trial = StudyConfig.from_dict(MINIMAL | {"space": fixed}).search_space().decode({})
    assert (trial.fidelity.data_start, trial.fidelity.data_full_at) == (0.25, 0.5)
    searched = {"fidelity": {"data_start": {"choice": [0.25, 1.0]}}}
    space = StudyConfig.from_dict(MINIMAL | {"space": searched}).search_space()
    assert space.decode({"fidelity.data_start": 0.25}) == trial
    assert problems(space={"fidelity": {"data_start": 0}}) == [
        "space.fidelity.data_start: 0 must be greater than 0; allowed: > 0, <= 1"
    ]


def test_holes_in_the_augmentation_of_the_data_are_allowed():
    data = {"name": "digits", "augment": {"shift": {"low": 0, "high": 2}}}
    space = StudyConfig.from_dict(MINIMAL | {"data": data}).search_space()
    assert space.decode({"data.digits.augment.shift": 1}).data.augment.shift == 1


@pytest.mark.parametrize(
    "topology", [{"method": "acdc"}, {"choice": [{"method": "acdc"}, {"method": "deadwooding"}]}]
)
def test_the_dense_twin_may_be_an_objective_where_every_trial_has_one(topology):
    objectives = ["dense_twin_natural_accuracy", "inference_flops"]
    changes = {"space": {"topology": topology}, "objectives": objectives}
    assert StudyConfig.from_dict(MINIMAL | changes).directions == ("maximize", "minimize")


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: x\nbogus: 1\ndata: {}\nevaluation: {radius: big}\nbudget: {trials: 0, epochs: 3}\n"
        "space: {topology: {method: rigl, density: {low: 0.5, high: 1.2}}, lr: 0.1}\n"
    )
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_yaml(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}:"
    assert [line.split(": ")[0] for line in lines] == [
        "bogus",
        "evaluation.radius",
        "budget.trials",
        "data.name",
        "space.topology.rigl.density.high",
        "space.lr",
    ]


@pytest.mark.parametrize("key", ["objectives", "constraints"])
def test_a_latency_must_be_asked_for(key):
    wanted = {"objectives": ["natural_accuracy", "latency_s"], "constraints": ["latency_s <= 1ms"]}
    tree = {
        "name": "a", "data": {"name": "digits"}, "evaluation": {"radius": 0.05},
        "budget": {"trials": 1, "epochs": 1}, key: wanted[key],
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"latency_s is measured when evaluation\.latency is"):
        StudyConfig.from_dict(tree)
    StudyConfig.from_dict({**tree, "evaluation": {"radius": 0.05, "latency": True}})
