"""The network as it ships: compacted, with normalisation inside the layers where that is exact."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.bounds.normalization import running_norm
from trainers.bounds.program import Add, Affine, Expression, Flatten, Program, SpatialMean, Step
from trainers.bounds.trace import trace
from trainers.compaction import compact
from trainers.errors import ModelError

STEPS = (nn.Linear, nn.Conv2d, nn.ReLU, nn.AvgPool2d, Add, Affine, Flatten, SpatialMean)
"""What a simplified network is made of."""


class StoredAffine(Affine):
    """x * scale + shift with constants of its own, which broadcast to one example."""

    scale_values: Tensor
    shift_values: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__(
            Expression(getattr, (self, "scale_values")), Expression(getattr, (self, "shift_values"))
        )
        self.register_buffer("scale_values", scale)
        self.register_buffer("shift_values", shift)


@torch.no_grad()
def simplify(model: nn.Module, input_shape: Sequence[int], *, compacted: bool = True) -> Program:
    """A network with the same outputs, made of STEPS only, in evaluation mode.

    Units that it can do without are gone (trainers.compaction) unless `compacted` is False. Batch
    normalisation and constants become part of the layer before them, or of the layer behind them
    unless that pads its input: the zeros around an image are not shifted. What has no such layer
    stays a step of its own.
    `input_shape` is one example's. Both networks are compared on random inputs, in float64.

    Raises UnsupportedLayer when the network cannot be traced, ModelError when its forward depends
    on sizes that change.
    """
    smaller = compact(model, input_shape) if compacted else copy.deepcopy(model)
    program = copy.deepcopy(trace(smaller.eval())).eval().requires_grad_(False)
    graph = _Graph(program, input_shape)
    for rule in (graph.drop_idle, graph.store_constants, graph.merge_constants):
        graph.at_every_step(rule)
    for rule in (graph.fold_backwards, graph.fold_forwards):
        graph.at_every_step(rule)
    simpler = graph.program()
    _check_same(program, simpler, input_shape)
    return simpler


class _Graph:
    """A network whose steps are rewritten one by one; values keep their numbers until the end."""

    def __init__(self, program: Program, input_shape: Sequence[int]) -> None:
        first = next(program.parameters(), torch.zeros(()))
        self.kind, self.output = first.dtype, program.output
        zeros = torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)
        self.values = program.values(zeros)  # for their shapes and device
        self.steps: dict[int, Step] = dict(enumerate(program.steps, 1))

    def at_every_step(self, rule: Any) -> None:
        for number in list(self.steps):
            rule(number, self.steps[number])

    def drop_idle(self, number: int, step: Step) -> None:
        if isinstance(step.op, nn.Identity | nn.Dropout | nn.Dropout2d):
            self._remove(number)

    def store_constants(self, number: int, step: Step) -> None:
        """Batch normalisation and affine steps, in float64 until all of them are where they go."""
        op: Any = step.op
        x = self.values[step.inputs[0]]
        if isinstance(op, nn.BatchNorm1d | nn.BatchNorm2d):
            channels = (-1, *[1] * (x.ndim - 2))
            scale, shift = (c.view(channels) for c in running_norm(copy.deepcopy(op).double()))
        elif isinstance(op, Affine):
            scale, shift = (_of_one_example(c, x) for c in op.constants(x))
        else:
            return
        self._set(number, StoredAffine(scale, shift))

    def merge_constants(self, number: int, step: Step) -> None:
        before = self.steps.get(step.inputs[0])
        if isinstance(step.op, StoredAffine) and before and self._is_read_once(step.inputs[0]):
            if isinstance(before.op, StoredAffine):
                scale, shift = step.op.scale_values, step.op.shift_values
                shift = before.op.shift_values * scale + shift
                self._set(number, StoredAffine(before.op.scale_values * scale, shift))
                self._remove(step.inputs[0])

    def fold_backwards(self, number: int, step: Step) -> None:
        """Constants per unit become part of the layer that makes the units."""
        source = step.inputs[0]
        layer: Any = self.steps[source].op if source else None
        if not isinstance(step.op, StoredAffine) or not self._is_own_layer(layer):
            return
        if not self._is_read_once(source) or self.values[source].ndim == 3:
            return
        x = self.values[source]
        scale_O, shift_O = (_per_unit(c, x) for c in (step.op.scale_values, step.op.shift_values))
        if scale_O is None or shift_O is None:
            return
        weight = layer.weight.double() * scale_O.view(-1, *[1] * (layer.weight.ndim - 1))
        self._set_layer(source, weight, _bias(layer) * scale_O + shift_O)
        self._remove(number)

    def fold_forwards(self, number: int, step: Step) -> None:
        """Constants become part of the layer that alone reads them, through a flatten or not."""
        if not self._is_own_layer(step.op):
            return
        source, way = step.inputs[0], [step.inputs[0]]
        while source and isinstance(self.steps[source].op, Flatten):
            source = self.steps[source].inputs[0]
            way.append(source)
        affine = self.steps[source].op if source else None
        if isinstance(affine, StoredAffine) and all(map(self._is_read_once, way)):
            folded = _through(step.op, affine, self.values[source].shape)
            if folded is not None:
                self._set_layer(number, *folded)
                self._remove(source)

    def program(self) -> Program:
        """What is left, numbered anew, in the network's own type."""
        place = {0: 0} | {number: i for i, number in enumerate(self.steps, 1)}
        steps = [
            Step(step.op.to(self.kind), tuple(place[i] for i in step.inputs), step.place)
            for step in self.steps.values()
        ]
        return Program(steps, place[self.output]).eval().requires_grad_(False)

    def _is_read_once(self, number: int) -> bool:
        readers = Counter(i for step in self.steps.values() for i in step.inputs)
        return readers[number] + (number == self.output) == 1

    def _is_own_layer(self, op: Any) -> bool:
        """Whether it is a layer whose parameters no other step uses."""
        if not isinstance(op, nn.Linear | nn.Conv2d):
            return False
        used: Counter[Any] = Counter(
            p for step in self.steps.values() for p in step.op._parameters.values()
        )
        return all(used[p] == 1 for p in (op.weight, op.bias) if p is not None)

    def _remove(self, number: int) -> None:
        """Whoever reads a value reads what it was made from instead."""
        (source,) = self.steps.pop(number).inputs
        for other, step in self.steps.items():
            inputs = tuple(source if i == number else i for i in step.inputs)
            self.steps[other] = Step(step.op, inputs, step.place)
        self.output = source if self.output == number else self.output

    def _set(self, number: int, op: nn.Module) -> None:
        self.steps[number] = Step(op, self.steps[number].inputs, self.steps[number].place)

    def _set_layer(self, number: int, weight: Tensor, bias_O: Tensor) -> None:
        """A copy of the layer, since another path of the network may hold the module too."""
        layer: Any = copy.copy(self.steps[number].op)
        layer._parameters = {
            "weight": nn.Parameter(weight, requires_grad=False),
            "bias": nn.Parameter(bias_O, requires_grad=False),
        }
        self._set(number, layer)


