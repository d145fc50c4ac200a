"""Devices, threads and independent streams of random numbers."""

from __future__ import annotations

import gc
import hashlib
import os

import torch

from trainers.errors import TrainerError


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means on this machine.

    `auto` is the current CUDA device if there is one, else the CPU. Raises TrainerError when
    cuda is asked for and torch sees none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise TrainerError(f"device is {name!r}: it must be auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TrainerError(
            "compute.device is cuda, but torch sees no CUDA device here: use device: auto or cpu, "
            "give the trial a GPU (resources.gpus_per_trial), or install a CUDA build of torch"
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    # With its index, so that it compares equal to the device of a tensor that lies on it.
    return torch.device("cuda", torch.cuda.current_device())


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each (seed, stream), e.g. `generator(0, "weights")`.

    Streams are told apart by a hash, so drawing more from one never changes another.
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def set_threads(count: int) -> None:
    """Let torch use `count` CPU threads within an operation."""
    torch.set_num_threads(count)


def num_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def release_memory() -> None:
    """Give back device memory that a finished trial no longer refers to.

    On the CPU nothing is done: collecting garbage takes longer than a short trial, and Python does
    so when it needs to.
    """
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
