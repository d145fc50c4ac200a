"""Shifts and flips, checked against images moved by hand and by loops."""

import pytest
import torch

from spaces.data import AugmentConfig
from trainers.data import augment
from trainers.data.augmentation import shift_and_flip
from trainers.device import generator

IMAGE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[None, None]


def moved(down: int, right: int, flip: bool) -> list[list[float]]:
    out = shift_and_flip(IMAGE, torch.tensor([down]), torch.tensor([right]), torch.tensor([flip]))
    return out[0, 0].tolist()


def test_moves_by_hand():
    assert moved(0, 0, False) == IMAGE[0, 0].tolist()
    assert moved(1, 0, False) == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved(0, -1, False) == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    assert moved(-2, 1, False) == [[0, 7, 8], [0, 0, 0], [0, 0, 0]]
    assert moved(0, 0, True) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert moved(0, 1, True) == [[0, 3, 2], [0, 6, 5], [0, 9, 8]]
    assert moved(3, 0, False) == [[0, 0, 0]] * 3
    assert moved(0, -7, False) == [[0, 0, 0]] * 3


def test_every_image_moves_on_its_own_as_a_loop_would():
    gen = generator(0, "images")
    x = torch.rand(20, 3, 5, 7, generator=gen)
    down, right = (torch.randint(-4, 5, (20,), generator=gen) for _ in range(2))
    flip = torch.rand(20, generator=gen) < 0.5
    expected = torch.zeros_like(x)
    for b in range(20):
        source = x[b].flip(-1) if flip[b] else x[b]
        for i in range(5):
            for j in range(7):
                row, column = i - int(down[b]), j - int(right[b])
                if 0 <= row < 5 and 0 <= column < 7:
                    expected[b, :, i, j] = source[:, row, column]
    assert torch.equal(shift_and_flip(x, down, right, flip), expected)


def test_shifts_reach_both_ends_and_flips_are_even():
    x = torch.zeros(2000, 1, 5, 5)
    x[:, 0, 2, 2] = 1.0
    out = augment(AugmentConfig(shift=2), x, generator(0, "augment"))
    counts = out.sum(0)[0]
    assert out.sum() == 2000  # a shift of 2 keeps the middle pixel inside
    assert counts.min() > 40  # each of the 25 places, 80 expected
    x = torch.zeros(2000, 1, 1, 2)
    x[..., 0] = 1.0
    flipped = augment(AugmentConfig(flip=True), x, generator(0, "augment"))[..., 1].sum()
    assert 900 < flipped < 1100


def test_the_same_generator_gives_the_same_images():
    x = torch.rand(8, 1, 6, 6, generator=generator(1, "x"))
    config = AugmentConfig(shift=2, flip=True)
    one, two, other = (augment(config, x, generator(s, "augment")) for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("x", [torch.rand(4, 7), torch.rand(4, 1, 3, 3)])
def test_nothing_asked_or_no_image_changes_nothing_and_draws_nothing(x):
    gen = generator(0, "augment")
    before = gen.get_state()
    config = AugmentConfig() if x.dim() == 4 else AugmentConfig(shift=1, flip=True)
    assert augment(config, x, gen) is x
    assert torch.equal(gen.get_state(), before)
