"""A ticket is grafted: the new one stands on its own, and what cannot be done is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import graft_ticket, load_ticket, save_ticket, verify_ticket
from analysis.errors import TicketError
from analysis.ticket import Ticket
from spaces import ConfigError, TrialConfig
from trainers import train
from trainers.data import load_data
from trainers.errors import ModelError
from trainers.models.grafted import grafted_relus

CONFIG: dict[str, Any] = {
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05, "examples": 60, "methods": ["ibp", "crown"]},
    "epochs": 2,
    "model": {"family": "mlp", "widths": [16, 8]},
    "topology": {"method": "rigl", "density": 0.3, "update_every": 5},
    "optimizer": {"lr": 0.01},
}


def trained(folder: Path, **changes: object) -> Path:
    config = TrialConfig.model_validate({**CONFIG, **changes})
    training = train(config, load_data(config.data, "cpu"))
    metrics = training.final_metrics()
    return save_ticket(Ticket.from_training(training, metrics), folder)


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained") / "ticket")


@pytest.fixture(scope="module")
def grafted(ticket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("grafted") / "ticket"
    graft_ticket(ticket, to, fraction=0.5, epochs=1, onnx=False)
    return to


def test_a_grafted_ticket_has_the_lines_and_the_masks_that_it_should(
    ticket: Path, grafted: Path
) -> None:
    old, new = load_ticket(ticket), load_ticket(grafted)
    assert sum(relu.num_grafted for relu in grafted_relus(new.model()).values()) == 12
    assert new.metrics["num_grafted_units"] == 12
    assert all(torch.equal(new.masks[name], old.masks[name]) for name in old.masks)
    assert new.config.topology.method == "static"
    assert (new.config.grafting.fraction, new.config.grafting.start) == (0.5, 0.0)
    assert new.config.optimizer.lr == pytest.approx(0.002)
    assert all(torch.equal(new.initial_weights[n], t) for n, t in old.weights.items())
    assert new.metrics["training_flops"] > old.metrics["training_flops"]


def test_the_report_has_the_figures_of_both_tickets(ticket: Path, tmp_path: Path) -> None:
    report = graft_ticket(ticket, tmp_path / "new", fraction=0.5, epochs=1, onnx=False)
    old, new = load_ticket(ticket), load_ticket(tmp_path / "new")
    for name in ("natural_accuracy", "verified_accuracy", "num_grafted_units"):
        assert report.before[name] == old.metrics[name]
        assert report.after[name] == new.metrics[name]
    assert 0 <= report.after["unstable_relus"] < report.before["unstable_relus"] < 24
    assert report.provenance.model_dump() == {
        "split": "validation", "bound": "ibp+crown", "radius": 0.05, "num_examples": 60,
        "num_timeouts": 0,
    }  # fmt: skip
    document = json.loads(report.to_json())
    assert document["folder"] == str(tmp_path / "new")
    assert document["after"] == dict(report.after)


def test_the_same_graft_gives_the_same_weights(ticket: Path, grafted: Path, tmp_path: Path) -> None:
    graft_ticket(ticket, tmp_path / "again", fraction=0.5, epochs=1, onnx=False)
    first, second = load_ticket(grafted).weights, load_ticket(tmp_path / "again").weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_grafted_ticket_can_be_trained_again(grafted: Path) -> None:
    ticket = load_ticket(grafted)
    data = load_data(ticket.config.data, "cpu")
    again = train(ticket.config, data, weights=ticket.initial_weights, masks=ticket.masks)
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, ticket.weights[name]), name


def test_verify_confirms_a_grafted_ticket_from_its_folder(grafted: Path) -> None:
    claimed = load_ticket(grafted).metrics
    by_its_own = {"split": "validation", "examples": 60, "methods": ["ibp", "crown"]}
    (result,) = verify_ticket(grafted, **by_its_own).results
    assert result.natural_accuracy == claimed["natural_accuracy"]
    assert result.verified_accuracy == claimed["verified_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["neuron", "channel"])
def test_a_grafted_network_of_convolutions_is_exported_as_onnx(
    granularity: str, tmp_path: Path
) -> None:
    model = {"family": "cnn", "channels": [3, 4], "hidden": [6]}
    folder = trained(tmp_path / "ticket", model=model, epochs=1)
    options = {"fraction": 0.4, "epochs": 1, "granularity": granularity}
    graft_ticket(folder, tmp_path / "new", significance="gradient", **options)
    onnx = load_ticket(tmp_path / "new").exports["onnx"]
    assert onnx.tolerance is not None and onnx.max_abs_difference <= onnx.tolerance
    certificate = verify_ticket(tmp_path / "new", split="validation", examples=20)
    assert certificate.onnx is not None


def test_fraction_0_only_trains_on(ticket: Path, tmp_path: Path) -> None:
    report = graft_ticket(ticket, tmp_path / "new", fraction=0.0, epochs=1, onnx=False)
    assert report.after["num_grafted_units"] == 0
    assert load_ticket(tmp_path / "new").weights.keys() == load_ticket(ticket).weights.keys()


def test_a_dense_ticket_stays_dense(tmp_path: Path) -> None:
    folder = trained(tmp_path / "ticket", topology={"method": "dense"}, epochs=1)
    graft_ticket(folder, tmp_path / "new", fraction=0.2, epochs=1, onnx=False)
    assert load_ticket(tmp_path / "new").config.topology.method == "dense"


def test_units_that_are_pruned_as_a_whole_stay_pruned(tmp_path: Path) -> None:
    topology = {"method": "snip", "density": 0.4, "granularity": "unit"}
    folder = trained(tmp_path / "ticket", topology=topology)
    graft_ticket(folder, tmp_path / "new", fraction=0.2, epochs=1, onnx=False)
    old, new = load_ticket(folder), load_ticket(tmp_path / "new")
    assert all(torch.equal(new.masks[name], old.masks[name]) for name in old.masks)


def test_a_grafted_ticket_can_get_more_lines_but_not_fewer(grafted: Path, tmp_path: Path) -> None:
    report = graft_ticket(grafted, tmp_path / "more", fraction=0.75, epochs=1, onnx=False)
    assert report.before["num_grafted_units"] == 12
    assert report.after["num_grafted_units"] == 18
    with pytest.raises(TicketError, match=r"fraction of 0.5 of its ReLUs grafted .* than 0.25"):
        graft_ticket(grafted, tmp_path / "less", fraction=0.25, epochs=1)
    with pytest.raises(TicketError, match="lines by neuron.*use granularity neuron"):
        graft_ticket(grafted, tmp_path / "c", fraction=0.5, epochs=1, granularity="channel")


# What is refused ----------------------------------------------------------------------------------


def no_relu(input_shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


def test_a_network_without_relu_cannot_be_grafted(tmp_path: Path) -> None:
    model = {"python": f"{__name__}:no_relu"}
    folder = trained(tmp_path / "ticket", model=model, topology={"method": "dense"}, epochs=1)
    with pytest.raises(ModelError, match="has no nn.ReLU module"):
        graft_ticket(folder, tmp_path / "new", fraction=0.2, epochs=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 1.5}, "fraction: 1.5 must be .*allowed: >= 0, <= 1"),
        ({"fraction": 0.2, "epochs": 0}, "epochs: 0 must be"),
        ({"fraction": 0.2, "lr": -1.0}, "optimizer.lr: -1.0 must be"),
        ({"fraction": 0.2, "significance": "size"}, "significance: .*activation"),
        ({"fraction": 0.2, "start": 1.0}, "start: 1.0 must be .*< 1"),
        ({"fraction": 0.2, "unit": "neuron"}, "unit: unknown key"),
    ],
)
def test_settings_outside_their_limits_are_refused(
    ticket: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        graft_ticket(ticket, tmp_path / "new", **{"epochs": 1, **settings})
    assert not (tmp_path / "new").exists()


def test_a_place_that_holds_something_else_is_refused_before_training(
    ticket: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TicketError, match="is not a ticket"):
        graft_ticket(ticket, tmp_path, fraction=0.2, epochs=10_000)


def test_other_data_than_the_tickets_are_refused(ticket: Path, tmp_path: Path) -> None:
    old = load_ticket(ticket)
    other = replace(old, data_fingerprints={**old.data_fingerprints, "train": "0" * 64})
    folder = save_ticket(other, tmp_path / "other")
    with pytest.raises(TicketError, match="the train split of digits is not the one.*0000"):
        graft_ticket(folder, tmp_path / "new", fraction=0.2, epochs=1)
