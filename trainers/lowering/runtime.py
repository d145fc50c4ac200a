"""Running ONNX models on one thread of the CPU, and timing several networks side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from trainers.errors import ModelError
from trainers.lowering.onnx_writer import INPUT, OUTPUT

Call = Callable[[], object]
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""ONNX Runtime's errors, which have no common base but Exception."""
_LEAST_S = 1e-3
"""Seconds of one measurement: calls that are shorter are repeated within it."""


class OnnxNetwork:
    """An ONNX model with input `x` and output `logits`, on `threads` threads of the CPU.

    ModelError when ONNX Runtime cannot load it.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except ORT_ERRORS as error:
            raise ModelError(f"ONNX Runtime cannot load the network: {error}") from error

    def logits(self, x_BCHW: np.ndarray) -> np.ndarray:
        """Logits (B, K) of float32 inputs; ModelError when they do not fit."""
        try:
            (found,) = self.session.run([OUTPUT], {INPUT: x_BCHW})
        except ORT_ERRORS as error:
            raise ModelError(f"ONNX Runtime cannot run the network: {error}") from error
        return np.asarray(found)

    def call(self, x_BCHW: np.ndarray) -> Call:
        """The network on one batch, to be timed: inputs and outputs stay where they are."""
        binding = self.session.io_binding()
        binding.bind_cpu_input(INPUT, x_BCHW)
        binding.bind_output(OUTPUT, "cpu")
        return lambda: self.session.run_with_iobinding(binding)


def interleaved_medians(calls: Mapping[str, Call], seconds: float) -> dict[str, float]:
    """Median seconds of each call, measured in turns, so that a busy moment hits all of them.

    `seconds` for all of them together, at least five turns. A measurement repeats a call until a
    millisecond has passed.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {name: _repeats(call) for name, call in calls.items()}
    deadline = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < deadline:
        for name, call in calls.items():
            times[name].append(_timed(call, repeats[name]))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _repeats(call: Call) -> int:
    call()  # the first one chooses kernels and fills caches
    number = 1
    while (taken := _timed(call, number) * number) < _LEAST_S:
        number = max(2 * number, min(100 * number, round(number * _LEAST_S / max(taken, 1e-7))))
    return number


def _timed(call: Call, number: int) -> float:
    started = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - started) / number
