"""A network on one box as linear equations and one binary for each ReLU that may go either way.

What is linear on the whole box is folded away: everything is a linear function of the inputs and of
the outputs of the ReLUs in front of it that are open (Tjeng et al. 2019, arXiv:1711.07356). What a
rounding of activations does is free within its bounds: an input more for each place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.bounds.backward import convolution_padding
from trainers.bounds.interval import Activation
from trainers.bounds.program import Add, Affine, Flatten, Program, SpatialMean, Step
from trainers.bounds.rounded import Rounded
from trainers.verify.relu_program import ReluProgram

Array = np.ndarray[Any, np.dtype[Any]]
Linear = tuple[sp.csr_array, Array]
"""Matrix and constant: a value as a function of the variables."""


@dataclass(frozen=True)
class _Rounding:
    """Units of a value that rounding moves by -below to above."""

    units: Array
    below: Array
    above: Array


class Encoder:
    """Writes the network of `program` as a `ReluProgram`, box by box; layers become matrices once.

    Batch normalisation is read in evaluation mode.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.matrices: dict[int, sp.csr_array] = {}

    def encode(self, values: Sequence[Activation], i: int, y: int) -> ReluProgram:
        """Example `i` of `values`, whose label is `y`.

        `values` are the network's values with intervals (`IntervalPass.values`, or tighter ones).
        """
        lower, upper = (_array(end[i]) for end in values[0].bounds)
        num_inputs, roundings = len(lower), self._roundings(values, i)
        lower = np.concatenate([lower, *(-r.below for r in roundings.values())])
        upper = np.concatenate([upper, *(r.above for r in roundings.values())])
        open_units = self._open_units(values, i)
        width = len(lower) + sum(len(units) for units in open_units.values())
        inputs_alone = sp.eye_array(num_inputs, width, format="csr")
        exact: list[Linear] = [(inputs_alone, np.zeros(num_inputs))]
        rows, constants, below, above = [], [], [], []
        column, rounding_column = len(lower), num_inputs
        for made, step in enumerate(self.program.steps, 1):
            inputs = [exact[n] for n in step.inputs]
            if isinstance(step.op, nn.ReLU):
                matrix, constant = inputs[0]
                low, high = (_array(end[i]) for end in values[step.inputs[0]].bounds)
                units = open_units[made]
                rows.append(matrix[units])
                constants.append(constant[units])
                below.append(low[units])
                above.append(high[units])
                exact.append(_behind_relu(inputs[0], low >= 0, units, column))
                column += len(units)
            elif isinstance(step.op, Rounded):
                units = roundings[made].units
                exact.append(_with_variables(inputs[0], units, rounding_column))
                rounding_column += len(units)
            else:
                exact.append(self._behind(made, step, inputs, values[step.inputs[0]]))
        matrix, constant = exact[self.program.output]
        return ReluProgram(
            input_lower=lower,
            input_upper=upper,
            rows=sp.vstack(rows, format="csr") if rows else sp.csr_array((0, width)),
            constants=np.concatenate([*constants, np.zeros(0)]),
            below=np.concatenate([*below, np.zeros(0)]),
            above=np.concatenate([*above, np.zeros(0)]),
            margin_rows=_margin(matrix.toarray(), y),
            margin_constants=_margin(constant, y),
        )

    def _open_units(self, values: Sequence[Activation], i: int) -> dict[int, Array]:
        """By the number of a ReLU's value: its units that may be on either side of zero."""
        found = {}
        for made, step in enumerate(self.program.steps, 1):
            if isinstance(step.op, nn.ReLU):
                low, high = (_array(end[i]) for end in values[step.inputs[0]].bounds)
                found[made] = np.flatnonzero((low < 0) & (high > 0))
        return found

    def _roundings(self, values: Sequence[Activation], i: int) -> dict[int, _Rounding]:
        """By the number of a rounded value: what rounding may do to it."""
        found = {}
        for made, step in enumerate(self.program.steps, 1):
            if isinstance(step.op, Rounded):
                ends = (end[i : i + 1] for end in values[step.inputs[0]].bounds)
                below, above = map(_array, step.op.reach(*ends))
                units = np.flatnonzero((below != 0.0) | (above != 0.0))
                found[made] = _Rounding(units, below[units], above[units])
        return found

    def _behind(
        self, made: int, step: Step, inputs: Sequence[Linear], before: Activation
    ) -> Linear:
        op: Any = step.op
        matrix, constant = inputs[0]
        x = before.center[:1]
        if isinstance(op, Add):
            return (matrix + inputs[1][0]).tocsr(), constant + inputs[1][1]
        if isinstance(op, nn.BatchNorm1d | nn.BatchNorm2d | Affine):
            scale, shift = _scale_and_shift(op, x)
            return (sp.diags_array(scale) @ matrix).tocsr(), scale * constant + shift
        if isinstance(op, Flatten | nn.Identity | nn.Dropout | nn.Dropout2d):
            return inputs[0]
        if made not in self.matrices:
            self.matrices[made] = _matrix_of(op, x)
        layer = self.matrices[made]
        shift = _array(_bias(op, x).expand_as(op(x[:1])[0]))
        return (layer @ matrix).tocsr(), layer @ constant + shift


