"""A table in a text file: one label column, the others numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spaces.data import CsvDataConfig
from trainers.data.base import Array, Raw
from trainers.errors import DataError


def read_csv(config: CsvDataConfig) -> Raw:
    """Features and labels of a comma-separated file with a header row.

    Labels are sorted as numbers if all of them are whole numbers, else as text. Raises DataError
    naming the line of the file (the header is line 1) and the column.
    """
    path = Path(config.path)
    if not path.is_file():
        raise DataError(f"csv: {path} is not a file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return _read_rows(config, path, ((reader.line_num, row) for row in reader))
    except (csv.Error, UnicodeDecodeError) as cause:
        raise DataError(f"csv: {path} is not comma-separated UTF-8 text: {cause}") from cause


def _read_rows(config: CsvDataConfig, path: Path, rows: Iterator[tuple[int, list[str]]]) -> Raw:
    _, header = next(rows, (1, []))
    if header.count(config.label_column) != 1 or len(header) < 2:
        raise DataError(
            f"csv: {path}: label_column is {config.label_column!r}, which must name one of the "
            f"columns, and at least one other must remain; the header row has {header}"
        )
    label_at = header.index(config.label_column)
    features: list[list[float]] = []
    labels: list[str] = []
    columns = header[:label_at] + header[label_at + 1 :]
    for line, row in rows:
        if not row:
            continue
        where = f"csv: {path}: line {line}"
        if len(row) != len(header):
            raise DataError(f"{where} has {len(row)} values, the header row {len(header)}")
        label = row.pop(label_at).strip()
        if not label:
            raise DataError(f"{where}, column {config.label_column!r} is empty: give a label")
        labels.append(label)
        features.append(
            [
                _number(text, f"{where}, column {column!r}")
                for text, column in zip(row, columns, strict=True)
            ]
        )
    if not features:
        raise DataError(f"csv: {path} has a header row and nothing else")
    return Raw(np.array(features), _labels(labels), features=True)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} is {text!r}: it must be a finite number") from None
    return value


def _labels(labels: list[str]) -> Array:
    try:
        return np.array([int(label) for label in labels], dtype=np.int64)
    except ValueError:  # not numbers, so names
        return np.array(labels)
