"""Several radii in one call: verdicts are those of asking one by one, and fewer are asked."""

import math

import pytest
import torch
from networks import family
from torch import nn

from trainers.errors import VerificationError
from trainers.verify import certified_radii, radii, verify, verify_radii


def threshold(at):
    """Class 1 where the one input exceeds `at`; class 0 below."""
    model = nn.Sequential(nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -at]))
    return model


X, Y = torch.tensor([[0.5], [0.52], [0.2], [0.9]]), torch.tensor([0, 0, 0, 0])


def test_each_example_at_each_radius_by_hand():
    # Distances to the threshold 0.6: 0.1, 0.08, 0.4, and one on the wrong side.
    found = verify_radii(threshold(0.6), X, Y, [0.09, 0.05, 0.2])
    assert list(found) == [0.05, 0.09, 0.2]
    wrong = "misclassified"
    assert found[0.05].verdicts == ("verified", "verified", "verified", wrong)
    assert found[0.09].verdicts == ("verified", "falsified", "verified", wrong)
    assert found[0.2].verdicts == ("falsified", "falsified", "verified", wrong)
    # The middle one was asked first; half of the other answers follow from it.
    assert found[0.05].method == ("larger radius", "ibp", "larger radius", "natural")
    assert found[0.2].method == ("pgd", "smaller radius", "ibp", "natural")
    assert [found[r].radius for r in found] == list(found)
    assert found[0.2].counterexamples[1] is found[0.09].counterexamples[1]


def test_answers_are_those_of_one_by_one(monkeypatch):
    asked = []

    def counting(model, x, *rest, **options):
        asked.append(len(x))
        return verify(model, x, *rest, **options)

    model, x = family("cnn", 3, num_examples=12)
    y_B = model(x).argmax(1)
    wanted = (0.01, 0.03, 0.05, 0.08)
    monkeypatch.setattr(radii, "verify", counting)
    found = verify_radii(model, x, y_B, wanted, workers=2)
    for radius in wanted:
        assert found[radius].verdicts == verify(model, x, y_B, radius).verdicts
        assert found[radius].num_examples == 12
    assert sum(asked) < 4 * 12


def test_the_certified_radius_is_the_distance_to_the_threshold():
    found = certified_radii(threshold(0.6), X, Y, largest=0.3, tolerance=1e-3)
    assert found.bound == "ibp+crown-ibp+crown+alpha-crown+exact"
    verified, falsified = found.verified_B.tolist(), found.falsified_B.tolist()
    for i, distance in ((0, 0.1), (1, 0.08)):
        assert distance - 1e-3 <= verified[i] <= distance + 1e-6
        assert distance - 1e-6 <= falsified[i] <= distance + 1e-3
    assert (verified[2], falsified[2]) == (0.3, math.inf)
    assert math.isnan(verified[3]) and falsified[3] == 0.0
    assert found.mean_certified_radius == pytest.approx((0.1 + 0.08 + 0.3) / 4, abs=1e-3)
    curve = [found.verified_accuracy(r) for r in (0.0, 0.05, 0.09, 0.2, 0.3)]
    assert curve == [0.75, 0.75, 0.5, 0.25, 0.25]


def test_certified_radii_agree_with_verdicts_at_fixed_radii():
    model, x = family("residual", 2, num_examples=8)
    y_B = model(x).argmax(1)
    found = certified_radii(model, x, y_B, largest=0.1, tolerance=0.02)
    for radius in (0.01, 0.06):
        for i, verdict in enumerate(verify(model, x, y_B, radius).verdicts):
            if found.verified_B[i] >= radius:
                assert verdict == "verified"
            if found.falsified_B[i] <= radius:
                assert verdict == "falsified"


def test_without_time_nothing_is_certified_and_nothing_raised():
    found = certified_radii(threshold(0.6), X, Y, largest=0.3, tolerance=1e-3, budget_s=0.0)
    assert found.verified_B.tolist()[:3] == [0.0] * 3 and math.isnan(found.verified_B[3])
    late = verify_radii(threshold(0.6), X, Y, [0.05, 0.1], budget_s=0.0)
    assert all(r.verdicts == ("unknown",) * 3 + ("misclassified",) for r in late.values())


def test_each_example_may_have_a_radius_of_its_own():
    result = verify(threshold(0.6), X, Y, torch.tensor([0.05, 0.2, 0.1, 0.1]))
    assert result.verdicts == ("verified", "falsified", "verified", "misclassified")
    assert result.radius == pytest.approx(0.2)
    for wrong in (torch.tensor([0.1]), torch.tensor([0.1, 0.1, -0.1, 0.1])):
        with pytest.raises(VerificationError, match="for each of the 4 examples"):
            verify(threshold(0.6), X, Y, wrong)


@pytest.mark.parametrize(("largest", "tolerance"), [(0.1, 0.2), (0.1, 0.0), (math.inf, 0.1)])
def test_a_search_that_cannot_end_is_refused(largest, tolerance):
    with pytest.raises(VerificationError, match="0 < tolerance <= largest"):
        certified_radii(threshold(0.6), X, Y, largest=largest, tolerance=tolerance)
    with pytest.raises(VerificationError, match="at least one radius"):
        verify_radii(threshold(0.6), X, Y, [])
