"""A real training, its ticket, and the certificate that confirms what the training measured."""

from pathlib import Path

import pytest
import torch

from analysis.certificate import verify_ticket
from analysis.ticket import Ticket, load_ticket, save_ticket
from spaces.trial import TrialConfig
from trainers import build, train
from trainers.data import load_data

CONFIG = {
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.02, "radii": [0.01], "examples": 60, "methods": ["ibp", "crown"]},
    "epochs": 2,
    "model": {"family": "mlp", "widths": [16]},
    "topology": {"method": "rigl", "density": 0.3, "update_every": 5},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrialConfig.model_validate(CONFIG)
    training = train(config, load_data(config.data, "cpu"))
    metrics = training.final_metrics()
    folder = tmp_path_factory.mktemp("trained") / "ticket"
    return save_ticket(Ticket.from_training(training, metrics), folder)


@pytest.mark.slow
def test_the_ticket_of_a_training_says_how_its_figures_were_obtained(trained: Path) -> None:
    ticket = load_ticket(trained)
    assert ticket.provenance.model_dump() == {
        "split": "validation",
        "bound": "ibp+crown",
        "radius": 0.02,
        "num_examples": 60,
        "num_timeouts": 0,
    }
    assert {"verified_accuracy", "verified_accuracy_at_0.01", "density"} <= ticket.metrics.keys()
    assert sum(layer.kept for layer in ticket.layers.values()) == pytest.approx(
        0.3 * (64 * 16 + 16 * 10), abs=1
    )


@pytest.mark.slow
def test_certifying_the_folder_confirms_the_trainings_figures(trained: Path) -> None:
    ticket = load_ticket(trained)
    methods = ticket.config.evaluation.methods
    certificate = verify_ticket(trained, split="validation", examples=60, methods=methods)
    at_radius, further = certificate.results
    assert at_radius.natural_accuracy == ticket.metrics["natural_accuracy"]
    assert at_radius.verified_accuracy == ticket.metrics["verified_accuracy"]
    assert further.verified_accuracy == ticket.metrics["verified_accuracy_at_0.01"]


@pytest.mark.slow
def test_a_ticket_can_be_trained_again_from_its_initial_weights_and_masks(trained: Path) -> None:
    ticket = load_ticket(trained)
    data = load_data(ticket.config.data, "cpu")
    again = build(ticket.config, data, weights=ticket.initial_weights, masks=ticket.masks)
    assert all(torch.equal(again.masks[name], ticket.masks[name]) for name in ticket.masks)
    assert again.run_epoch()["epoch"] == 1.0
