"""Masks with an exact number of ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainers.errors import TopologyError

Masks = dict[str, Tensor]
"""One bool tensor per prunable weight, by parameter name: True where the weight is kept."""


def top_k_mask(scores: Tensor, k: int, allowed: Tensor | None = None) -> Tensor:
    """True at the k largest scores; of equal scores the one with the lowest flat index comes first.

    scores: floating point, any shape. allowed: bool, same shape; only there is chosen.
    Returns bool of the same shape with exactly k ones, the same on every device.
    Raises TopologyError when a candidate's score is NaN.
    """
    candidates = scores.flatten() if allowed is None else scores.masked_select(allowed)
    num_candidates = candidates.numel()
    assert 0 <= k <= num_candidates, f"k is {k}, but there are {num_candidates} candidates"
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # A threshold and a count of ties: what a stable sort would give, at a tenth of its time.
    threshold = candidates.topk(k, sorted=False).values.amin()
    if bool(threshold.isnan()):  # NaN ranks first, and amin hands it on
        raise TopologyError(
            f"{int(candidates.isnan().sum())} of {num_candidates} scores that rank weights are "
            "NaN: training has diverged; lower optimizer.lr or optimizer.clip_norm"
        )
    above, tied = scores > threshold, scores == threshold
    if allowed is not None:
        above, tied = above & allowed, tied & allowed
    num_missing = k - int(above.count_nonzero())
    if int(tied.count_nonzero()) == num_missing:
        return above | tied
    rank_among_tied = tied.flatten().cumsum(0).reshape(tied.shape)
    return above | (tied & (rank_among_tied <= num_missing))


def global_top_k(
    scores: Mapping[str, Tensor], k: int, allowed: Mapping[str, Tensor] | None = None
) -> Masks:
    """Masks of the k largest scores of all layers together, with at least one in each layer.

    A layer that would stay empty keeps its best weight, at the expense of the others' weakest.
    """
    assert k >= len(scores), f"k is {k}, but {len(scores)} layers need one weight each"
    allowed = allowed or {}
    best = {name: top_k_mask(score, 1, allowed.get(name)) for name, score in scores.items()}
    joined = torch.cat([score.flatten() for score in scores.values()])
    reserved = torch.cat([mask.flatten() for mask in best.values()])
    free = ~reserved
    if allowed:
        free &= torch.cat([allowed[name].flatten() for name in scores])
    rest = top_k_mask(joined, k - len(scores), allowed=free)
    sizes = [score.numel() for score in scores.values()]
    pieces = torch.split(reserved | rest, sizes)
    return {
        name: piece.reshape(score.shape)
        for (name, score), piece in zip(scores.items(), pieces, strict=True)
    }


def random_scores(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent uniform scores of the shape and on the device of `like`.

    They are drawn on the generator's device, so that a CPU generator gives the same masks anywhere.
    """
    scores = torch.rand(like.shape, generator=generator, device=generator.device)
    return scores.to(like.device)


def random_masks(
    counts: Mapping[str, int], weights: Mapping[str, Tensor], generator: torch.Generator
) -> Masks:
    """Masks with `counts[name]` ones at uniformly random places."""
    return {
        name: top_k_mask(random_scores(weight, generator), counts[name])
        for name, weight in weights.items()
    }


def full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that keep every weight."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def count_ones(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of weights kept, by layer."""
    return {name: int(mask.sum()) for name, mask in masks.items()}
