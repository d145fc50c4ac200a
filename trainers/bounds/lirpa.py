"""CROWN and CROWN-IBP bounds through auto_LiRPA (Xu et al. 2020, arXiv:2002.12920).

The only importer of auto_LiRPA. It is handed a plain network of linear layers, convolutions, batch
normalisation, ReLU, flatten and addition, because release 0.3 is silently wrong elsewhere: for
average pooling whose windows overlap, for instance, which is therefore written as a convolution.
alpha-CROWN is not offered: in that release it returned CROWN's bounds, at many times the cost.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainers.bounds.ball import ball
from trainers.bounds.lirpa_adaptations import (
    accept_remove_duplicate,
    importable,
    subscriptable_nodes,
)
from trainers.bounds.program import Add, Affine, Flatten, Program, SpatialMean, evaluate
from trainers.bounds.trace import trace
from trainers.errors import UnsupportedLayer, VerificationError

METHODS = ("ibp", "crown-ibp", "crown")
"""The bounds that auto_LiRPA computes here, cheapest first."""


@functools.cache
def load_auto_lirpa() -> Any:
    """The auto_LiRPA package, imported at the first call."""
    with importable():
        import auto_LiRPA  # noqa: PLC0415  (slow, and must come after the adaptations)
    accept_remove_duplicate(auto_LiRPA.BoundedModule)
    return auto_LiRPA


class LirpaBounds:
    """auto_LiRPA bounds of `model`, for inputs shaped like `x_example` (B, ...).

    Follows the model: its parameters are shared, and batch normalisation uses the model's mode
    and running statistics at each call (in training mode the batch's, without updating the
    running ones). Raises UnsupportedLayer for what cannot be bounded, and VerificationError when
    auto_LiRPA's own forward pass does not agree with the model's.
    """

    def __init__(self, model: nn.Module, x_example: Tensor) -> None:
        self.model, self.program = model, trace(model)
        self.x_example = x_example[:2].detach()
        self.num_leading = _count_leading_affines(self.program)
        self._bounded = self._convert()

    def margins(
        self,
        x: Tensor,
        y_B: Tensor,
        radius: float,
        method: str,
        low: float = 0.0,
        high: float = 1.0,
    ) -> Tensor:
        """margins_BK[b, j], a lower bound on logit[y_b] - logit[j] within `radius` of x_b.

        The ball is clipped to [low, high]; the column of y_b is 0. Differentiable with respect
        to the model's parameters.
        """
        if method not in METHODS:
            raise VerificationError(f"method {method!r} is not one of {', '.join(METHODS)}")
        lirpa = load_auto_lirpa()
        center, lower, upper = self._through_leading_affines(x, *ball(x, radius, low, high))
        box = lirpa.PerturbationLpNorm(norm=math.inf, eps=radius, x_L=lower, x_U=upper)
        self._follow_model()
        with quiet(), _default_dtype(x.dtype):
            logits_BK = self._bounded(lirpa.BoundedTensor(center, box))
            if not torch.is_grad_enabled() and not self.model.training:
                self._compare(logits_BK, self.model(x))
            C_BJK, others_BJ = _specification(y_B, logits_BK)
            # Without x, bounds use the batch statistics of the forward pass just made.
            lower_BJ = self._bounded.compute_bounds(C=C_BJK, method=method, bound_upper=False)[0]
        return torch.zeros_like(logits_BK).scatter(1, others_BJ, lower_BJ)

    def _convert(self) -> Any:
        # A copy, because the conversion moves modules, switches modes and loads states.
        source = _with_biases(trace(copy.deepcopy(self.model).eval()))
        plain = _Plain(source, self.x_example, self.num_leading).eval()
        example = self._through_leading_affines(self.x_example)[0]
        options = {"conv_mode": "patches" if plain.allows_patches else "matrix"}
        lirpa = load_auto_lirpa()
        try:
            with quiet(), subscriptable_nodes():
                bounded = lirpa.BoundedModule(plain, example, bound_opts=options)
        except Exception as error:
            raise UnsupportedLayer(
                f"auto_LiRPA cannot convert {type(self.model).__name__}: {error}; use interval "
                "bounds (loss ibp, methods=('ibp',))"
            ) from error
        with torch.no_grad(), quiet():
            logits_BK = plain(example)
            self._compare(bounded(example), logits_BK)
        self.num_classes = logits_BK.shape[1]
        own = dict(self.program.named_parameters(remove_duplicate=False))
        for node in bounded._modules.values():
            # What the model does not have is a bias of zeros, which stays as it is.
            if type(node).__name__ == "BoundParams" and node.ori_name in own:
                node.param = own[node.ori_name]
        return bounded

    def _follow_model(self) -> None:
        for node in self._bounded._modules.values():
            kind = type(node).__name__
            if kind == "BoundParams":
                # auto_LiRPA switches requires_grad by this flag, on the model's own parameters.
                node.training = node.param.requires_grad
            elif kind == "BoundBatchNormalization":
                norm: Any = self.program.get_submodule(node.inputs[3].ori_name.rpartition(".")[0])
                node.training = norm.training
                node.inputs[3].buffer = norm.running_mean.clone()
                node.inputs[4].buffer = norm.running_var.clone()
            elif kind == "BoundBuffers" and node.ori_name.endswith((".scale", ".shift")):
                path, _, constant = node.ori_name.rpartition(".")
                affine: Any = self.program.get_submodule(path)
                node.buffer = _expanded(evaluate(getattr(affine, constant)), node.buffer)

    def _through_leading_affines(self, *tensors: Tensor) -> list[Tensor]:
        """Centre, lower and upper (or the centre alone) after the network's normalisation.

        An elementwise map sends a box to a box, exactly; where it falls, the ends change places.
        """
        values = list(tensors)
        for step in self.program.steps[: self.num_leading]:
            values = [step.op(value) for value in values]
        if len(values) == 3:
            values[1:] = torch.minimum(*values[1:]), torch.maximum(*values[1:])
        return values

    def _compare(self, found: Tensor, expected: Tensor) -> None:
        precise = found.dtype == torch.float64
        scale = float(expected.abs().amax().clamp(min=1.0))
        difference = float((found - expected).abs().amax()) if len(found) else 0.0
        if not difference <= (1e-9 if precise else 1e-4) * scale:
            raise VerificationError(
                f"auto_LiRPA computes other logits than {type(self.model).__name__} (largest "
                f"difference {difference:.3g}): its bounds cannot be trusted for this network; "
                "verify with methods=('ibp',)"
            )


class _Plain(nn.Module):
    """The program behind its leading affines, in the few layers that auto_LiRPA gets right."""

    def __init__(self, program: Program, x_example: Tensor, num_leading: int) -> None:
        super().__init__()
        self.num_leading, self.output = num_leading, program.output
        self.inputs = [step.inputs for step in program.steps]
        self.ops = nn.ModuleList()
        values = [x_example]
        with torch.no_grad():
            for step in program.steps:
                arguments = [values[i] for i in step.inputs]
                values.append(step.op(*arguments))
                self.ops.append(_plain_op(step.op, arguments[0], step.place))

    @property
    def allows_patches(self) -> bool:
        """Whether auto_LiRPA's sparse form of convolutions, much faster, is right for this network.

        It ignores dilation and groups, assumes square windows, and fails on residual additions.
        """
        if any(isinstance(op, Add) for op in self.ops):
            return False
        convolutions = [op for op in self.modules() if isinstance(op, nn.Conv2d)]
        return all(
            conv.groups == 1
            and conv.dilation == (1, 1)
            and all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
            for conv in convolutions
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an already normalised x."""
        values: list[Tensor] = [x] * (self.num_leading + 1)
        for op, inputs in list(zip(self.ops, self.inputs, strict=True))[self.num_leading :]:
            values.append(op(*(values[i] for i in inputs)))
        return values[self.output]


