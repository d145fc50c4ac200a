"""From a ticket to one that was trained again: from its initial weights, or on other data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from analysis.again import complete_masks, fixed_topology, own_data, write_ticket
from analysis.errors import TicketError
from analysis.files import check_ticket_place
from analysis.ticket import Ticket, load_ticket
from spaces.base import Config
from spaces.data import DataConfig
from spaces.trial import TrialConfig
from spaces.walk import read_config
from trainers.data import Data, load_data
from trainers.device import resolve_device
from trainers.loop import train
from trainers.transfer import transferred

Start = Literal["initial", "final"]
OtherData = DataConfig | Mapping[str, Any] | Data

_KEPT = ("model", "topology", "grafting")
_SPLITTING = ("split_seed", "validation_fraction", "test_fraction")


@dataclass(frozen=True)
class RetrainReport:
    """A ticket and the one that was trained from it, each with its own figures.

    `before` and `after` hold the data's name, how the accuracies were obtained (split, bound,
    radius, num_examples) and the metrics of the two manifests; `folder` holds the new ticket.
    """

    folder: Path
    start: Start
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def to_json(self) -> str:
        """One JSON document."""
        tree = {"folder": str(self.folder), "start": self.start}
        return json.dumps({**tree, "before": self.before, "after": self.after}, indent=2)


def retrain_ticket(
    folder: str | Path,
    to: str | Path,
    *,
    data: OtherData | None = None,
    start: Start = "initial",
    onnx: bool = True,
    **settings: Any,
) -> RetrainReport:
    """Train the ticket in `folder` again as `Ticket.retrain` does, and write the new one to `to`.

    With model.onnx unless `onnx` is False. TicketError when `to` cannot be written; nothing is
    trained then, and a folder appears whole or not at all.
    """
    to = Path(to)
    check_ticket_place(to)
    ticket = load_ticket(folder)
    new = retrain(ticket, data, start=start, **settings)
    write_ticket(new, to, onnx=onnx)
    return RetrainReport(to, start, _figures(ticket), _figures(new))


def retrain(
    ticket: Ticket,
    data: OtherData | None = None,
    *,
    start: Start = "initial",
    lr: float | None = None,
    **settings: Any,
) -> Ticket:
    """See `Ticket.retrain`, which this is."""
    config = _again(ticket, data, lr, settings)
    weights = _starting_weights(ticket, start)
    masks: Mapping[str, Tensor] = complete_masks(ticket)
    if config.data == ticket.config.data:
        used = own_data(ticket)
    else:
        used = load_data(config.data, resolve_device(config.compute.device))
        _check_shape(ticket, used)
        weights, masks = transferred(config, used, weights, masks)
    config = read_config(
        TrialConfig, {**config.model_dump(mode="json"), "topology": fixed_topology(masks)}
    )
    training = train(config, used, weights=weights, masks=masks)
    metrics = training.final_metrics()
    metrics["training_flops"] += ticket.metrics.get("training_flops", 0.0)
    return replace(Ticket.from_training(training, metrics), parent=ticket.digest)


def _again(
    ticket: Ticket, data: OtherData | None, lr: float | None, settings: Mapping[str, Any]
) -> TrialConfig:
    """The ticket's own settings with those that were given; its topology is yet to be fixed."""
    for name in _KEPT:
        if name in settings:
            raise TicketError(
                f"{name} cannot be changed: training again keeps the network and the masks of a "
                "ticket; search with other settings for another one"
            )
    tree = ticket.config.model_dump(mode="json")
    for name, value in settings.items():
        tree[name] = _merged(name, tree.get(name), value)
    if lr is not None:
        tree["optimizer"] = {**tree["optimizer"], "lr": lr}
    if data is not None:
        tree["data"] = _data_settings(data)
    config = read_config(TrialConfig, {**tree, "topology": {"method": "dense"}})
    _check_splits(ticket.config.data, config.data)
    return config


def _merged(name: str, own: Any, given: Any) -> Any:
    """A given mapping over the ticket's own, unless it chooses another variant of a union."""
    given = given.model_dump(mode="json") if isinstance(given, Config) else given
    if not (isinstance(own, Mapping) and isinstance(given, Mapping)):
        return given
    tag = TrialConfig.model_fields[name].discriminator
    if isinstance(tag, str) and given.get(tag, own[tag]) != own[tag]:
        return given
    return {**own, **given}


def _data_settings(data: OtherData) -> Any:
    """The settings that load these data again, which a ticket must have."""
    if isinstance(data, Data):
        if data.config is None or load_data(data.config, "cpu").fingerprints != data.fingerprints:
            raise TicketError(
                f"the given data ({data.name}) are not what any settings load, but a ticket says "
                "where its data come from, so that anyone can verify it: save them "
                "(numpy.savez('mine.npz', x=x, y=y)) and give {'name': 'npz', 'path': 'mine.npz'}"
            )
        data = data.config
    return data.model_dump(mode="json") if isinstance(data, Config) else data


def _check_splits(own: DataConfig, other: DataConfig) -> None:
    """Examples that the ticket was trained on must not come to be among those that judge it."""
    before, after = own.model_dump(), other.model_dump()
    names = [name for name in _SPLITTING if before[name] != after[name]]
    source = {*before} - {*_SPLITTING, "augment"}
    if names and {*after} >= source and all(before[name] == after[name] for name in source):
        name = names[0]
        raise TicketError(
            f"data.{name} is {after[name]}, but the ticket's is {before[name]}: {own.name} would "
            "be split in another way, and the ticket be judged on examples that it was trained "
            f"on. Leave {name} as it is, or give other data"
        )


def _starting_weights(ticket: Ticket, start: Start) -> dict[str, Tensor]:
    if start not in ("initial", "final"):
        raise TicketError(f"start is {start!r}: it must be initial or final")
    if start == "initial" and not ticket.initial_weights:
        raise TicketError(
            "this ticket holds no initial weights: start from its final ones (start='final')"
        )
    return dict(ticket.initial_weights if start == "initial" else ticket.weights)


def _check_shape(ticket: Ticket, data: Data) -> None:
    if tuple(data.input_shape) != ticket.input_shape:
        raise TicketError(
            f"an example of {data.name} has shape {tuple(data.input_shape)}, but the ticket's "
            f"network takes {ticket.input_shape}: its masks are of that size. Give data of that "
            "shape (image_folder resizes to `size`), or search for a ticket on these data"
        )


def _figures(ticket: Ticket) -> dict[str, Any]:
    how = ticket.provenance.model_dump()
    return {"data": ticket.config.data.name, **how, "metrics": dict(ticket.metrics)}
