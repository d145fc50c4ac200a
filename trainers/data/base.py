"""What a data set is: before checking (`Raw`) and as a trial sees it (`Data`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaces.data import DataConfig

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as a reader found it: nothing checked, scaled or split yet.

    `features` says that the columns of x are measurements of different kinds, so each is scaled
    on its own. `test` is the set's own test part. `class_names[label]` names a label.
    """

    x: Array
    y: Array
    test: tuple[Array, Array] | None = None
    value_range: tuple[float, float] | None = None
    features: bool = False
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Scaling:
    """Raw values to [0, 1]: (x - low) / (high - low), clipped.

    `low` and `high` have one entry for all values, or one per feature.
    """

    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (1.0,)

    def apply(self, x: Array) -> npt.NDArray[np.float32]:
        """Scaled float32 copy of x; a feature with low == high becomes 0 where x == low."""
        dtype = np.result_type(x.dtype, np.float32)
        low, high = np.asarray(self.low, dtype), np.asarray(self.high, dtype)
        span = np.where(high > low, high - low, np.ones_like(low))
        scaled: Array = np.clip((x.astype(dtype) - low) / span, 0.0, 1.0)
        return scaled.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Split:
    """Examples on the device: x float32 in [0, 1], (N, *input_shape); y int64 in 0..K-1, (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shape and bytes of x and of y, as the network sees them.

        The same on every device; computed when first asked for.
        """
        digest = hashlib.sha256()
        for tensor in (self.x, self.y):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, split. Everything that was computed was computed from the training split.

    mean, std: float32 on the CPU, (C,) for images and (F,) for features, after scaling to [0, 1].
    `class_names[k]` is the original label of class k. `scaling` takes raw values to [0, 1], so a
    radius r means r * (high - low) in raw units. `config` loads the same data again (without
    augment, which is of training); None for what was put together by hand.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    input_shape: tuple[int, ...]
    mean: torch.Tensor
    std: torch.Tensor
    class_names: tuple[str, ...] = ()
    scaling: Scaling = Scaling()
    config: DataConfig | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each split, for certificates."""
        return {name: getattr(self, name).fingerprint for name in ("train", "validation", "test")}