def _with_biases(program: Program) -> Program:
    """Give convolutions without a bias one of zeros: release 0.3 fails in CROWN without it."""
    for conv in program.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
    return program


class _Scale(nn.Module):
    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Any, shift: Any, like: Tensor) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, _expanded(value, like).detach())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _expanded(constant: Any, like: Tensor) -> Tensor:
    """A constant for one example of an activation `like`; differentiable where it is."""
    tensor = torch.as_tensor(constant, dtype=like.dtype, device=like.device)
    return tensor.expand(1, *like.shape[1:]).clone()


def _plain_op(op: nn.Module, x: Tensor, place: str) -> nn.Module:
    if isinstance(op, nn.Conv2d):
        symmetric = isinstance(op.padding, tuple) and op.dilation[0] == op.dilation[1]
        if not symmetric:
            raise UnsupportedLayer(
                f"Conv2d at {place} (padding {op.padding!r}, dilation {op.dilation}) has no CROWN "
                "bound: give padding as numbers and the same dilation in both directions"
            )
        return op
    if isinstance(op, nn.Linear):
        return _with_bias(op)
    if isinstance(op, Flatten):
        return nn.Flatten()
    if isinstance(op, nn.Identity | nn.Dropout | nn.Dropout2d):
        return nn.Identity()
    if isinstance(op, nn.AvgPool2d):
        return _pool_as_convolution(op, x, place)
    if isinstance(op, SpatialMean):
        layers: list[nn.Module] = [_averaging(x, tuple(x.shape[2:]), 1, 0)]
        return nn.Sequential(*layers, *([] if op.keepdim else [nn.Flatten()]))
    if isinstance(op, Affine):
        return _Scale(*op.constants(x), x)
    assert isinstance(op, nn.BatchNorm1d | nn.BatchNorm2d | nn.ReLU | Add), op
    return op