def _behind_relu(before: Linear, is_active: Array, units: Array, column: int) -> Linear:
    """Active units as they are, open ones as variables from `column` on, others zero."""
    matrix, constant = before
    kept = sp.diags_array(is_active.astype(float))
    active = (kept @ matrix).tocsr(), np.where(is_active, constant, 0.0)
    return _with_variables(active, units, column)


def _with_variables(before: Linear, units: Array, column: int) -> Linear:
    """One variable added to each of the units; they stand from `column` on."""
    matrix, constant = before
    places = (units, column + np.arange(len(units)))
    variables = sp.csr_array((np.ones(len(units)), places), shape=matrix.shape)
    return (matrix + variables).tocsr(), constant


def _margin(logits: Array, y: int) -> Array:
    """Logit y minus each logit; row y is zero."""
    margins: Array = logits[y] - logits
    return margins


def _scale_and_shift(op: Any, x: Tensor) -> tuple[Array, Array]:
    """Elementwise factors and summands, one for each element of an example."""
    if isinstance(op, Affine):
        scale, shift = op.constants(x)
    else:
        scale = torch.rsqrt(op.running_var + op.eps)
        scale = scale if op.weight is None else scale * op.weight
        shift = -op.running_mean * scale
        shift = shift if op.bias is None else shift + op.bias
        scale, shift = (t.view(-1, *[1] * (x.ndim - 2)) for t in (scale, shift))
    ones = torch.ones_like(x)
    return _array(ones * scale), _array(ones * shift)


def _bias(op: Any, x: Tensor) -> Tensor:
    bias = getattr(op, "bias", None)
    if bias is None:
        return x.new_zeros(())
    return bias.view(-1, 1, 1) if isinstance(op, nn.Conv2d) else bias


def _matrix_of(op: Any, x: Tensor) -> sp.csr_array:
    """The matrix of a linear layer, without its bias, for flattened examples shaped like x."""
    if isinstance(op, nn.Conv2d):
        return _convolution(op, x)
    if isinstance(op, nn.Linear):
        return sp.kron(sp.eye_array(x[0].numel() // x.shape[-1]), _dense(op.weight), format="csr")
    assert isinstance(op, nn.AvgPool2d | SpatialMean), op
    # Each channel is pooled by itself.
    size = x.shape[2] * x.shape[3]
    one_channel = op(torch.eye(size).to(x).view(size, 1, *x.shape[2:])).flatten(1).T
    return sp.kron(sp.eye_array(x.shape[1]), _dense(one_channel), format="csr")


def _convolution(op: nn.Conv2d, x: Tensor) -> sp.csr_array:
    """One row for each output channel and position; pruned weights take no room."""
    (top, bottom), (left, right) = convolution_padding(op)
    places = torch.arange(1, x[0].numel() + 1, dtype=torch.float64).view(1, *x.shape[1:])
    padded = F.pad(places, (left, right, top, bottom))  # 0 where padding is read
    read = F.unfold(padded, op.kernel_size, op.dilation, 0, op.stride)[0].long().numpy()
    weight = _array(op.weight).reshape(len(op.weight), -1)
    outputs, taps = np.nonzero(weight)
    group = outputs // (len(weight) // op.groups)
    columns = read[group * weight.shape[1] + taps] - 1
    num_positions = columns.shape[1]
    rows = outputs[:, None] * num_positions + np.arange(num_positions)
    entries = np.broadcast_to(weight[outputs, taps][:, None], columns.shape)
    real = columns >= 0
    shape = (len(weight) * num_positions, x[0].numel())
    return sp.csr_array((entries[real], (rows[real], columns[real])), shape=shape)


def _dense(matrix: Tensor) -> sp.csr_array:
    return sp.csr_array(matrix.detach().cpu().double().numpy())


def _array(tensor: Tensor) -> Array:
    """Flattened, in float64."""
    array: Array = tensor.detach().cpu().double().flatten().numpy()
    return array
