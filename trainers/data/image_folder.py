"""Images in one folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from spaces.data import ImageFolderDataConfig
from trainers.data.base import Array, Raw
from trainers.errors import DataError

# Modes whose conversion to 8-bit grey or colour loses no range.
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_image_folder(config: ImageFolderDataConfig) -> Raw:
    """`path/<class>/<image>`, resized to size x size; hidden files are passed over.

    Raises DataError naming the folder or the file that breaks the rule.
    """
    root = Path(config.path)
    if not root.is_dir():
        raise DataError(f"image_folder: {root} is not a folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(f"image_folder: {root} has no folders: it must hold one folder per class")
    images: list[Array] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        if not files:
            raise DataError(f"image_folder: {folder} is empty: add images of it or remove it")
        images += [_read_image(path, config.size, config.channels) for path in files]
        labels += [label] * len(files)
    names = tuple(folder.name for folder in folders)
    return Raw(np.stack(images), np.array(labels), class_names=names)


def _read_image(path: Path, size: int, channels: int) -> Array:
    """(size, size) for one channel, (size, size, 3) for three."""
    try:
        with Image.open(path) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise DataError(
                    f"image_folder: {path} has mode {image.mode}: only images with 8 bits per "
                    "channel can be read; convert it"
                )
            plain = image.convert("L" if channels == 1 else "RGB")
            resized = plain.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(resized, dtype=np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(
            f"image_folder: {path} cannot be read as an image ({cause}): mend or remove it"
        ) from cause
