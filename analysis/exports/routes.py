"""What each route writes, and how what it wrote is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import nn

from analysis.exports.c_build import CompiledModel
from analysis.exports.c_source import c_source
from analysis.exports.csr import csr_bytes, from_csr
from analysis.exports.int8 import int8_bytes
from analysis.manifest import C_HEADER, C_SOURCE, COMPACT, CSR, INT8, ONNX
from analysis.onnx_model import onnx_bytes
from analysis.ticket import Ticket
from analysis.version import library_version
from trainers.bounds.program import Program
from trainers.data import Data
from trainers.lowering import simplify
from trainers.lowering.onnx_writer import onnx_model
from trainers.lowering.runtime import Call, OnnxNetwork

NUM_CALIBRATION = 256
"""The first training examples, by which the ranges of 8-bit activations are found."""


class Network(Protocol):
    """What was exported, loaded from its own bytes."""

    def logits(self, x_BCHW: np.ndarray) -> np.ndarray:
        """Logits (B, K) of float32 inputs."""

    def call(self, x_BCHW: np.ndarray) -> Call:
        """The network on one batch, to be timed."""


@dataclass(frozen=True)
class Source:
    """What exports are made from."""

    ticket: Ticket
    data: Data

    @cached_property
    def model(self) -> nn.Module:
        """The ticket's network."""
        return self.ticket.model()

    @cached_property
    def program(self) -> Program:
        """The same, compacted and with normalisation inside its layers."""
        return simplify(self.model, self.ticket.input_shape)

    @cached_property
    def dense(self) -> bytes:
        """model.onnx."""
        return onnx_bytes(self.model, self.ticket.input_shape)

    @cached_property
    def compact(self) -> bytes:
        """compact.onnx."""
        return bytes(onnx_model(self.program, self.ticket.input_shape).SerializeToString())


@dataclass(frozen=True)
class Export:
    """Files by name, the network that they are, whether its weights are rounded, tools used."""

    files: Mapping[str, bytes]
    network: Network
    is_rounded: bool = False
    tools: Mapping[str, str] = field(default_factory=dict)


class TorchNetwork:
    """A module run by PyTorch on one thread, for what has no runtime of its own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def logits(self, x_BCHW: np.ndarray) -> np.ndarray:
        """Logits (B, K) of float32 inputs."""
        with torch.no_grad():
            found: torch.Tensor = self.module(torch.from_numpy(x_BCHW))
        return found.numpy()

    def call(self, x_BCHW: np.ndarray) -> Call:
        """The network on one batch, to be timed."""
        x = torch.from_numpy(x_BCHW)
        return torch.inference_mode()(lambda: self.module(x))


def _onnx(source: Source) -> Export:
    return Export({ONNX: source.dense}, OnnxNetwork(source.dense), tools=_runtime())


def _compact(source: Source) -> Export:
    return Export({COMPACT: source.compact}, OnnxNetwork(source.compact), tools=_runtime())


def _int8(source: Source) -> Export:
    content = int8_bytes(source.compact, source.data.train.x[:NUM_CALIBRATION])
    return Export({INT8: content}, OnnxNetwork(content), is_rounded=True, tools=_runtime())


def _c(source: Source) -> Export:
    written = c_source(source.program, source.ticket.input_shape)
    network = CompiledModel(written)
    tools = {"compiler": network.compiler, "flags": " ".join(network.flags)}
    files = {C_SOURCE: written.source.encode(), C_HEADER: written.header.encode()}
    return Export(files, network, tools=tools)


def _csr(source: Source) -> Export:
    content = csr_bytes(source.program)
    network = TorchNetwork(from_csr(source.program, content))
    return Export({CSR: content}, network, tools={"torch": library_version("torch")})


def _runtime() -> dict[str, str]:
    return {"onnxruntime": library_version("onnxruntime")}


ROUTES: Mapping[str, Callable[[Source], Export]] = {
    "onnx": _onnx,
    "compact": _compact,
    "int8": _int8,
    "c": _c,
    "csr": _csr,
}
"""By the names of `analysis.manifest.EXPORTS`."""
