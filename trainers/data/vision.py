"""Data sets in the files that torchvision downloads."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spaces.data import TorchvisionDataConfig
from trainers.data.base import Array, Raw
from trainers.errors import DataError


def read_torchvision(config: TorchvisionDataConfig) -> Raw:
    """mnist, fashion_mnist, cifar10, cifar100 or svhn from `folder`, laid out as torchvision does.

    CIFAR and SVHN files must have the checksums that torchvision publishes (CIFAR's are pickles:
    no others are ever opened). Fetches missing files only when `download` is set. Raises DataError
    naming the file that is missing or broken.
    """
    # torchvision takes seconds to import: only trials that need it pay.
    from torchvision import datasets  # noqa: PLC0415

    readers: dict[str, tuple[Any, Callable[[Any, TorchvisionDataConfig], Raw]]] = {
        "mnist": (datasets.MNIST, _read_idx_set),
        "fashion_mnist": (datasets.FashionMNIST, _read_idx_set),
        "cifar10": (datasets.CIFAR10, _read_cifar),
        "cifar100": (datasets.CIFAR100, _read_cifar),
        "svhn": (datasets.SVHN, _read_svhn),
    }
    dataset, read = readers[config.name]
    return read(dataset, config)


def _open(config: TorchvisionDataConfig, make: Callable[[], Any]) -> Any:
    """Make torchvision's data set; what it raises is about a download."""
    try:
        return make()
    except (RuntimeError, OSError) as cause:
        reason = " ".join(str(cause).split())  # one line
        raise DataError(
            f"{config.name}: fetching the files into {config.folder} failed: {reason}; check the "
            "network, or put the files there and leave download out"
        ) from cause


def _check_files(config: TorchvisionDataConfig, files: list[tuple[Path, str]]) -> None:
    """Each file must be there with its published md5; torchvision says only that some is not."""
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415

    if config.download:
        return
    for path, md5 in files:
        if not path.is_file():
            raise DataError(
                f"{config.name}: {path} is missing: put it there, correct data.folder, or set "
                "download: true to fetch it"
            )
        if not check_integrity(str(path), md5):
            raise DataError(
                f"{config.name}: {path} does not have the published checksum (md5 {md5}): fetch "
                "it again, or set download: true"
            )


def _read_cifar(dataset: Any, config: TorchvisionDataConfig) -> Raw:
    folder = Path(config.folder) / dataset.base_folder
    meta = (dataset.meta["filename"], dataset.meta["md5"])
    files = [*dataset.train_list, *dataset.test_list, meta]
    _check_files(config, [(folder / name, md5) for name, md5 in files])
    train = _open(config, lambda: dataset(config.folder, train=True, download=config.download))
    test = _open(config, lambda: dataset(config.folder, train=False))
    return Raw(
        train.data,
        np.array(train.targets),
        test=(test.data, np.array(test.targets)),
        class_names=tuple(train.classes),
    )


def _read_svhn(dataset: Any, config: TorchvisionDataConfig) -> Raw:
    published = [dataset.split_list[split] for split in ("train", "test")]
    _check_files(config, [(Path(config.folder) / name, md5) for _, name, md5 in published])
    train = _open(config, lambda: dataset(config.folder, "train", download=config.download))
    test = _open(config, lambda: dataset(config.folder, "test", download=config.download))
    return Raw(train.data, train.labels, test=(test.data, test.labels))


def _read_idx_set(dataset: Any, config: TorchvisionDataConfig) -> Raw:
    """MNIST and its like; read here because torchvision wants the files unpacked."""
    folder = Path(config.folder) / dataset.__name__ / "raw"
    names = [
        f"{part}-{kind}"
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    if config.download and any(_find(folder, name) is None for name in names):
        _open(config, lambda: dataset(config.folder, download=True))
    arrays = []
    for name in names:
        path = _find(folder, name)
        if path is None:
            raise DataError(
                f"{config.name}: {folder / name} (or {name}.gz) is missing: put it there, correct "
                "data.folder, or set download: true to fetch it"
            )
        arrays.append(read_idx(path))
    x, y, test_x, test_y = arrays
    class_names = tuple(dataset.classes) if config.name == "fashion_mnist" else None
    return Raw(x, y, test=(test_x, test_y), class_names=class_names)


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def read_idx(path: Path) -> Array:
    """An idx file of unsigned bytes, packed by gzip or not: magic 0 0 8 rank, sizes, values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path} cannot be unpacked ({cause}): fetch it again") from cause
    rank = content[3] if len(content) > 3 else 0
    header = 4 + 4 * rank
    if content[:3] != b"\x00\x00\x08" or not rank or len(content) < header:
        raise DataError(f"{path} is no idx file of unsigned bytes: fetch it again")
    shape = struct.unpack(f">{rank}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != int(np.prod(shape)):
        raise DataError(
            f"{path} holds {values.size} values, but its header says {shape}: fetch it again"
        )
    return values.reshape(shape)
