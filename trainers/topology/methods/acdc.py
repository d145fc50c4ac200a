"""AC/DC: alternating compressed and decompressed training."""

from __future__ import annotations

from itertools import pairwise

import torch

from spaces.topology import AcdcConfig
from trainers.errors import TopologyError
from trainers.topology.base import ORDINARY, Phase, Shapes, Signals
from trainers.topology.masks import Masks, full_masks
from trainers.topology.methods.dense_start import DenseStart, step_at


class Acdc(DenseStart):
    """Dense warm-up, then compressed and decompressed phases in turn (Peste et al. 2021, alg. 1).

    Compressed: the largest |w| stay, the mask is fixed. Decompressed: all weights train; those that
    were pruned restart at zero, and the optimizer forgets its momenta. The last phase is
    compressed; the network before it is the dense twin.
    """

    inputs = frozenset({"weights"})

    def __init__(self, config: AcdcConfig, shapes: Shapes, total_steps: int) -> None:
        super().__init__(config, shapes)
        phase = (1.0 - config.warmup - config.final) / (2 * config.cycles)
        shares = [config.warmup + i * phase for i in range(2 * config.cycles + 1)]
        starts = [step_at(share, total_steps) for share in shares]
        if min(b - a for a, b in pairwise([*starts, total_steps + 1])) < 2:
            raise TopologyError(
                f"topology.cycles: {config.cycles} (with warmup {config.warmup:g} and final "
                f"{config.final:g}) make phases of less than two of the {total_steps} training "
                "steps, in which nothing would be trained: lower cycles, or train longer"
            )
        self.compress, self.decompress = set(starts[::2]), set(starts[1::2])
        self.steps = starts

    def density_after(self, step: int) -> float:
        """That of the phase which `step` is in."""
        latest = max((s for s in self.steps if s <= step), default=0)
        return self.density if latest in self.compress else 1.0

    def is_update_step(self, step: int) -> bool:
        """Whether a phase starts."""
        return step in self.steps

    def phase(self, step: int) -> Phase:
        """Keep the twin before the last compression; forget momenta at a decompression."""
        if step == self.steps[-1]:
            return Phase(keeps_twin=True)
        return Phase(resets_optimizer=True) if step in self.decompress else ORDINARY

    def update_masks(
        self, step: int, masks: Masks, signals: Signals, generator: torch.Generator
    ) -> Masks:
        """The largest magnitudes, or all."""
        if step in self.decompress:
            return full_masks(signals["weights"])
        scores = {name: weight.abs() for name, weight in signals["weights"].items()}
        return self.selection.select(scores, self.density)
