"""csr.safetensors: the compacted network's weights as compressed sparse rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError
from torch import nn

from analysis.errors import TicketError
from analysis.manifest import CSR
from trainers.bounds.program import Program
from trainers.lowering.simplify import StoredAffine

Arrays = Mapping[str, np.ndarray]


def csr_bytes(program: Program) -> bytes:
    """Weights and biases of a simplified network, layer by layer, as one safetensors file.

    Of the layer that makes value n, `v<n>.weight` as rows of one output each: `.row_ends` (the
    number of values up to and including each row), `.columns` (within the row, of the weight as
    (outputs, the rest)), `.values` (float32) and `.shape`; and `v<n>.bias`. Indices have the
    smallest unsigned type that holds them. A step x * scale + shift that is no part of a layer has
    `v<n>.scale` and `v<n>.shift`. Steps have the numbers of compact.onnx, which tells their order.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, layer in _layers(program):
        weight = layer.weight.detach().cpu().numpy()
        rows = weight.reshape(len(weight), -1)
        row_index, columns = rows.nonzero()
        row_ends = np.bincount(row_index, minlength=len(rows)).cumsum()
        arrays[f"{name}.weight.row_ends"] = _smallest(row_ends)
        arrays[f"{name}.weight.columns"] = _smallest(columns, rows.shape[1] - 1)
        arrays[f"{name}.weight.values"] = rows[row_index, columns].astype(np.float32)
        arrays[f"{name}.weight.shape"] = np.array(weight.shape, dtype=np.uint32)
        if layer.bias is not None:
            arrays[f"{name}.bias"] = layer.bias.detach().cpu().numpy().astype(np.float32)
    for name, tensor in _constants(program):
        arrays[name] = tensor.numpy(force=True).astype(np.float32)
    return safetensors.numpy.save(dict(sorted(arrays.items())))


def from_csr(program: Program, content: bytes) -> Program:
    """A copy of `program` with the weights of a file; TicketError when it is of another network."""
    try:
        arrays = safetensors.numpy.load(content)
        found = copy.deepcopy(program)
        expected = set()
        for name, layer in _layers(found):
            layer.weight = nn.Parameter(torch.from_numpy(_dense(arrays, name)), False)
            expected |= {f"{name}.weight.{part}" for part in _PARTS}
            if layer.bias is not None:
                layer.bias = nn.Parameter(torch.from_numpy(arrays[f"{name}.bias"]), False)
                expected.add(f"{name}.bias")
        for name, tensor in _constants(found):
            tensor.copy_(torch.from_numpy(arrays[name].reshape(tensor.shape)))
            expected.add(name)
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        raise TicketError(
            f"csr.safetensors does not hold this network's weights: {error}"
        ) from None
    if extra := set(arrays) - expected:
        raise TicketError(f"{CSR} holds {sorted(extra)[0]}, which the network lacks")
    return found


_PARTS = ("row_ends", "columns", "values", "shape")


def _dense(arrays: Arrays, name: str) -> np.ndarray:
    row_ends, columns, values, shape = (arrays[f"{name}.weight.{part}"] for part in _PARTS)
    counts: np.ndarray = np.diff(row_ends.astype(np.int64), prepend=0)
    dense = np.zeros((len(counts), int(np.prod(shape[1:]))), dtype=np.float32)
    dense[np.arange(len(counts)).repeat(counts.tolist()), columns] = values
    return dense.reshape(tuple(shape))


def _layers(program: Program) -> Iterator[tuple[str, Any]]:
    for number, step in enumerate(program.steps, 1):
        if isinstance(step.op, nn.Linear | nn.Conv2d):
            yield f"v{number}", step.op


def _constants(program: Program) -> Iterator[tuple[str, torch.Tensor]]:
    """What stays outside layers: normalisation in front of a border, slopes and biases of lines."""
    for number, step in enumerate(program.steps, 1):
        if isinstance(step.op, StoredAffine):
            yield f"v{number}.scale", step.op.scale_values
            yield f"v{number}.shift", step.op.shift_values


def _smallest(indices: np.ndarray, largest: int | None = None) -> np.ndarray:
    top = int(indices.max(initial=0)) if largest is None else largest
    kinds = (np.uint8, np.uint16, np.uint32)
    kind = next(kind for kind in kinds if top <= np.iinfo(kind).max)
    return indices.astype(kind)
