"""A ticket is trained again: rewound or further, on its own data or others; its masks stay."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load_ticket, retrain_ticket, save_ticket, verify_ticket
from analysis.errors import TicketError
from analysis.ticket import Ticket
from spaces import ConfigError, TrialConfig
from spaces.data import NpzDataConfig
from trainers import train
from trainers.data import load_data
from trainers.errors import ModelError
from trainers.transfer import head_mask

CONFIG: dict[str, Any] = {
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05, "examples": 40, "methods": ["ibp"]},
    "epochs": 1,
    "model": {"family": "mlp", "widths": [12, 8]},
    "topology": {"method": "snip", "density": 0.3},
    "optimizer": {"lr": 0.01},
}


def trained(**changes: object) -> Ticket:
    config = TrialConfig.model_validate({**CONFIG, **changes})
    training = train(config, load_data(config.data, "cpu"))
    return Ticket.from_training(training, training.final_metrics())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ticket(trained(), tmp_path_factory.mktemp("trained") / "ticket")


@pytest.fixture
def ticket(folder: Path) -> Ticket:
    return load_ticket(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images of the size of digits, in three classes: upper, lower or no half is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = rng.uniform(0.0, 0.4, (300, 8, 8))
    x[y == 1, :4] += 0.5
    x[y == 2, 4:] += 0.5
    path = tmp_path_factory.mktemp("three") / "three.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return {"name": "npz", "path": str(path)}


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# From where it starts -----------------------------------------------------------------------------


def test_a_rewound_ticket_becomes_what_it_was(ticket: Ticket) -> None:
    again = ticket.retrain()
    assert same(again.weights, ticket.weights)
    assert same(again.masks, ticket.masks)
    assert same(again.initial_weights, ticket.initial_weights)
    flops = ticket.metrics["training_flops"]
    assert again.metrics["training_flops"] == pytest.approx(2 * flops, rel=0.1)  # snip: one more
    costs = ("training_flops", "duration_s")
    assert {n: v for n, v in again.metrics.items() if n not in costs} == {
        n: v for n, v in ticket.metrics.items() if n not in costs
    }


def test_the_new_ticket_says_what_it_was_made_from_and_how(ticket: Ticket, tmp_path: Path) -> None:
    again = ticket.retrain(start="final", epochs=2, lr=0.002, seed=5, loss={"kappa": 0.25})
    found = load_ticket(save_ticket(again, tmp_path / "t"))
    assert found.parent == ticket.digest and len(found.parent) == 64
    assert found.config.topology.method == "static"
    assert (found.config.epochs, found.config.optimizer.lr, found.seed) == (2, 0.002, 5)
    assert found.config.loss == ticket.config.loss.model_copy(update={"kappa": 0.25})
    assert found.provenance.split == "validation"
    assert same(found.masks, ticket.masks)
    assert same(found.initial_weights, ticket.weights)
    assert not same(found.weights, ticket.weights)


def test_another_variant_of_a_setting_stands_alone(ticket: Ticket) -> None:
    again = ticket.retrain(loss={"name": "natural"})
    assert again.config.loss.name == "natural"


def test_weights_that_grew_in_training_start_at_zero_again() -> None:
    grown = trained(topology={"method": "set", "density": 0.3, "update_every": 3})
    name = "fc1.weight"
    late = grown.masks[name] & (grown.initial_weights[name] == 0)
    assert late.any()
    again = grown.retrain()
    assert not again.initial_weights[name][late].any()
    assert again.weights[name][late].any()
    assert same(again.masks, grown.masks)


def test_a_dense_ticket_and_one_without_masks_stay_dense() -> None:
    dense = trained(topology={"method": "dense"})
    for ticket in (dense, replace(dense, masks={})):
        again = ticket.retrain()
        assert again.config.topology.method == "dense"
        assert all(mask.all() for mask in again.masks.values())
        assert same(again.weights, dense.weights)


def test_the_same_call_gives_the_same_ticket(ticket: Ticket, three: dict[str, Any]) -> None:
    first, second = ticket.retrain(three, seed=3), ticket.retrain(three, seed=3)
    assert same(first.weights, second.weights) and same(first.masks, second.masks)
    assert not same(first.masks, ticket.retrain(three, seed=4).masks)  # the new last layer's


# Other data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["initial", "final"])
def test_other_classes_get_a_last_layer_of_their_own(
    ticket: Ticket, three: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    other = ticket.retrain(three, start=start, epochs=6, batch_size=16)
    assert other.num_classes == 3 and other.weights["out.weight"].shape == (3, 8)
    source = ticket.initial_weights if start == "initial" else ticket.weights
    for name in ("fc1.weight", "fc2.weight"):
        assert torch.equal(other.masks[name], ticket.masks[name])
        assert torch.equal(other.initial_weights[name], source[name])
    for name in ("fc1.bias", "fc2.bias"):
        assert torch.equal(other.initial_weights[name], source[name])
    head, kept = other.masks["out.weight"], int(ticket.masks["out.weight"].sum())
    assert int(head.sum()) == max(3, round(kept * 3 / 10))
    assert torch.equal(other.initial_weights["out.weight"] != 0, head)
    assert not other.initial_weights["out.bias"].any()
    data = load_data(other.config.data, "cpu")
    assert torch.equal(other.weights["normalize.mean"].flatten(), data.mean)
    found = load_ticket(save_ticket(other, tmp_path / "t"))
    assert found.config.data == NpzDataConfig.model_validate(three)
    (result,) = verify_ticket(tmp_path / "t", examples=10, methods=["ibp"]).results
    assert result.radius == 0.05
    assert other.metrics["natural_accuracy"] > 0.6  # chance is a third


def test_other_data_may_be_given_as_loaded(ticket: Ticket, three: dict[str, Any]) -> None:
    data = load_data(NpzDataConfig.model_validate(three), "cpu")
    assert same(ticket.retrain(data).weights, ticket.retrain(three).weights)


def test_other_data_with_as_many_classes_keep_the_last_layer(
    ticket: Ticket, tmp_path: Path
) -> None:
    digits = load_data(ticket.config.data, "cpu").train
    np.savez(tmp_path / "negative.npz", x=1 - digits.x[:, 0].numpy(), y=digits.y.numpy())
    other = ticket.retrain({"name": "npz", "path": str(tmp_path / "negative.npz")})
    assert torch.equal(other.initial_weights["out.weight"], ticket.initial_weights["out.weight"])
    assert same(other.masks, ticket.masks)


def test_a_hand_made_last_layer() -> None:
    """Two classes read units 0 and 2 of four: 3 of 8 weights are kept, so are 6 of 16."""
    old = torch.tensor([[True, False, True, False], [True, False, False, False]])
    new = head_mask(old, 4, seed=0)
    assert new.shape == (4, 4) and new.dtype == torch.bool
    assert new.sum(dim=1).tolist() == [2, 2, 1, 1]
    assert not new[:, 1].any() and not new[:, 3].any()


@given(
    old=st.integers(1, 6).flatmap(
        lambda width: st.lists(
            st.lists(st.booleans(), min_size=width, max_size=width), min_size=2, max_size=5
        )
    ),
    num_classes=st.integers(2, 7),
    seed=st.integers(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_a_new_last_layer_has_an_exact_count_and_reads_what_the_old_one_read(
    old: list[list[bool]], num_classes: int, seed: int
) -> None:
    mask = torch.tensor(old)
    mask[0, 0] = True  # no layer is ever empty
    new = head_mask(mask, num_classes, seed)
    share = int(mask.sum()) / mask.numel()
    assert int(new.sum()) == max(num_classes, round(share * new.numel()))
    rows = new.sum(dim=1)
    assert rows.min() >= 1 and rows.max() - rows.min() <= 1
    assert not (new.any(dim=0) & ~mask.any(dim=0)).any()


@pytest.mark.parametrize(
    "model",
    [
        {"family": "cnn", "channels": [2], "hidden": [], "batch_norm": True},
        {"family": "resnet", "width": 2, "blocks": [1]},
    ],
)
def test_networks_of_convolutions_get_a_new_last_layer_too(
    ticket_of: Any, three: dict[str, Any], model: dict[str, Any]
) -> None:
    other = ticket_of(model, density=0.8).retrain(three, epochs=1)
    x_BCHW = torch.zeros(2, 1, 8, 8)
    assert other.model()(x_BCHW).shape == (2, 3)


# On disk ------------------------------------------------------------------------------------------


def test_retraining_a_folder_writes_another_and_reports_both(
    folder: Path, three: dict[str, Any], tmp_path: Path
) -> None:
    report = retrain_ticket(folder, tmp_path / "new", data=three, onnx=False)
    old, new = load_ticket(folder), load_ticket(tmp_path / "new")
    assert new.parent == old.digest
    assert report.before["data"] == "digits" and report.after["data"] == "npz"
    assert report.before["metrics"] == old.metrics and report.after["metrics"] == new.metrics
    assert report.after["radius"] == 0.05 and report.after["split"] == "validation"
    document = json.loads(report.to_json())
    assert document["folder"] == str(tmp_path / "new") and document["start"] == "initial"


# What is refused ----------------------------------------------------------------------------------


def test_data_of_another_shape_are_refused(ticket: Ticket, tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", x=np.zeros((60, 9, 9), np.float32), y=np.arange(60) % 2)
    with pytest.raises(TicketError, match=r"shape \(1, 9, 9\), but .* takes \(1, 8, 8\).*resizes"):
        ticket.retrain({"name": "npz", "path": str(tmp_path / "big.npz")})


def test_changed_data_of_its_own_are_refused(ticket: Ticket) -> None:
    prints = {**ticket.data_fingerprints, "train": "0" * 64}
    with pytest.raises(TicketError, match="train split of digits is not the one.*0000"):
        replace(ticket, data_fingerprints=prints).retrain()


@pytest.mark.parametrize("change", [{"split_seed": 1}, {"test_fraction": 0.3}])
def test_its_own_data_split_in_another_way_are_refused(
    ticket: Ticket, change: dict[str, Any]
) -> None:
    (name,) = change
    with pytest.raises(TicketError, match=f"data.{name} is .*examples that it was trained on"):
        ticket.retrain({"name": "digits", **change})


def test_its_own_data_may_be_augmented(ticket: Ticket) -> None:
    again = ticket.retrain({"name": "digits", "augment": {"shift": 1}})
    assert again.config.data.augment.shift == 1
    assert again.data_fingerprints == ticket.data_fingerprints


def test_data_that_nobody_could_load_again_are_refused(
    ticket: Ticket, three: dict[str, Any]
) -> None:
    data = load_data(NpzDataConfig.model_validate(three), "cpu")
    by_hand = replace(data, config=None)
    altered = replace(data, train=replace(data.train, x=data.train.x.flip(0)))
    for given_data in (by_hand, altered):
        with pytest.raises(TicketError, match="not what any settings load.*numpy.savez"):
            ticket.retrain(given_data)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"start": "middle"}, TicketError, "start is 'middle': it must be initial or final"),
        ({"model": {"family": "cnn"}}, TicketError, "model cannot be changed"),
        ({"topology": {"method": "rigl"}}, TicketError, "topology cannot be changed"),
        ({"data": {"name": "digit"}}, ConfigError, "data.name: .*did you mean digits"),
        ({"epochs": 0}, ConfigError, "epochs: 0 must be"),
        ({"lr": -1.0}, ConfigError, "optimizer.lr: -1.0 must be"),
        ({"epoch": 3}, ConfigError, "epoch: unknown key; did you mean epochs"),
        ({"loss": {"kapa": 0.1}}, ConfigError, "loss.kapa: unknown key; did you mean kappa"),
    ],
)
def test_settings_outside_their_limits_are_refused(
    ticket: Ticket, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ticket.retrain(**settings)


def test_a_ticket_without_initial_weights_can_go_on_but_not_start_again(ticket: Ticket) -> None:
    light = replace(ticket, initial_weights={})
    with pytest.raises(TicketError, match="no initial weights: start from its final ones"):
        light.retrain()
    assert same(light.retrain(start="final").initial_weights, ticket.weights)


def wide_by_classes(input_shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 2 * num_classes),
        torch.nn.ReLU(),
        torch.nn.Linear(2 * num_classes, num_classes),
    )


def test_a_network_that_depends_on_the_classes_elsewhere_is_refused(
    ticket_of: Any, three: dict[str, Any]
) -> None:
    ticket = ticket_of({"family": "python", "python": f"{__name__}:wide_by_classes"})
    with pytest.raises(ModelError, match=r"network.1.bias, .* depend on the number of classes"):
        ticket.retrain(three)


def test_a_place_that_holds_something_else_is_refused_before_training(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TicketError, match="is not a ticket"):
        retrain_ticket(folder, tmp_path, epochs=10_000)
