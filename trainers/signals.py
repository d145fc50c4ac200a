"""What topology methods look at beside weights and gradients, and what finding it costs.

Passes run in the network's current mode and leave no trace: running statistics, weights and the
`.grad` of parameters are afterwards what they were before. `weights` are the prunable parameters
by name; unless stated otherwise an answer holds, for each of them, a tensor of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from trainers.attack import attacked
from trainers.bounds import IntervalPass, ball
from trainers.bounds.program import Add, Affine, Flatten, GraftSum, Program, SpatialMean
from trainers.losses.stability import nrs, relu_gains
from trainers.models import prunable_weights
from trainers.models.modes import preserved_buffers
from trainers.topology.masks import Masks
from trainers.wiring import Wiring

Weights = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class SignalCost:
    """Operations per example of the batch: sparse * f_S + dense * f_D (Evci et al. 2020).

    f_S is one forward pass with the weights that are kept, f_D one with all weights.
    """

    sparse: int = 0
    dense: int = 0


def signal_cost(name: str, *, loss_passes: int, attack_steps: int) -> SignalCost:
    """What the signal `name` costs on top of a training step; nothing where it is not listed.

    loss_passes: `Loss.passes` of the loss that the signal differentiates. A gradient of one pass
    costs f_S forward, f_S back to the inputs and f_D for the weights, pruned ones included.
    Elementwise work is left out, as everywhere, and so is `synaptic_flow`: one example per call.
    """
    costs = {
        # Backward only: the graph is the training loss's.
        "certified_gradients": SignalCost(loss_passes, loss_passes),
        # Each step, and the look at the last point, goes forward and back to the inputs.
        "adversarial_gradients": SignalCost(2 * (attack_steps + 1) + 2, 1),
        # A forward pass, then products of inputs and outputs like those of a weight gradient.
        "cosines": SignalCost(1, 1),
        # Value, centre and radius.
        "instability": SignalCost(3, 0),
        # Gradients at the weights and on either side of them.
        "hessian_gradients": SignalCost(6 * loss_passes, 3 * loss_passes),
        "certified_hessian_gradients": SignalCost(6 * loss_passes, 3 * loss_passes),
    }
    return costs.get(name, SignalCost())


def adversarial_gradients(
    model: nn.Module,
    weights: Weights,
    x: Tensor,
    y_B: Tensor,
    epsilon: float,
    steps: int,
) -> dict[str, Tensor]:
    """dL/dw of the cross-entropy at adversarial inputs (Madry et al. 2018).

    The inputs are `attacked`, within `epsilon` (data units).
    """
    adversarial = attacked(model, x, y_B, epsilon, steps)
    with preserved_buffers(model):
        return _gradients(F.cross_entropy(model(adversarial), y_B), weights)


def cosines(program: Program, weights: Weights, x: Tensor) -> dict[str, Tensor]:
    """|cos(a_i, a_j)|: how alike input i and output j of each weight are; 0 where one is zero.

    a_i is what the weight reads. a_j is what its unit becomes behind the ReLU that follows, or the
    unit's own value where none does. Both are vectors over all examples and, in a convolution, all
    output positions (CTRE; Atashgahi et al. 2022, arXiv:1903.07138).
    """
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    found: dict[str, list[list[Tensor]]] = {}
    with torch.no_grad(), preserved_buffers(program):
        values = program.values(x)
        for number, step in enumerate(program.steps, 1):
            if isinstance(step.op, nn.Linear | nn.Conv2d):
                behind = _behind_relu(program, number)
                after = values[number if behind is None else behind]
                sums = _sums_of_products(step.op, values[step.inputs[0]], after)
                found.setdefault(names[step.op.weight], []).append(sums)
    # A weight that several layers share: their vectors, one behind the other.
    return {
        name: _cosine(*(torch.stack(sums).sum(0) for sums in zip(*uses, strict=True)))
        for name, uses in found.items()
    }


def instability(
    interval: IntervalPass, wiring: Wiring, x: Tensor, y_B: Tensor, epsilon: float
) -> dict[str, Tensor]:
    """`nrs` of the units of each layer, (n_out,), by interval bounds; -1 where no ReLU follows.

    The bounds are for inputs within `epsilon` (data units) of x. `wiring` is the network's.
    """
    with torch.no_grad(), preserved_buffers(interval.program):
        result = interval.margins(x, y_B, *ball(x, epsilon))
        gain = relu_gains(interval.model, wiring)
        by_relu = [nrs(*bounds, gain.get(i)) for i, bounds in enumerate(result.pre_activations)]
    return {
        name: by_relu[wiring.relus[name]]
        if name in wiring.relus
        else weight.new_full(weight.shape[:1], -1.0)
        for name, weight in prunable_weights(interval.model).items()
    }


def hessian_gradients(
    model: nn.Module, weights: Weights, loss: Callable[[], Tensor]
) -> dict[str, Tensor]:
    """H g: the Hessian of a loss of `model` times its gradient (GraSP; Wang et al. 2020).

    A central difference of gradients on either side of the weights along g, so that it needs no
    second derivatives, which bounds do not have. `loss` gives the same value for the same weights.
    """
    with preserved_buffers(model):
        gradients = _gradients(loss(), weights)
        length = _norm(gradients)
        if length == 0.0:
            return gradients
        # As short as rounding allows: it changes the gradient by about eps^(1/4) of what is found,
        # and a longer step crosses kinks of ReLUs, where a difference says nothing of H.
        rounding = torch.finfo(next(iter(gradients.values())).dtype).eps
        step = rounding**0.75 * (1.0 + _norm(weights)) / length
        after = _gradients_along(loss, weights, gradients, step)
        before = _gradients_along(loss, weights, gradients, -step)
    return {name: (after[name] - before[name]) / (2.0 * step) for name in weights}


def gains(model: nn.Module, wiring: Wiring, weights: Weights) -> dict[str, Tensor]:
    """|weight of the batch normalisation| behind each layer, (n_out,); 1 where there is none.

    Differentiable with respect to those weights, for penalties on them.
    """
    return {
        name: model.get_parameter(wiring.gains[name]).abs()
        if name in wiring.gains
        else weight.new_ones(weight.shape[:1])
        for name, weight in weights.items()
    }


def synaptic_flow(
    program: Program, weights: Weights, input_shape: Sequence[int]
) -> Callable[[Masks], dict[str, Tensor]]:
    """|w * dR/dw| as a function of masks, for the weights as they are now (Tanaka et al. 2020).

    R = 1' prod |W| 1 is the sum of the outputs for an input of ones, (1, *input_shape), with
    absolute, masked weights and no biases; ReLU (grafted or not), batch normalisation and affine
    maps by constants change nothing, sums add, and pooling and flattening are kept. In float64, for
    R grows with depth as a product; so are the answers, for the sum over a layer is R in every
    layer.
    """
    magnitudes = {name: weight.detach().abs().double() for name, weight in weights.items()}

    def flow(masks: Masks) -> dict[str, Tensor]:
        with torch.enable_grad():
            kept = {name: (m * masks[name]).requires_grad_() for name, m in magnitudes.items()}
            total = _flow(program, {weights[name]: m for name, m in kept.items()}, input_shape)
            slopes = torch.autograd.grad(total, list(kept.values()))
        return {name: kept[name].detach() * slope for name, slope in zip(kept, slopes, strict=True)}

    return flow


def _flow(program: Program, weights: Mapping[Tensor, Tensor], shape: Sequence[int]) -> Tensor:
    """The sum of the outputs of the linear network with `weights` in the place of their keys."""
    first = next(iter(weights.values()))
    values = [torch.ones(1, *shape, dtype=first.dtype, device=first.device)]
    for step in program.steps:
        op: Any = step.op
        inputs = [values[i] for i in step.inputs]
        if isinstance(op, nn.Linear):
            values.append(F.linear(inputs[0], weights[op.weight]))
        elif isinstance(op, nn.Conv2d):
            options: Any = (op.stride, op.padding, op.dilation, op.groups)
            values.append(F.conv2d(inputs[0], weights[op.weight], None, *options))
        elif isinstance(op, GraftSum) or not isinstance(op, _KEPT):
            values.append(inputs[0])
        else:
            values.append(op(*inputs))
    return values[program.output].sum()


_KEPT = (Add, nn.AvgPool2d, SpatialMean, Flatten)
"""Steps that the flow takes as they are."""


def _behind_relu(program: Program, value: int) -> int | None:
    """The number of the first ReLU's value that `value` enters in the shape it has, or None.

    Of a GraftedReLU, the value of the whole.
    """
    for number, step in enumerate(program.steps, 1):
        if value in step.inputs:
            if isinstance(step.op, nn.ReLU):
                return program.graft_sums.get(number, number)
            if isinstance(step.op, _UNIT_BY_UNIT):
                behind = _behind_relu(program, number)
                if behind is not None:
                    return behind
    return None


_UNIT_BY_UNIT = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    Affine,
    Add,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
)


def _sums_of_products(op: Any, before: Tensor, after: Tensor) -> list[Tensor]:
    """For each weight of a layer, sums of a_i * a_j, a_i^2 and a_j^2 that broadcast to its shape.

    The first is what the weight's gradient would be if `after` were the gradient of the output.
    """
    if isinstance(op, nn.Linear):
        before, after = before.flatten(0, -2), after.flatten(0, -2)
        squares = before.square().sum(0), after.square().sum(0)[:, None]
        return [after.T @ before, *squares]
    before = F.pad(before, op._reversed_padding_repeated_twice)  # whatever "same" means here
    options = (op.stride, 0, op.dilation, op.groups)
    products = conv2d_weight(before, op.weight.shape, after, *options)
    # All units of a group read the same inputs: one of them is enough.
    one_each = torch.ones_like(after[:, : op.groups])
    shape = (op.groups, *op.weight.shape[1:])
    squares_before = conv2d_weight(before.square(), shape, one_each, *options)
    squares_before = squares_before.repeat_interleave(len(op.weight) // op.groups, 0)
    return [products, squares_before, after.square().sum((0, 2, 3)).view(-1, 1, 1, 1)]


def _cosine(products: Tensor, squares_before: Tensor, squares_after: Tensor) -> Tensor:
    norms = squares_before.sqrt() * squares_after.sqrt()
    return torch.where(norms > 0.0, products.abs() / norms, 0.0).clamp(max=1.0)


def _gradients(loss: Tensor, weights: Weights) -> dict[str, Tensor]:
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def _gradients_along(
    loss: Callable[[], Tensor], weights: Weights, direction: Mapping[str, Tensor], step: float
) -> dict[str, Tensor]:
    """Gradients at weights + step * direction; the weights' own memory is not written to."""
    own = {name: weight.data for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.data = own[name] + step * direction[name]
        return _gradients(loss(), weights)
    finally:
        for name, weight in weights.items():
            weight.data = own[name]


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(nn.utils.get_total_norm([tensor.detach() for tensor in tensors.values()]))
