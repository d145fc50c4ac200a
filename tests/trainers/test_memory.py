"""Nothing keeps a training's tensors alive once it has been dropped: a GPU is used by many."""

import gc
import weakref

import pytest
import torch
from trials import LOSSES, config, sparse

from trainers import build
from trainers.data import load_data
from trainers.errors import TrainingDiverged

OTHERS = {
    "averaged gates": sparse("gibbs", optimizer={"lr": 0.01, "swa_start": 0.3}),
    "grafted": sparse("gmp", grafting={"fraction": 0.4}),
    "exact": sparse("set", evaluation={"radius": 0.05, "methods": ["exact"], "examples": 5}),
    "resumed": sparse("acdc"),
}

SEVERAL = ("dense", "grasp", "synflow", "rigl", "ctre", "acdc", "gibbs", "slimming", "jackpots")
"""Methods that keep copies, graphs, signals, variables or whole networks for a while."""


@pytest.fixture(scope="module")
def data():
    return load_data(config().data, torch.device("cpu"))


def watch(training):
    """Weak references to a training, its parts, and every tensor of its state."""
    parts = [training, training.model, training.optimizer, training.loss, training.sparsifier]
    parts += [*training.model.parameters(), *training.model.buffers()]
    if training.twin is not None:
        parts += [training.twin.model, *training.twin.model.parameters()]
    return [weakref.ref(part) for part in (*parts, *tensors(training.state_dict()))]


def tensors(state):
    """Tensors at any depth of a state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for inner in state.values() if isinstance(state, dict) else state:
            yield from tensors(inner)


def run_and_drop(trial, data, *, resumed=False):
    """A whole training, of which only weak references are left."""
    training = build(trial, data)
    watched = []
    if resumed:
        training.run_epoch()
        watched = watch(training)
        first, training = training, build(trial, data)
        training.load_state_dict(first.state_dict())
    while not training.finished:
        training.run_epoch()
    training.final_metrics()
    return watched + watch(training)


def assert_gone(watched):
    assert len(watched) > 10
    gc.collect()
    alive = [reference() for reference in watched if reference() is not None]
    assert not alive, f"{len(alive)} of {len(watched)} are alive, the first: {type(alive[0])}"


@pytest.mark.parametrize(
    "trial",
    [
        *(pytest.param(sparse(method), id=method) for method in SEVERAL),
        *(pytest.param(sparse("set", loss), id=loss) for loss in LOSSES),
        *(pytest.param(trial, id=name) for name, trial in OTHERS.items()),
    ],
)
def test_a_training_that_was_dropped_is_gone(data, trial):
    resumed = trial is OTHERS["resumed"]
    assert_gone(run_and_drop(trial, data, resumed=resumed))
    assert len(data.train.x), "the data set is kept for the next trial"


def test_a_training_that_failed_is_gone(data):
    exploding = {"name": "sgd", "lr": 10.0, "weight_decay": 1.0, "lr_schedule": "constant"}

    def fail():
        training = build(config(optimizer=exploding, batch_size=16), data)
        with pytest.raises(TrainingDiverged):
            while not training.finished:
                training.run_epoch()
        return watch(training)

    assert_gone(fail())


@pytest.mark.slow
def test_a_compiled_training_that_was_dropped_is_gone(data, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda f: torch._dynamo.optimize("eager")(f))
    assert_gone(run_and_drop(sparse("rigl", compute={"compile": True}), data))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_no_more_in_use_after_many_trials_than_after_one():
    from trainers.device import release_memory

    on_gpu = load_data(config().data, torch.device("cuda", torch.cuda.current_device()))
    used = []
    for _ in range(5):
        run_and_drop(sparse("acdc"), on_gpu)
        release_memory()
        used.append(torch.cuda.memory_allocated())
    assert used[1:] == used[1:2] * 4
