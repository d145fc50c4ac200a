"""The steps that a network is made of, as every bound method sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trainers.errors import UnsupportedLayer


class Add(nn.Module):
    """The sum of two activations of the same shape: a residual connection."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum."""
        if a.shape != b.shape:
            raise UnsupportedLayer(
                f"the sum of activations of shapes {tuple(a.shape)} and {tuple(b.shape)} has no "
                "bound: give both branches of a residual connection the same shape"
            )
        return a + b


class GraftSum(Add):
    """What is left of a ReLU plus a line: the output of a GraftedReLU, whose value this is."""


class Affine(nn.Module):
    """x * scale + shift, elementwise, with constants: normalisation, for example.

    The constants are asked for at each call, because a module may be moved to another device.
    """

    def __init__(self, scale: Constant, shift: Constant) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """The shape of `x` is kept: constants broadcast to it."""
        return self.scale_and_shift(x, *self.constants(x))

    @staticmethod
    def scale_and_shift(x: Tensor, scale: Any, shift: Any) -> Tensor:
        """Evaluate x * scale + shift, without what changes nothing."""
        if not is_number(scale, 1.0):
            x = x * scale
        return x if is_number(shift, 0.0) else x + shift

    def constants(self, x: Tensor) -> tuple[Any, Any]:
        """Scale and shift now; refused when they would change the shape or tell examples apart."""
        constants = evaluate(self.scale), evaluate(self.shift)
        for constant in constants:
            if isinstance(constant, Tensor) and not _fits(constant, x):
                raise UnsupportedLayer(
                    f"a constant of shape {tuple(constant.shape)} does not broadcast to the "
                    f"examples of an activation of shape {tuple(x.shape)}: give it one value per "
                    "channel or per input, and a batch size of 1"
                )
        return constants


class Flatten(nn.Module):
    """(B, ...) -> (B, features); `features` is checked when the network states it."""

    def __init__(self, features: int | None = None) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Example by example: the batch dimension is never mixed."""
        out = x.flatten(1)
        if self.features not in (None, out.shape[1]):
            raise UnsupportedLayer(
                f"view or reshape to {self.features} features of an activation of shape "
                f"{tuple(x.shape)} mixes examples: flatten each example, x.flatten(1)"
            )
        return out


class SpatialMean(nn.Module):
    """(B, C, H, W) -> (B, C), or (B, C, 1, 1) with `keepdim`."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        if x.ndim != 4:
            raise UnsupportedLayer(
                f"a mean over height and width needs an activation (B, C, H, W), not of shape "
                f"{tuple(x.shape)}: pool before flattening"
            )
        return x.mean((2, 3), keepdim=self.keepdim)


@dataclass(frozen=True)
class Expression:
    """A constant that is computed from buffers, such as `self.mean.view(1, -1, 1, 1)`."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> Any:
        """The constant's value now."""
        return self.function(*map(evaluate, self.arguments), **dict(self.keywords))


Constant = float | Expression


def evaluate(constant: Any) -> Any:
    """The value of a constant expression; anything else is its own value."""
    if isinstance(constant, Expression):
        return constant()
    if isinstance(constant, tuple | list):
        return type(constant)(map(evaluate, constant))
    return constant


@dataclass(frozen=True)
class Step:
    """One operation: value number i+1 of a network is made by step i; value 0 is the input."""

    op: nn.Module
    inputs: tuple[int, ...]
    place: str


class Program(nn.Module):
    """The steps of a network. It shares the network's modules, parameters and modes."""

    def __init__(self, steps: list[Step], output: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(step.op for step in steps)
        self.steps, self.output = steps, output

    @property
    def graft_sums(self) -> dict[int, int]:
        """The value that each GraftedReLU makes, by the value of the ReLU within it."""
        numbered = enumerate(self.steps, 1)
        return {s.inputs[0]: number for number, s in numbered if isinstance(s.op, GraftSum)}

    def forward(self, x: Tensor) -> Tensor:
        """What the network computes."""
        return self.values(x)[self.output]

    def values(self, x: Tensor) -> list[Tensor]:
        """Every value on the way, by its number: the input first, then what each step makes."""
        values = [x]
        # ops, not steps: a deep copy of this module must run its own layers.
        for op, step in zip(self.ops, self.steps, strict=True):
            values.append(op(*(values[i] for i in step.inputs)))
        return values


def is_number(constant: Any, number: float) -> bool:
    """Whether a constant is this very number, and not a tensor."""
    return not isinstance(constant, Tensor) and constant == number


def _fits(constant: Tensor, x: Tensor) -> bool:
    """Whether `constant` broadcasts to x and is the same for every example."""
    sizes = (1, *x.shape[1:])[x.ndim - constant.ndim :]
    same = zip(constant.shape, sizes, strict=True) if constant.ndim <= x.ndim else [(0, 1)]
    return all(n in (1, size) for n, size in same)