def _bias(layer: Any) -> Tensor:
    zeros = torch.zeros(len(layer.weight), dtype=torch.float64, device=layer.weight.device)
    return zeros if layer.bias is None else layer.bias.double()


def _of_one_example(constant: Any, x: Tensor) -> Tensor:
    """A constant in float64, without the axis of examples, along which it is the same."""
    found = torch.as_tensor(constant, dtype=torch.float64, device=x.device)
    return found[0] if found.ndim == x.ndim else found


def _per_unit(constant: Tensor, x: Tensor) -> Tensor | None:
    """A constant as one number per channel or feature of `x`; None when it is more than that."""
    units_Uk = constant.expand(x.shape[1:]).reshape(x.shape[1], -1)
    same = bool((units_Uk == units_Uk[:, :1]).all())
    return units_Uk[:, 0] if same else None


def _through(layer: Any, affine: StoredAffine, shape: torch.Size) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a layer that reads x, of `shape`, instead of `affine` of x."""
    weight, scale, shift = layer.weight.double(), affine.scale_values, affine.shift_values
    if isinstance(layer, nn.Linear):
        if weight.shape[1] != shape[1:].numel():
            return None  # a layer on the last of several axes
        scale_I, shift_I = (c.expand(shape[1:]).reshape(-1) for c in (scale, shift))
        return weight * scale_I, _bias(layer) + weight @ shift_I
    padded = layer.padding not in ((0, 0), "valid")
    example = torch.empty(shape, device="meta")
    scale_C, shift_C = (_per_unit(c, example) for c in (scale, shift))
    if layer.groups != 1 or scale_C is None or shift_C is None or (padded and bool(shift_C.any())):
        return None
    scale_C, shift_C = (c.view(1, -1, 1, 1) for c in (scale_C, shift_C))
    return weight * scale_C, _bias(layer) + (weight * shift_C).sum((1, 2, 3))


def _check_same(before: Program, after: Program, input_shape: Sequence[int]) -> None:
    first = next(before.parameters(), torch.zeros(()))
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(4, *input_shape, generator=draw, dtype=torch.float64).to(first.device)
    expected, found = copy.deepcopy(before).double()(x), copy.deepcopy(after).double()(x)
    tolerance = 1e-5 * max(1.0, float(expected.nan_to_num().abs().max()))
    if not torch.allclose(found, expected, 0.0, tolerance, equal_nan=True):
        raise ModelError(
            "the network computes something else with normalisation inside its layers: outputs "
            f"differ by {float((found - expected).abs().max()):.3g}, where {tolerance:.3g} is "
            "allowed: a scale is too large or too small for float32"
        )
