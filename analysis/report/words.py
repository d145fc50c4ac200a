"""Metrics, numbers and dates as people read them, in plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from spaces.base import ConfigError
from spaces.metrics import metric

_SHORT = {
    "natural_accuracy": "natural accuracy",
    "verified_accuracy": "verified accuracy",
    "falsified_accuracy_bound": "not falsified",
    "exact_verified_accuracy": "exact verified accuracy",
    "inference_flops": "FLOPs per example",
    "dense_inference_flops": "dense FLOPs",
    "training_flops": "training FLOPs",
    "num_active_parameters": "parameters",
    "rung_score": "rung score",
    "train_epsilon": "training ε",
    "duration_s": "time",
    "latency_s": "latency",
    "latency_256_s": "latency of 256 examples",
    "compacted_flops": "compacted FLOPs",
    "flash_bytes": "flash",
    "ram_bytes": "RAM",
}
_LETTERS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def name_of(metric_name: str) -> str:
    """A metric's name for people: `FLOPs per example`, `verified accuracy at 0.1`."""
    return _SHORT.get(metric_name, metric_name.replace("_", " "))


def title_of(metric_name: str) -> str:
    """The same as a heading."""
    text = name_of(metric_name)
    return text[0].upper() + text[1:]


def unit_of(metric_name: str) -> str:
    """`fraction`, `flop`, `count`, `s`, ...; empty for a metric of somebody's own."""
    try:
        return metric(metric_name).unit
    except ConfigError:
        return ""


def is_logarithmic(metric_name: str) -> bool:
    """Whether ratios, not differences, of a metric matter: counts, bytes, seconds and densities."""
    return metric_name.endswith("density") or unit_of(metric_name) not in ("fraction", "")


def percent(share: float, digits: int = 1) -> str:
    """`97.3 %`; small shares with three digits."""
    if 0.0 < share < 0.0095:
        return f"{100 * share:.2g} %"
    return f"{100 * share:.{digits}f} %"


def value_of(metric_name: str, value: float | None) -> str:
    """A metric's value with its unit; an en dash for none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return f"{value}"
    unit = unit_of(metric_name)
    if metric_name.endswith("density"):
        return percent(value, 2 if value < 0.1 else 1)
    if unit == "fraction":
        return percent(value)
    if unit == "s":
        return seconds(value)
    if unit == "B":
        return size(value)
    return amount(value)


def amount(value: float) -> str:
    """`16.6 k`, `3.13 G`, `546`: three digits and a letter."""
    rounded = float(f"{value:.3g}")
    for size, letter in _LETTERS:
        if abs(rounded) >= size:
            return f"{rounded / size:g} {letter}"
    return f"{rounded:g}"


def seconds(value: float) -> str:
    """`42 ms`, `3.2 s`, `3:07 min` or `2:05 h`."""
    if value < 0.001:
        return f"{1e6 * value:.3g} µs"
    if value < 1.0:
        return f"{1e3 * value:.3g} ms"
    if value < 59.5:
        return f"{value:.3g} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def size(num_bytes: float) -> str:
    """`812 B`, `34.3 KiB`, `1.14 MiB`: powers of 1,024, as constraints have them."""
    for scale, unit in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def moment(milliseconds: int) -> str:
    """`2026-03-01 14:05 UTC`, of milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(", ".join(names).rsplit(", ", 1))


def counted(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
