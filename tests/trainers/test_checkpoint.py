"""A training that goes on from a file ends, bit for bit, where it would have ended."""

import io
from typing import get_args

import pytest
import torch
from trials import LOSSES, METHODS, config, sparse

from spaces.topology import TopologyConfig
from spaces.training import LossConfig
from trainers import build, train
from trainers.data import load_data

EPOCHS = 3
NATURAL = [m for m in METHODS if m not in ("snip", "sparsevlr")]  # the two need a certified loss
UNITS = {"density": 0.3, "granularity": "unit"}
VARIANTS = {
    "sgd": sparse("set", optimizer={"name": "sgd", "lr": 0.05}),
    "adamw": sparse("set", optimizer={"name": "adamw", "lr": 0.01, "weight_decay": 0.01}),
    "radam": sparse("acdc", optimizer={"name": "radam", "lr": 0.01}),
    "averaged": sparse("rigl", optimizer={"lr": 0.01, "swa_start": 0.3}),
    "averaged gates": sparse("gibbs", optimizer={"lr": 0.01, "swa_start": 0.3}),
    "grafted in epoch 1": sparse("gmp", grafting={"fraction": 0.4, "start": 0.1}),
    "grafted in epoch 3": sparse("gmp", grafting={"fraction": 0.4, "start": 0.9}),
    "gates of units": sparse("gibbs", topology={"method": "gibbs", **UNITS}),
    "learned gates of units": sparse(
        "hard_concrete", topology={"method": "hard_concrete", **UNITS}
    ),
    "searched units": sparse("jackpots", topology={"method": "jackpots", **UNITS}),
    "momenta of gradients": sparse(
        "rigl",
        topology={"method": "rigl", "density": 0.3, "grow": "momentum", "update_every": 2},
    ),
    "two cycles": sparse(
        "acdc", topology={"method": "acdc", "density": 0.3, "cycles": 2, "warmup": 0.2}
    ),
    "teacher": sparse(
        "deadwooding",
        topology={**METHODS["deadwooding"], "density": 0.3, "distillation": 1.0},
    ),
    "growing data": sparse("rigl", fidelity={"data_start": 0.4, "data_full_at": 0.7}),
    "stability in the loss": sparse("set", {"name": "ibp", "stability_weight": 0.01}),
    "augmented images": sparse(
        "set",
        data={"name": "digits", "augment": {"shift": 1, "flip": True}},
        model={"family": "cnn", "channels": [4], "hidden": [16], "batch_norm": True},
    ),
}


@pytest.fixture(scope="module")
def data():
    return load_data(config().data, torch.device("cpu"))


