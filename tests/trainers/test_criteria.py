"""Criteria of drop/grow methods that read more than weights and gradients, by hand."""

from typing import get_args

import pytest
import torch

from spaces.sparsity import DropCriterion, GrowCriterion
from trainers.topology.base import Signals
from trainers.topology.criteria import DROP, GROW
from trainers.topology.masks import top_k_mask

WEIGHTS = torch.tensor([[0.5, -0.1, 0.0], [0.4, -0.9, 0.2], [0.3, 0.3, -0.6]])
SIGNALS = Signals(
    weights={"w": WEIGHTS},
    adversarial_gradients={
        "w": torch.tensor([[0.1, -2.0, 9.0], [0.3, 0.0, -0.4], [1.0, 5.0, 0.2]])
    },
    momenta={"w": torch.tensor([[0.1, -0.2, 0.3], [-0.9, 0.0, 0.4], [0.5, 0.6, -0.7]])},
    cosines={"w": torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.0, 0.4], [0.5, 0.6, 0.7]])},
    instability={"w": torch.tensor([-1.0, 0.5, 1.0])},
)


def score(criterion, signals=SIGNALS):
    return criterion.score("w", signals, torch.Generator())


def test_every_configured_criterion_exists_and_no_other():
    assert tuple(DROP) == get_args(DropCriterion)
    assert tuple(GROW) == get_args(GrowCriterion)


def test_stability_scales_the_magnitude_by_how_stable_the_unit_is():
    # (1 - NRS) / 2 is 1 for the stable unit, 1/4 for NRS 1/2, and 0 for the unstable one.
    expected = torch.tensor([[0.5, 0.1, 0.0], [0.1, 0.225, 0.05], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(score(DROP["stability"]), expected)


def test_stability_is_by_output_channel_of_a_convolution():
    weight = torch.ones(2, 3, 2, 2)
    signals = Signals({"w": weight}, instability={"w": torch.tensor([0.0, -1.0])})
    result = score(DROP["stability"], signals)
    torch.testing.assert_close(result[0], torch.full((3, 2, 2), 0.5))
    torch.testing.assert_close(result[1], torch.ones(3, 2, 2))


def test_without_relus_stability_is_magnitude():
    signals = Signals({"w": WEIGHTS}, instability={"w": torch.full((3,), -1.0)})
    torch.testing.assert_close(score(DROP["stability"], signals), score(DROP["magnitude"], signals))


def test_greedy_adversarial_pruning_drops_the_largest_gradients():
    kept = top_k_mask(score(DROP["adversarial_gradient"]), 5)
    # |gradients| in order: 9, 5, 2, 1 go; 0, 0.1, 0.2, 0.3, 0.4 stay.
    assert kept.tolist() == [[True, False, False], [True, True, True], [False, False, True]]


@pytest.mark.parametrize("parts", [DROP, GROW])
@pytest.mark.parametrize("name", ["cosine", "momentum"])
def test_cosine_and_momentum_are_magnitudes(parts, name):
    expected = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.0, 0.4], [0.5, 0.6, 0.7]])
    torch.testing.assert_close(score(parts[name]), expected)


@pytest.mark.parametrize("criterion", [*DROP.items(), *GROW.items()], ids=lambda item: item[0])
def test_a_criterion_reads_what_it_declares_and_changes_nothing(criterion):
    every = {
        "gradients": {"w": torch.ones(3, 3)},
        "certified_gradients": {"w": torch.ones(3, 3)},
        "weights": {"w": WEIGHTS.clone()},
        **{
            name: {"w": SIGNALS[name]["w"].clone()}
            for name in ("adversarial_gradients", "momenta", "cosines", "instability")
        },
    }
    part = criterion[1]
    supplied = {"weights": every["weights"], **{name: every[name] for name in part.inputs}}
    before = {name: signal["w"].clone() for name, signal in supplied.items()}
    result = part.score("w", Signals(**supplied), torch.Generator().manual_seed(0))
    assert result.shape == WEIGHTS.shape and bool(result.isfinite().all())
    for name, signal in supplied.items():
        assert torch.equal(signal["w"], before[name])
