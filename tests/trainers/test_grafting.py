"""Which units become lines, and a training in which they do."""

import io

import pytest
import torch
from torch import Tensor, nn

from spaces import SearchSpace, TrialConfig
from trainers import build, train
from trainers.bounds import IntervalPass
from trainers.data import Data, Split, load_data
from trainers.errors import ModelError
from trainers.grafting import (
    activation_sizes,
    choose_units,
    gradient_sizes,
    instability_shares,
    mean_unstable_relus,
)
from trainers.models.grafted import GraftedReLU, grafted_relus

# Which units --------------------------------------------------------------------------------------


def picked(significance: list[list[float]], instability: list[list[float]], count: int) -> list:
    masks = choose_units(
        [torch.tensor(s) for s in significance], [torch.tensor(s) for s in instability], count
    )
    return [mask.int().tolist() for mask in masks]


def test_a_rank_is_insignificance_times_instability() -> None:
    # Insignificance of 3, 1, 2: 1/3, 3/3, 2/3; times instability: .3, .2, .6.
    significance, instability = [[3.0, 1.0, 2.0]], [[0.9, 0.2, 0.9]]
    assert picked(significance, instability, 0) == [[0, 0, 0]]
    assert picked(significance, instability, 1) == [[0, 0, 1]]
    assert picked(significance, instability, 2) == [[1, 0, 1]]
    assert picked(significance, instability, 3) == [[1, 1, 1]]


def test_layers_compete_whatever_the_scale_of_their_activations() -> None:
    assert picked([[1.0, 2.0], [100.0, 200.0]], [[0.5, 0.5], [0.8, 0.4]], 2) == [[1, 0], [1, 0]]


def test_stable_units_come_last_and_the_least_significant_of_them_first() -> None:
    assert picked([[1.0, 3.0, 2.0]], [[0.0, 0.1, 0.0]], 2) == [[1, 1, 0]]


def test_equal_units_go_by_index() -> None:
    assert picked([[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]], 3) == [[1, 1], [1, 0]]


def test_units_that_are_lines_already_are_the_first() -> None:
    given = [torch.tensor([False, False, True])]
    masks = choose_units([torch.tensor([1.0, 2.0, 3.0])], [torch.tensor([1.0, 1.0, 0])], 2, given)
    assert masks[0].tolist() == [True, False, True]


