"""Checks on what a reader found: shapes, values and labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainers.data.base import Array, Raw, Scaling
from trainers.errors import DataError


def checked_inputs(x: Array, where: str) -> Array:
    """Inputs as (N, F) or (N, C, H, W); adds a channel axis, or moves a last one first.

    Raises DataError naming the shape, or the index of the first NaN or infinity.
    """
    if x.dtype.kind not in "buif":
        raise DataError(f"{where} has dtype {x.dtype}: it must hold real numbers")
    if x.size == 0:
        raise DataError(f"{where} has shape {x.shape}: it holds no values")
    finite = np.isfinite(x)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{where}[{', '.join(map(str, index))}] is {x[index]}: every value must be finite; "
            "remove the example or fill the value in"
        )
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4:
        return _channels_first(x, where)
    raise DataError(
        f"{where} has shape {x.shape}: it must be N x F (features), N x H x W or N x C x H x W"
    )


def _channels_first(x: Array, where: str) -> Array:
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first and not last:
        return x
    if last and not first:
        return x.transpose(0, 3, 1, 2)
    if first:
        problem = "axis 1 and the last axis could both be the channels"
    else:
        problem = "neither axis 1 nor the last axis has 1 or 3 entries, so none can be the channels"
    raise DataError(
        f"{where} has shape {x.shape}: {problem}; give N x C x H x W images with 1 or 3 channels "
        "and more than 3 columns (N x H x W for one channel; x.transpose(0, 3, 1, 2) moves a last "
        "channel axis)"
    )


def common_scaling(raw: Raw, x: Array, where: str) -> Scaling | None:
    """The scaling shared by all values of x, or None where each feature needs its own.

    A given value_range must hold every value; uint8 means 0..255; values in [0, 1] stay. Other
    values are refused for images, and for (N, F) mean that x holds features.
    """
    low, high = float(x.min()), float(x.max())
    if raw.features:
        return None
    if raw.value_range is not None:
        return _declared(raw.value_range, low, high, where)
    if x.dtype == np.uint8:
        return Scaling((0.0,), (255.0,))
    if 0.0 <= low and high <= 1.0:
        return Scaling()
    if x.ndim == 2:
        return None
    raise DataError(
        f"{where} ({x.dtype}) has values from {low:g} to {high:g}: images must be uint8, or floats "
        "in [0, 1]; otherwise set value_range: [smallest possible, largest possible]"
    )


def _declared(value_range: tuple[float, float], low: float, high: float, where: str) -> Scaling:
    bottom, top = value_range
    if not bottom < top:
        raise DataError(f"value_range is [{bottom:g}, {top:g}]: its first value must be smaller")
    if low < bottom or high > top:
        raise DataError(
            f"{where} has values from {low:g} to {high:g}, outside value_range "
            f"[{bottom:g}, {top:g}]: widen value_range"
        )
    return Scaling((bottom,), (top,))


def feature_scaling(x_NF: Array) -> Scaling:
    """The scaling by each feature's smallest and largest value in x."""
    return Scaling(
        tuple(map(float, x_NF.min(axis=0))),
        tuple(map(float, x_NF.max(axis=0))),
    )


def checked_labels(y: Array, num_examples: int, where: str) -> Array:
    """Labels as a vector of integers or strings, one per example."""
    if y.ndim != 1 or len(y) != num_examples:
        raise DataError(
            f"{where} has shape {y.shape}, but there are {num_examples} examples: it must be "
            f"({num_examples},), one label per example (class numbers, not one-hot rows)"
        )
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        return y.astype(np.str_)
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.round(y)).all():
        return y.astype(np.int64)
    if y.dtype.kind not in "buiU":
        raise DataError(f"{where} has dtype {y.dtype}: labels must be integers or strings")
    return y


def encode_labels(y: Array, where: str) -> tuple[npt.NDArray[np.int64], Array]:
    """Classes 0..K-1 in the labels' own order, and the label of each class."""
    labels, classes = np.unique(y, return_inverse=True)
    if len(labels) < 2:
        raise DataError(
            f"{where} holds only the label {str(labels[0])!r}: a classifier needs at least two "
            "classes"
        )
    return classes.astype(np.int64), labels
