"""`load_data`: read, check, split, scale."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spaces.data import (
    AugmentConfig,
    CsvDataConfig,
    DataConfig,
    ImageFolderDataConfig,
    NpzDataConfig,
    PackagedDataConfig,
    PythonDataConfig,
    TorchvisionDataConfig,
)
from trainers.data.arrays import read_npz, read_python
from trainers.data.base import Array, Data, Raw, Scaling, Split
from trainers.data.image_folder import read_image_folder
from trainers.data.packaged import read_packaged
from trainers.data.splits import stratified_split
from trainers.data.table import read_csv
from trainers.data.values import (
    checked_inputs,
    checked_labels,
    common_scaling,
    encode_labels,
    feature_scaling,
)
from trainers.data.vision import read_torchvision
from trainers.errors import DataError

# A feature that hardly varies in training would otherwise blow a perturbation of it up without
# limit: in units of std, a radius r is r / std.
STD_FLOOR = 0.05

_READERS: dict[type, Callable[[Any], Raw]] = {
    PackagedDataConfig: read_packaged,
    TorchvisionDataConfig: read_torchvision,
    NpzDataConfig: read_npz,
    CsvDataConfig: read_csv,
    ImageFolderDataConfig: read_image_folder,
    PythonDataConfig: read_python,
}


def load_data(config: DataConfig, device: torch.device | str) -> Data:
    """The data set as tensors on the device, checked, scaled to [0, 1] and split by class.

    uint8 is divided by 255, `value_range` is scaled to [0, 1], values in [0, 1] stay. Features
    (tables, and N x F arrays outside [0, 1]) are scaled one by one, by their smallest and largest
    value in the *training* split, and clipped to [0, 1] on the others: a radius is in units after
    scaling. Every split is checked, but statistics come from the training split alone. The last
    two data sets are remembered, so asking again in the same process costs nothing.

    Raises DataError when data are missing, unreadable or outside the rules.
    """
    plain = config.model_copy(update={"augment": AugmentConfig()})
    data = _load(plain, torch.device(device))
    _check_augment(config.augment, data)
    return data


@lru_cache(maxsize=2)
def _load(config: DataConfig, device: torch.device) -> Data:
    raw = _READERS[type(config)](config)
    name = getattr(config, "path", config.name)  # what a person who made a mistake looks for
    x = checked_inputs(np.asarray(raw.x), f"{name}: x")
    y = checked_labels(np.asarray(raw.y), len(x), f"{name}: y")
    classes, labels = encode_labels(y, f"{name}: y")
    scaling = common_scaling(raw, x, f"{name}: x")
    parts: dict[str, tuple[Array, npt.NDArray[np.int64]]] = {}
    if raw.test is None:
        fractions = [config.test_fraction, config.validation_fraction]
        test, validation, train = stratified_split(classes, fractions, config.split_seed)
        parts["test"] = x[test], classes[test]
    else:
        fractions = [config.validation_fraction]
        validation, train = stratified_split(classes, fractions, config.split_seed)
        parts["test"] = _own_test(raw, raw.test, x.shape[1:], labels, name)
    parts["train"] = x[train], classes[train]
    parts["validation"] = x[validation], classes[validation]
    names = tuple(raw.class_names[k] if raw.class_names else str(k) for k in labels)
    _check_every_class(parts, names, name)
    return _assemble(config, parts, scaling or feature_scaling(x[train]), names, device)


def _own_test(
    raw: Raw, test: tuple[Array, Array], shape: tuple[int, ...], labels: Array, name: str
) -> tuple[Array, npt.NDArray[np.int64]]:
    """The set's own test part, in its own order, under the same checks as the rest."""
    x = checked_inputs(np.asarray(test[0]), f"{name}: test x")
    y = checked_labels(np.asarray(test[1]), len(x), f"{name}: test y")
    common_scaling(raw, x, f"{name}: test x")
    if x.shape[1:] != shape:
        raise DataError(
            f"{name}: test examples have shape {x.shape[1:]}, training examples {shape}"
        )
    unknown = np.setdiff1d(y, labels)
    if len(unknown):
        raise DataError(f"{name}: the test part has labels that training lacks: {unknown.tolist()}")
    return x, np.searchsorted(labels, y).astype(np.int64)


def _check_every_class(
    parts: dict[str, tuple[Array, npt.NDArray[np.int64]]], class_names: tuple[str, ...], name: str
) -> None:
    for split, (_, classes) in parts.items():
        counts = np.bincount(classes, minlength=len(class_names))
        if counts.min() == 0:
            label = class_names[int(counts.argmin())]
            total = sum(int((y == counts.argmin()).sum()) for _, y in parts.values())
            raise DataError(
                f"{name}: class {label!r} has {total} examples in all and none of them in the "
                f"{split} split ({len(classes)} examples): every split needs every class; add "
                "examples of it, leave the class out, or change validation_fraction and "
                "test_fraction"
            )


def _assemble(
    config: DataConfig,
    parts: dict[str, tuple[Array, npt.NDArray[np.int64]]],
    scaling: Scaling,
    class_names: tuple[str, ...],
    device: torch.device,
) -> Data:
    scaled = {split: (scaling.apply(x), y) for split, (x, y) in parts.items()}
    mean, std = _mean_and_std(scaled["train"][0])
    splits = {
        split: Split(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
        for split, (x, y) in scaled.items()
    }
    return Data(
        name=config.name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        num_classes=len(class_names),
        input_shape=tuple(scaled["train"][0].shape[1:]),
        mean=torch.from_numpy(mean.astype(np.float32)),
        std=torch.from_numpy(std.astype(np.float32)),
        class_names=class_names,
        scaling=scaling,
        config=config,
    )


def _mean_and_std(x: npt.NDArray[np.float32]) -> tuple[Array, Array]:
    """Per channel or feature, in float64; in chunks, so that no second copy of x is made."""
    axes = (0, *range(2, x.ndim))
    total = np.zeros(x.shape[1])
    squares = np.zeros(x.shape[1])
    for start in range(0, len(x), 4096):
        chunk = x[start : start + 4096].astype(np.float64)
        total += chunk.sum(axis=axes)
        squares += (chunk * chunk).sum(axis=axes)
    count = x.size / x.shape[1]
    mean = total / count
    variance = np.maximum(squares / count - mean * mean, 0.0)
    return mean, np.maximum(np.sqrt(variance), STD_FLOOR)


def _check_augment(config: AugmentConfig, data: Data) -> None:
    if config == AugmentConfig():
        return
    if len(data.input_shape) != 3:
        raise DataError(
            f"{data.name}: augment shifts and mirrors images, but an example is "
            f"{data.input_shape[0]} features: remove augment"
        )
    if config.shift >= min(data.input_shape[1:]):
        height, width = data.input_shape[1:]
        raise DataError(
            f"{data.name}: augment.shift is {config.shift}, which can move a whole {height} x "
            f"{width} image out of sight: use less than {min(height, width)}"
        )