def _with_bias(op: nn.Linear) -> nn.Linear:
    """A bias of zeros where there is none: release 0.3 cannot bound margins of a bare product."""
    if op.bias is None:
        del op.bias
        op.register_buffer("bias", op.weight.new_zeros(op.out_features))
    return op


def _pool_as_convolution(op: nn.AvgPool2d, x: Tensor, place: str) -> nn.Module:
    padded = op.padding not in (0, (0, 0))
    if op.ceil_mode or op.divisor_override is not None or (padded and not op.count_include_pad):
        raise UnsupportedLayer(
            f"AvgPool2d at {place} with ceil_mode, divisor_override or count_include_pad=False has "
            "no CROWN bound: use the default options"
        )
    return _averaging(x, op.kernel_size, op.stride, op.padding)


def _averaging(x: Tensor, kernel: Any, stride: Any, padding: Any) -> nn.Module:
    """The mean over windows, each channel by itself, as a convolution with fixed weights."""
    channels = x.shape[1]
    conv = nn.Conv2d(channels, channels, kernel, stride, padding, bias=False).to(x)
    weight = torch.eye(channels).to(x)[:, :, None, None] / math.prod(conv.kernel_size)
    del conv.weight
    conv.register_buffer("weight", weight.expand(-1, -1, *conv.kernel_size).clone())
    return conv


def _count_leading_affines(program: Program) -> int:
    """How many steps at the start only rescale the input, for everything that follows."""
    for count, step in enumerate(program.steps):
        later = [i for s in program.steps[count + 1 :] for i in s.inputs]
        if not isinstance(step.op, Affine) or count in later or program.output <= count + 1:
            return count
    return 0


def _specification(y_B: Tensor, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Rows e_y - e_j for all j other than y, and those j."""
    num_classes = logits_BK.shape[1]
    others_BJ = torch.arange(num_classes - 1, device=y_B.device).expand(len(y_B), -1)
    others_BJ = others_BJ + (others_BJ >= y_B[:, None])
    identity = torch.eye(num_classes, dtype=logits_BK.dtype, device=logits_BK.device)
    return identity[y_B][:, None, :] - identity[others_BJ], others_BJ


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """auto_LiRPA makes matrices of the default type, whatever the network's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence: auto_LiRPA prints what it is doing, and tracing warns of shapes read in Python."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
