"""Which units a pruned network can do without, and the smaller network that computes the same.

A unit may go when nothing that varies flows from it to the logits: because no weight that is not
zero reads it, because whatever reads it may go itself, or because its output is a constant, which
then becomes part of the biases of the layers that read it. All of this is about evaluation mode.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainers.bounds.program import Add, Affine, evaluate
from trainers.cost import nonzero_counts
from trainers.errors import ModelError
from trainers.models.modes import evaluating
from trainers.wiring import UnitGroup, Wiring


def live_units(model: nn.Module, wiring: Wiring) -> dict[str, Tensor]:
    """Which units must stay, a bool tensor by group name; the first one of a group that needs none.

    `wiring` must be that of this very model.
    """
    return {name: _never_empty(live) for name, live in _Influence(model, wiring).live().items()}


def effective_counts(model: nn.Module, wiring: Wiring | None = None) -> dict[str, int]:
    """Non-zero weights that remain after `compact`, of each Linear and Conv2d, by parameter name.

    Raises UnsupportedLayer when the network cannot be traced. A `wiring` that is at hand saves
    tracing it.
    """
    influence = _Influence(model, wiring or Wiring.of(model))
    live = influence.live()
    return {**nonzero_counts(model), **{use.weight: use.count(live) for use in influence.uses}}


@torch.no_grad()
def compact(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """A copy of `model` without the units that it can do without; in evaluation mode, the same.

    Rows, columns, biases, batch normalisation and the layers' attributes shrink; constants go into
    biases, which are added where there are none. A layer that is not needed at all keeps one unit
    of zeros. Both networks are compared on random inputs of `input_shape` (one example's), in
    float64. Raises UnsupportedLayer when the network cannot be traced, ModelError when its forward
    depends on sizes that change.
    """
    wiring = Wiring.of(model)
    influence = _Influence(model, wiring)
    live = influence.live()
    smaller = copy.deepcopy(model)
    parameters = dict(smaller.named_parameters())
    for group in wiring.groups:
        _cut(group, parameters, live[group.name])
    kept = {name: _never_empty(units) for name, units in live.items()}
    paths = {module: path for path, module in model.named_modules()}
    for step, unit in zip(wiring.program.steps, wiring.units[1:], strict=True):
        if unit is not None and isinstance(step.op, nn.BatchNorm1d | nn.BatchNorm2d):
            _cut_statistics(smaller.get_submodule(paths[step.op]), kept[unit])
    for use in influence.uses:
        _add_to_bias(smaller.get_submodule(paths[use.layer]), use.folded(live, kept))
    for module in smaller.modules():
        _state_sizes(module)
    _check_same(model, smaller, input_shape)
    return smaller


@dataclass(frozen=True)
class _Use:
    """One use of a layer: what its outputs (O) take from each unit (U) that it reads.

    `reads` and `makes` are names of groups; a layer whose inputs are in none reads one unit, which
    varies. `varies_OU` is where an output depends on a unit that is not a constant; elsewhere
    `shift_OU` is what the unit adds to it.
    """

    weight: str
    layer: Any
    reads: str | None
    makes: str | None
    nonzero_OU: Tensor
    varies_OU: Tensor
    shift_OU: Tensor

    def count(self, live: Mapping[str, Tensor]) -> int:
        """Non-zero weights between live units."""
        counts_OU = self.nonzero_OU
        if self.makes is not None:
            counts_OU = counts_OU[live[self.makes]]
        if self.reads is not None:
            counts_OU = counts_OU[:, live[self.reads]]
        return int(counts_OU.sum())

    def folded(self, live: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Tensor:
        """What units that go would have added to each output that stays."""
        shift_OU = self.shift_OU
        if self.makes is not None:
            shift_OU = shift_OU[kept[self.makes]]
        if self.reads is not None:
            return shift_OU[:, ~live[self.reads]].sum(1)
        return torch.zeros_like(shift_OU[:, 0])


class _Influence:
    """Follows constants forwards through a network, and what depends on units backwards."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, wiring: Wiring) -> None:
        self.wiring, self.steps = wiring, wiring.program.steps
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.sizes = {group.name: group.size for group in wiring.groups}
        self.times_read = Counter(p for step in self.steps for p in step.op._parameters.values())
        self.uses: list[_Use] = []
        # Per value and unit: the constant that it is in float64, NaN where it varies. Values whose
        # units are in no group are None: all that reads them must keep reading them.
        self.constants: list[Tensor | None] = [None]
        for step, unit in zip(self.steps, wiring.units[1:], strict=True):
            inputs = [self.constants[i] for i in step.inputs]
            if isinstance(step.op, nn.Linear | nn.Conv2d):
                use = self._use(step.op, wiring.units[step.inputs[0]], unit, inputs[0])
                self.uses.append(use)
                self.constants.append(None if unit is None else _outputs(use))
            else:
                self.constants.append(None if unit is None else _constants_after(step.op, inputs))

    def live(self) -> dict[str, Tensor]:
        """Units that something flows from to the logits: the least that is closed, by group."""
        device = next((use.varies_OU.device for use in self.uses), None)
        live = {
            name: torch.zeros(size, dtype=torch.bool, device=device)
            for name, size in self.sizes.items()
        }
        before = -1
        while (now := sum(int(units.sum()) for units in live.values())) > before:
            before = now
            for use in reversed(self.uses):
                if use.reads is not None:
                    varies_OU = use.varies_OU
                    if use.makes is not None:
                        varies_OU = varies_OU & live[use.makes][:, None]
                    live[use.reads] |= varies_OU.any(0)
        return live

    def _use(
        self, layer: Any, reads: str | None, makes: str | None, constants_U: Tensor | None
    ) -> _Use:
        weight = layer.weight
        units = self.sizes[reads] if reads is not None else 1
        weight_OUk = weight.reshape(len(weight), units, -1)
        nonzero_OU = (weight_OUk != 0.0).sum(2, dtype=torch.int32)  # faster than int64
        if constants_U is None:
            constants_U = weight.new_full((units,), math.nan, dtype=torch.float64)
        if not self._can_fold(layer):
            constants_U = constants_U.where(constants_U == 0.0, math.nan)
        varies_OU = (nonzero_OU > 0) & constants_U.isnan()
        shift_OU = torch.zeros_like(nonzero_OU, dtype=torch.float64)
        matter = constants_U.nan_to_num().nonzero().flatten()  # neither zero nor varying
        sums = weight_OUk[:, matter].sum(2, dtype=torch.float64)
        shift_OU[:, matter] = sums * constants_U[matter]
        return _Use(self.names[weight], layer, reads, makes, nonzero_OU, varies_OU, shift_OU)

    def _can_fold(self, layer: Any) -> bool:
        """Whether a constant that is not zero can become part of the layer's bias.

        Where padding is, a convolution reads zeros; a layer that is used twice has one bias only.
        """
        once = all(self.times_read[p] == 1 for p in (layer.weight, layer.bias) if p is not None)
        padded = isinstance(layer, nn.Conv2d) and layer.padding not in ((0, 0), "valid")
        return once and not padded


def _outputs(use: _Use) -> Tensor:
    """The constants that a layer puts out; NaN where it varies."""
    sums_O = use.shift_OU.sum(1)
    if use.layer.bias is not None:
        sums_O = sums_O + use.layer.bias
    return sums_O.masked_fill(use.varies_OU.any(1), math.nan)


def _constants_after(op: Any, inputs: Sequence[Tensor | None]) -> Tensor:
    """What an elementwise step or a pooling makes of constants (in float64)."""
    values = [value for value in inputs if value is not None]
    assert len(values) == len(inputs), "units of a group are followed through every step"
    constants = values[0]
    if isinstance(op, nn.BatchNorm1d | nn.BatchNorm2d):
        return _normalized(op, constants)
    if isinstance(op, Add):
        return constants + values[1]
    if isinstance(op, Affine):
        scale, shift = float(evaluate(op.scale)), float(evaluate(op.shift))
        return constants * scale + shift
    if isinstance(op, nn.ReLU):
        return constants.relu()
    if isinstance(op, nn.AvgPool2d) and not _is_mean(op):
        return constants.where(constants == 0.0, math.nan)
    return constants


def _normalized(op: Any, constants: Tensor) -> Tensor:
    """Batch normalisation, with 0 * NaN = 0: a unit of scale zero does not vary."""
    scale = torch.rsqrt(op.running_var.double() + op.eps)
    if op.weight is not None:
        scale = scale * op.weight
    centered = constants - op.running_mean
    shift = torch.zeros_like(centered) if op.bias is None else op.bias.double()
    return torch.where(scale == 0.0, shift, centered * scale + shift)


def _is_mean(op: nn.AvgPool2d) -> bool:
    """Whether the pooling of a constant is that constant, at the border too."""
    padded = op.padding not in (0, (0, 0)) and op.count_include_pad
    return not padded and op.divisor_override is None


def _never_empty(live: Tensor) -> Tensor:
    """`live`, with the first unit if there is none."""
    kept = live.clone()
    kept[0] |= ~live.any()
    return kept


def _cut(group: UnitGroup, parameters: Mapping[str, nn.Parameter], live: Tensor) -> None:
    """Zero the weights of units that do not live, and remove all but those that are kept."""
    kept = _never_empty(live)
    for name in group.producers:
        parameters[name].data[~live] = 0.0
        parameters[name].data = parameters[name].data[kept]
    for name, columns in group.consumers:
        weight = parameters[name]
        weight.data[:, ~live.repeat_interleave(columns)] = 0.0
        weight.data = weight.data[:, kept.repeat_interleave(columns)]
    for name in group.vectors:
        parameters[name].data = parameters[name].data[kept]


def _cut_statistics(norm: Any, kept: Tensor) -> None:
    if len(norm.running_mean) == len(kept):  # a module that is used twice is cut once
        norm.running_mean = norm.running_mean[kept]
        norm.running_var = norm.running_var[kept]


def _add_to_bias(layer: Any, shift_O: Tensor) -> None:
    if bool(shift_O.any()):
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
        layer.bias.data = (layer.bias + shift_O).to(layer.bias.dtype)


def _state_sizes(module: Any) -> None:
    """Let a layer's attributes say what its tensors are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
        module.num_features = len(module.running_mean)


def _check_same(model: nn.Module, smaller: nn.Module, input_shape: Sequence[int]) -> None:
    first = next(model.parameters(), torch.zeros(()))
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(4, *input_shape, generator=draw, dtype=torch.float64).to(first.device)
    expected = _logits(model, x, "the network")
    found = _logits(smaller, x, "the network without the units that it can do without")
    tolerance = 1e-5 * max(1.0, float(expected.nan_to_num().abs().max()))
    same = found.shape == expected.shape
    if not same or not torch.allclose(found, expected, 0.0, tolerance, equal_nan=True):
        raise ModelError(
            "the network computes something else without the units that it can do without, so its "
            f"forward depends on the sizes of its layers: {_RULE}"
        )


_RULE = (
    "write it without numbers of channels or features (x.flatten(1) instead of x.view(-1, 1568)), "
    "or keep it as it is"
)


def _logits(model: nn.Module, x: Tensor, what: str) -> Tensor:
    double = copy.deepcopy(model).double()
    try:
        with evaluating(double):
            logits: Tensor = double(x)
            return logits
    except Exception as cause:  # a person's module may raise anything
        raise ModelError(
            f"{what} fails on float64 inputs of shape {tuple(x.shape)} with "
            f"{type(cause).__name__}: {cause}. If its forward depends on the sizes of its layers, "
            f"{_RULE}"
        ) from cause
