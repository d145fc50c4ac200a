"""What all ways of training a ticket again have in common: its masks stay, its data are its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.errors import TicketError
from analysis.exports import add_exports
from analysis.files import ticket_folder
from analysis.ticket import Ticket, save_ticket
from trainers.data import Data, load_data
from trainers.device import resolve_device
from trainers.models import prunable_weights
from trainers.topology.masks import full_masks


def complete_masks(ticket: Ticket) -> dict[str, Tensor]:
    """A mask for every weight that can have one."""
    return {**full_masks(prunable_weights(ticket.model())), **ticket.masks}


def fixed_topology(masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """The topology settings of a training that starts with these masks and keeps them."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    if kept == total:
        return {"method": "dense"}
    return {"method": "static", "density": kept / total, "distribution": "uniform"}


def own_data(ticket: Ticket) -> Data:
    """The ticket's data, with the test split only read in; TicketError when they have changed."""
    data = load_data(ticket.config.data, resolve_device(ticket.config.compute.device))
    for name in ("train", "validation"):
        found, recorded = getattr(data, name).fingerprint, ticket.data_fingerprints.get(name)
        if recorded not in (None, found):
            raise TicketError(
                f"the {name} split of {ticket.config.data.name} is not the one that the ticket was "
                f"trained with: its fingerprint is {found}, but the ticket says {recorded}. Give "
                "the same data back"
            )
    return data


def write_ticket(ticket: Ticket, to: Path, *, onnx: bool) -> None:
    """Save a new ticket to a folder, with model.onnx if asked for, whole or not at all."""
    with ticket_folder(to) as workshop:
        save_ticket(ticket, workshop)
        if onnx:
            add_exports(ticket, workshop, ("onnx",))
