"""ReLUs of which some units are replaced by learned lines, and putting them in a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.grafting import GraftingConfig
from trainers.errors import ModelError
from trainers.models.modes import evaluating

SLOPE, BIAS = 0.4, 0.0
"""Of a new line, as in the authors' code (Chen et al. 2022)."""


class GraftedReLU(nn.Module):
    """m (a x + b) + (1 - m) max(x, 0), unit by unit (Chen et al. 2022, arXiv:2206.07839, eq. 3).

    `slope` a and `bias` b are learned, `grafted` m is a mask; all have shape (1, *shape), that of
    one example's activation, or (1, C, 1, 1) for whole channels. Nothing is grafted at first. A
    state_dict without any of the three is that of a ReLU: loading it leaves nothing grafted.
    """

    grafted: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1, *shape), SLOPE))
        self.bias = nn.Parameter(torch.full((1, *shape), BIAS))
        self.register_buffer("grafted", torch.zeros((1, *shape), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """A line on grafted units, ReLU on the others."""
        return torch.where(self.grafted, self.slope * x + self.bias, x.relu())

    @property
    def num_grafted(self) -> int:
        """How many units are lines."""
        return int(self.grafted.sum())

    def keep(self) -> Tensor:
        """1 - m: the units that are ReLUs."""
        return (~self.grafted).to(self.slope.dtype)

    def line_slope(self) -> Tensor:
        """Return m a; differentiable."""
        return self.slope.where(self.grafted, 0.0)

    def line_bias(self) -> Tensor:
        """Return m b; differentiable."""
        return self.bias.where(self.grafted, 0.0)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = self.state_dict()
        if not any(f"{prefix}{name}" in state_dict for name in own):
            fresh = GraftedReLU(self.grafted.shape[1:]).state_dict()
            state_dict = {**state_dict, **{f"{prefix}{n}": v for n, v in fresh.items()}}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def grafted_relus(model: nn.Module) -> dict[str, GraftedReLU]:
    """The places where units can be grafted, by module path, in the model's order."""
    return {path: m for path, m in model.named_modules() if isinstance(m, GraftedReLU)}


def make_graftable(model: nn.Module, config: GraftingConfig, input_shape: Sequence[int]) -> None:
    """Put a GraftedReLU in the place of every nn.ReLU; the network computes what it did before.

    Raises ModelError when there is no nn.ReLU, when one is used several times, or when the network
    counts on a ReLU that works in place.
    """
    x = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
    shapes = _activation_shapes(model, x)
    before = _outputs(model, x)
    for path, shape in shapes.items():
        if config.granularity == "channel":
            shape = (shape[0], *(1 for _ in shape[1:]))
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, GraftedReLU(shape))
    if not torch.allclose(before, _outputs(model, x), equal_nan=True):
        raise ModelError(
            "grafting: the network computes something else when its ReLUs do not work in place: "
            "write nn.ReLU() without inplace=True"
        )


def _activation_shapes(model: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """One example's activation at each nn.ReLU, by module path."""
    shapes: dict[str, tuple[int, ...]] = {}

    def noting(path: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            if path in shapes:
                raise ModelError(
                    f"grafting: the ReLU {path} is used several times, but its units are grafted "
                    "one by one: give each place a nn.ReLU() of its own"
                )
            shapes[path] = tuple(inputs[0].shape[1:])

        return note

    relus = {path: m for path, m in model.named_modules() if isinstance(m, nn.ReLU)}
    hooks = [relu.register_forward_hook(noting(path)) for path, relu in relus.items()]
    try:
        _outputs(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    if not shapes:
        raise ModelError(
            "grafting: the network has no nn.ReLU module, so there is no unit to graft: write its "
            "ReLUs as modules (not F.relu), or leave grafting.fraction at 0"
        )
    return shapes


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    with evaluating(model):
        outputs: Tensor = model(x)
        return outputs