def three_units() -> tuple[IntervalPass, list[GraftedReLU]]:
    """Units x, 2x - 1 and -x of one number x; logits (first + second, third)."""
    model = nn.Sequential(nn.Linear(1, 3), GraftedReLU((3,)), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -1.0, 0.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        model[2].bias.zero_()
    return IntervalPass(model), list(grafted_relus(model).values())


def test_scores_of_three_units_by_hand() -> None:
    interval, relus = three_units()
    # Balls [.4, .6], [.8, 1]; 2x - 1 is in [-.2, .2] on the first and above 0 on the second.
    examples = Split(torch.tensor([[0.5], [0.9]]), torch.tensor([0, 1]))
    (unstable,) = instability_shares(interval, relus, examples, 0.1)
    torch.testing.assert_close(unstable, torch.tensor([[0.0, 0.5, 0.0]]))
    (sizes,) = activation_sizes(interval.program, relus, examples)
    torch.testing.assert_close(sizes, torch.tensor([[0.7, 0.4, 0.0]]))
    assert mean_unstable_relus(interval, examples, 0.1) == 0.5
    # d cross-entropy / d (first, second, third): (p - 1, p - 1, q) and (p, p, q - 1).
    p = torch.sigmoid(torch.tensor([0.5, 1.7]))
    by_first, by_third = (1 - p[0] + p[1]) / 2, (1 - p[0] + p[1]) / 2
    (sizes,) = gradient_sizes(interval.program, relus, examples)
    torch.testing.assert_close(sizes, torch.stack([by_first, by_first, by_third])[None])


def test_a_line_is_stable() -> None:
    interval, relus = three_units()
    relus[0].grafted[0, 1] = True
    examples = Split(torch.tensor([[0.5], [0.9]]), torch.tensor([0, 1]))
    (unstable,) = instability_shares(interval, relus, examples, 0.1)
    assert not unstable.any()


def test_a_channel_has_the_mean_of_its_positions() -> None:
    torch.manual_seed(0)
    conv, out = nn.Conv2d(1, 2, 1), nn.Linear(8, 2)
    whole, single = GraftedReLU((2, 1, 1)), GraftedReLU((2, 2, 2))
    examples = Split(torch.rand(300, 1, 2, 2), torch.randint(2, (300,)))
    for measure in (activation_sizes, gradient_sizes):
        by_channel, by_neuron = (
            measure(
                IntervalPass(nn.Sequential(conv, relu, nn.Flatten(), out)).program, [relu], examples
            )[0]
            for relu in (whole, single)
        )
        torch.testing.assert_close(by_channel, by_neuron.mean((2, 3), keepdim=True))


# A training ---------------------------------------------------------------------------------------


def config(**changes: object) -> TrialConfig:
    base = {
        "data": {"name": "digits"},
        "evaluation": {"radius": 0.05, "examples": 40, "epoch_examples": 40, "methods": ["ibp"]},
        "epochs": 2,
        "batch_size": 180,
        "model": {"family": "mlp", "widths": [16, 12]},
        "topology": {"method": "static", "density": 0.5},
        "optimizer": {"lr": 0.01, "weight_decay": 0.01},
        "grafting": {"fraction": 0.3},
    }
    return TrialConfig.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(config().data, torch.device("cpu"))


def grafted(training: object) -> int:
    return sum(relu.num_grafted for relu in grafted_relus(training.model).values())  # type: ignore


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("significance", ["activation", "gradient"])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.999])
def test_exactly_the_asked_number_of_units_is_grafted_at_the_start(
    data: Data, start: float, significance: str
) -> None:
    settings = {"fraction": 0.3, "start": start, "significance": significance}
    training = build(config(grafting=settings), data)
    seen = [grafted(training)]
    for x, y_B in [*training.batches.of(0), *training.batches.of(0)]:
        training.train_step(x, y_B)
        seen.append(grafted(training))
    first = int(start * 10)
    assert seen == [0] * (first + 1) + [round(0.3 * 28)] * (10 - first)


def test_lines_are_trained_and_other_lines_are_not(data: Data) -> None:
    training = train(config(), data)
    for relu in grafted_relus(training.model).values():
        assert bool((relu.slope[relu.grafted] != 0.4).all())
        assert bool((relu.slope[~relu.grafted].float() == 0.4).all())
        assert not relu.bias[~relu.grafted].any()
    final = training.final_metrics()
    assert final["num_grafted_units"] == 8
    plain = train(config(grafting={"fraction": 0.0}), data).final_metrics()
    assert final["num_active_parameters"] == plain["num_active_parameters"] + 2 * 8
    assert final["inference_flops"] == final["density"] * final["dense_inference_flops"]
    assert plain["num_grafted_units"] == 0.0


def test_the_choice_is_among_the_operations(data: Data) -> None:
    plain = train(config(grafting={"fraction": 0.0}), data).training_flops
    kept = 2 * (64 * 16 + 16 * 12 + 12 * 10) // 2
    for significance, passes in (("activation", 4), ("gradient", 5)):
        settings = {"fraction": 0.3, "significance": significance, "examples": 100}
        spent = train(config(grafting=settings), data).training_flops
        assert spent == plain + 100 * passes * kept


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grafting": {"fraction": 0.3, "granularity": "channel"}, "epochs": 3},
        {"topology": {"method": "rigl", "density": 0.5, "update_every": 2}},
        {"topology": {"method": "gibbs", "density": 0.5}},
        {"topology": {"method": "acdc", "density": 0.5, "cycles": 1}},
        {"topology": {"method": "dense"}, "loss": {"name": "natural"}},
        {"optimizer": {"name": "sgd", "lr": 0.1}},
    ],
)
def test_resuming_after_an_epoch_equals_an_uninterrupted_run(
    data: Data, changes: dict[str, object]
) -> None:
    trial = config(**changes)
    whole = train(trial, data)
    part = build(trial, data)
    part.run_epoch()
    saved = io.BytesIO()
    torch.save(part.state_dict(), saved)
    saved.seek(0)
    resumed = build(trial, data)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    while not resumed.finished:
        resumed.run_epoch()
    assert grafted(whole) == 8
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_crown_ibp_trains_lines_too(data: Data) -> None:
    training = train(config(loss={"name": "crown_ibp"}, grafting={"fraction": 0.3}), data)
    relus = grafted_relus(training.model).values()
    assert all(bool((relu.slope[relu.grafted] != 0.4).all()) for relu in relus)


