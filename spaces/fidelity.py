"""Data fraction: how much of the training data early epochs use."""

from __future__ import annotations

from pydantic import Field

from spaces.base import Config


class FidelityConfig(Config):
    """Early epochs on a part of the training examples, so that the first rungs cost less.

    The share of them that an epoch uses grows by the same amount from epoch to epoch; all are used
    from `data_full_at` on. Examples are added, never exchanged, and each class has its share.
    Epochs with fewer examples have fewer steps. The training radius goes by epochs all the same, so
    that trials are at the same point of their ramps at a rung, with more data or with less; the
    learning rate, masks and grafting go by shares of the steps.
    """

    data_start: float = Field(
        1.0, gt=0.0, le=1.0, description="Share in the first epoch; 1: all, in every epoch."
    )
    data_full_at: float = Field(
        0.5, gt=0.0, le=1.0, description="Share of the epochs after which all examples are used."
    )