def through_a_file(state):
    """What is left of a state in a file from which nothing is unpickled."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(found, expected, place="state"):
    """Equal to the last bit, at every depth."""
    assert type(found) is type(expected), place
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_same(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{place}.{index}")
    else:
        assert found == expected, place


def without_times(metrics):
    """Metrics, or a state, but for the seconds that they took."""
    return {name: value for name, value in metrics.items() if name not in ("duration_s", "seconds")}


def names_of(union):
    """The names by which the members of a union of configurations are chosen."""
    _, key = get_args(union)
    members = get_args(get_args(union)[0])
    fields = [member.model_fields[key.discriminator].annotation for member in members]
    return {name for field in fields for name in get_args(field)}


def check_resume(trial, data):
    """Save after every epoch, go on from each file, and compare with who was never interrupted."""
    trial = trial.model_copy(update={"epochs": EPOCHS})
    whole = build(trial, data)
    saved, reports = [], []
    while not whole.finished:
        reports.append(without_times(whole.run_epoch()))
        saved.append(through_a_file(whole.state_dict()))
    for epoch, state in enumerate(saved, 1):
        resumed = build(trial, data)
        resumed.load_state_dict(state)
        assert_same(resumed.state_dict(), state)
        while not resumed.finished:
            assert_same(without_times(resumed.run_epoch()), reports[resumed.epoch - 1])
        found, expected = without_times(resumed.state_dict()), without_times(saved[-1])
        assert_same(found, expected, f"from epoch {epoch}")
    found, expected = (without_times(t.final_metrics()) for t in (resumed, whole))
    assert_same(found, expected, "final metrics")


def test_every_method_and_loss_is_here():
    assert {settings["method"] for settings in METHODS.values()} == names_of(TopologyConfig)
    assert set(LOSSES) == names_of(LossConfig)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_from_a_file(data, method):
    check_resume(sparse(method), data)


@pytest.mark.slow
@pytest.mark.parametrize("method", NATURAL)
def test_every_method_goes_on_under_a_loss_without_bounds(data, method):
    check_resume(sparse(method, "natural"), data)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_goes_on_from_a_file(data, loss):
    check_resume(sparse("set", loss), data)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "loss"), [("grasp", "staps"), ("sparsevlr", "mtl_ibp")])
def test_scores_by_an_attacked_loss_go_on_from_a_file(data, method, loss):
    check_resume(sparse(method, loss), data)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_other_part_that_has_a_state_goes_on_from_a_file(data, variant):
    check_resume(VARIANTS[variant], data)


BUDGETED = {
    "dense at first": sparse("gmp"),
    "dense twin": sparse("acdc"),
    "gates": sparse("gibbs"),
    "searched": sparse("jackpots"),
    "mtl_ibp": sparse("set", "mtl_ibp"),
    "cosine": sparse("set", optimizer={"lr": 0.01, "lr_schedule": "cosine", "swa_start": 0.3}),
    "growing data": VARIANTS["growing data"],
}


@pytest.mark.parametrize("case", BUDGETED)
def test_a_training_that_is_stopped_was_the_beginning_of_the_whole_one(data, case):
    trial = BUDGETED[case].model_copy(update={"epochs": 4})
    whole = build(trial, data)
    for stop in (1, 2, 3):
        expected = without_times(whole.run_epoch())
        stopped = train(trial, data, report=lambda metrics, stop=stop: metrics["epoch"] < stop)
        assert stopped.epoch == stop and not stopped.finished
        found, state = (without_times(t.state_dict()) for t in (stopped, whole))
        assert_same(found, state, f"after epoch {stop}")
        assert expected["train_epsilon"] == stopped.epsilon(stopped.step)


def test_a_smaller_budget_is_another_schedule(data):
    whole, short = (build(sparse("gmp", epochs=epochs), data) for epochs in (8, 2))
    found = [training.run_epoch() for training in (whole, short) for _ in range(2)]
    radii = [metrics["train_epsilon"] for metrics in found]
    assert radii[:2] < radii[2:] and radii[3] == whole.epsilon.target
    assert found[1]["density"] > 0.5 and found[3]["density"] < 0.31


def test_training_on_does_not_change_the_state_that_it_went_on_from(data):
    for trial in (sparse("rigl"), sparse("gibbs"), sparse("acdc"), VARIANTS["averaged"]):
        first = build(trial, data)
        first.run_epoch()
        state = first.state_dict()
        before = through_a_file(state)
        resumed = build(trial, data)
        resumed.load_state_dict(state)
        resumed.run_epoch()
        assert_same(state, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["gmp", "gibbs", "acdc", "jackpots"])
def test_a_training_on_a_gpu_goes_on_from_a_file_read_on_the_cpu(method):
    trial = sparse(method, optimizer={"lr": 0.01, "swa_start": 0.3}, epochs=EPOCHS)
    on_gpu = load_data(trial.data, torch.device("cuda", torch.cuda.current_device()))
    whole, resumed = build(trial, on_gpu), build(trial, on_gpu)
    for _ in range(EPOCHS - 1):
        whole.run_epoch()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    assert_same(resumed.run_epoch()["train_loss"], whole.run_epoch()["train_loss"])
    assert {weight.device for weight in resumed.weights.values()} == {on_gpu.train.x.device}


def test_the_seconds_of_both_parts_are_counted(data):
    trial = sparse("set", epochs=EPOCHS)
    first, second = build(trial, data), build(trial, data)
    before = first.run_epoch()["duration_s"]
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.seconds == first.seconds == before > 0.0
    assert second.run_epoch()["duration_s"] > before
