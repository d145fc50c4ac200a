"""Data sets as tensors on the device: `load_data`, `augment`, and what they return."""

from trainers.data.augmentation import augment
from trainers.data.base import Data, Scaling, Split
from trainers.data.load import load_data

__all__ = ["Data", "Scaling", "Split", "augment", "load_data"]
