"""What each epoch trains on: which examples, in which batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from spaces.trial import TrialConfig
from trainers.data import Split, augment
from trainers.device import generator


class Batches:
    """Shuffled, augmented full batches of the training split; a function of seed and epoch.

    Epochs count from 0. An early one may use a part of the examples (`config.fidelity`), which
    later ones contain; a batch is never larger than the split, and no epoch has less than one.
    `epoch_ends` has the last step of each epoch, counted from 1; nothing where all epochs are of
    one length.
    """

    def __init__(self, config: TrialConfig, train: Split) -> None:
        self.config, self.train = config, train
        self.size = min(config.batch_size, len(train))
        steps = [self.num_steps(epoch) for epoch in range(config.epochs)]
        self.total_steps = sum(steps)
        self.epoch_ends: tuple[int, ...] = ()
        self._nested = None
        if config.fidelity.data_start < 1.0:
            self.epoch_ends = tuple(accumulate(steps))
            self._nested = nested_order(train.y.cpu(), generator(config.seed, "data fraction"))

    def num_examples(self, epoch: int) -> int:
        """How many examples an epoch draws its batches from."""
        fidelity, num_all = self.config.fidelity, len(self.train)
        grown = epoch / (fidelity.data_full_at * self.config.epochs)
        if grown >= 1.0:
            return num_all
        share = fidelity.data_start + (1.0 - fidelity.data_start) * grown
        return max(round(share * num_all), self.size)

    def num_steps(self, epoch: int) -> int:
        """How many batches an epoch has; what would not fill one is left out."""
        return self.num_examples(epoch) // self.size

    def of(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (x_BCHW, y_B) of an epoch."""
        seed, train = self.config.seed, self.train
        device = train.x.device
        order = torch.randperm(
            self.num_examples(epoch), generator=generator(seed, f"batches {epoch}")
        )
        if len(order) < len(train):
            assert self._nested is not None
            order = self._nested[order]
        order = order.to(device)
        augment_generator = generator(seed, f"augment {epoch}", device)
        for step in range(self.num_steps(epoch)):
            index = order[step * self.size : (step + 1) * self.size]
            x_BCHW = augment(self.config.data.augment, train.x[index], augment_generator)
            yield x_BCHW, train.y[index]


def nested_order(y_N: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of examples in which each class is spread evenly: indices (N,).

    Its i-th of m, counted from 0, is at (i + 0.5) / m of the order, so that the first n, for any
    n, have nearly the shares of the classes that all have.
    """
    shuffled = torch.randperm(len(y_N), generator=generator)
    places = torch.empty(len(y_N), dtype=torch.float64)
    for label in y_N.unique():
        own = (y_N[shuffled] == label).nonzero().squeeze(1)
        places[own] = (torch.arange(len(own), dtype=torch.float64) + 0.5) / len(own)
    return shuffled[places.argsort(stable=True)]