def test_grafting_leaves_fewer_units_unstable(data: Data) -> None:
    trained = train(config(epochs=4, grafting={"fraction": 0.0}), data)
    settings = {"fraction": 0.5, "start": 0.0}
    after = build(
        config(grafting=settings), data, weights=trained.model.state_dict(), masks=trained.masks
    )
    before = mean_unstable_relus(after.loss.interval, data.validation, 0.05)
    assert before == mean_unstable_relus(trained.loss.interval, data.validation, 0.05)
    after.grafting.graft(data.train, after.optimizer)
    assert mean_unstable_relus(after.loss.interval, data.validation, 0.05) < 0.6 * before


# Given weights ------------------------------------------------------------------------------------


def test_a_trained_plain_network_is_grafted_and_keeps_its_masks(data: Data) -> None:
    plain = train(config(grafting={"fraction": 0.0}), data)
    settings = {"fraction": 0.3, "start": 0.0}
    training = build(
        config(grafting=settings), data, weights=plain.model.state_dict(), masks=plain.masks
    )
    x = data.validation.x
    assert torch.equal(training.model.eval()(x), plain.model.eval()(x))
    assert grafted(training) == 0
    training.run_epoch()
    assert grafted(training) == 8
    assert same(training.masks, plain.masks)


def test_lines_of_given_weights_stay_and_count(data: Data) -> None:
    first = train(config(), data)
    lines = {n: t for n, t in first.model.state_dict().items() if n.endswith("grafted")}
    more = config(grafting={"fraction": 0.5, "start": 0.0})
    second = train(more, data, weights=first.model.state_dict(), masks=first.masks)
    assert grafted(second) == 14
    for name, before in lines.items():
        assert bool(second.model.state_dict()[name][before].all())
    with pytest.raises(ModelError, match=r"0.1 of 28 ReLUs is 3 lines, but .* 8 already: raise"):
        fewer = config(grafting={"fraction": 0.1})
        build(fewer, data, weights=first.model.state_dict(), masks=first.masks)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(64, 8), nn.ReLU()
        self.hidden, self.out = nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(self.relu(self.fc(x.flatten(1))))))


def functional(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Functional()


def test_relus_that_are_functions_cannot_be_grafted(data: Data) -> None:
    model = {"python": f"{__name__}:functional"}
    build(config(model=model, grafting={"fraction": 0.0}), data)
    with pytest.raises(ModelError, match=r"is a function, and only modules.*nn.ReLU\(\) of its"):
        build(config(model=model), data)


# A space ------------------------------------------------------------------------------------------


def test_a_searched_fraction_decodes_and_trains(data: Data) -> None:
    tree = config().model_dump(mode="json", exclude={"grafting"})
    space = SearchSpace({**tree, "grafting": {"fraction": {"low": 0, "high": 0.5}}})
    assert [hole.path for hole in space.parameters()] == ["grafting.fraction"]
    for fraction, count in ((0.0, 0), (0.25, 7), (0.5, 14)):
        trial = space.decode({"grafting.fraction": fraction})
        assert space.encode(trial) == {"grafting.fraction": fraction}
        assert train(trial, data).final_metrics()["num_grafted_units"] == count
