"""Devices and streams of random numbers."""

import pytest
import torch

from trainers.device import generator, release_memory, resolve_device, set_threads
from trainers.errors import TrainerError


def test_the_cpu_is_always_there():
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_cuda_only_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")


def test_cuda_that_is_not_there_is_an_error_with_a_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainerError, match="device is cuda.*no CUDA.*auto or cpu"):
        resolve_device("cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(TrainerError, match="'tpu'.*auto, cpu or cuda"):
        resolve_device("tpu")


def draws(seed, stream):
    return torch.rand(4, generator=generator(seed, stream)).tolist()


def test_streams_are_independent_and_repeatable():
    assert draws(0, "weights") == draws(0, "weights")
    different = [draws(0, "weights"), draws(1, "weights"), draws(0, "masks"), draws(10, "weights")]
    assert len({tuple(d) for d in different}) == 4


def test_a_stream_is_the_same_in_every_process():
    # sha256("0/weights"), first 8 bytes, halved: written down once.
    assert generator(0, "weights").initial_seed() == RECORDED


RECORDED = 0x03B4290604C66D74 >> 1


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draws(0, "weights")
    assert torch.equal(torch.get_rng_state(), before)


def test_threads():
    before = torch.get_num_threads()
    set_threads(2)
    assert torch.get_num_threads() == 2
    set_threads(before)


def test_releasing_memory_needs_no_gpu():
    release_memory()
