"""From a ticket to one of whose ReLUs some are learned lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.again import complete_masks, fixed_topology, own_data, write_ticket
from analysis.errors import TicketError
from analysis.files import check_ticket_place
from analysis.manifest import Provenance
from analysis.ticket import Ticket, load_ticket
from spaces.grafting import GraftingConfig
from spaces.trial import TrialConfig
from spaces.walk import read_config
from trainers.bounds import IntervalPass
from trainers.data import Data, Split
from trainers.evaluate import Evaluation, evaluate, first_examples
from trainers.grafting import mean_unstable_relus
from trainers.loop import train

_LR_SHARE = 0.2
_NO_RAMP = {"warmup": 0.0, "ramp_end": 1e-9}  # it has ended before the first step


@dataclass(frozen=True)
class GraftReport:
    """A ticket before and after grafting, measured in the same way on the same examples.

    Both hold natural_accuracy, verified_accuracy, num_grafted_units and unstable_relus: how many
    of an example's ReLUs interval bounds leave open at the radius, the mean. `provenance` says how
    they were obtained; `folder` holds the new ticket.
    """

    folder: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    provenance: Provenance

    def to_json(self) -> str:
        """One JSON document."""
        provenance = self.provenance.model_dump()
        tree = {**asdict(self), "folder": str(self.folder), "provenance": provenance}
        return json.dumps(tree, indent=2)


def graft_ticket(
    folder: str | Path,
    to: str | Path,
    *,
    fraction: float,
    epochs: int,
    lr: float | None = None,
    onnx: bool = True,
    **settings: Any,
) -> GraftReport:
    """Replace a `fraction` of a ticket's ReLUs by learned lines and train on (Chen et al. 2022).

    Reads the ticket in `folder` and writes a new one to `to`, with model.onnx unless `onnx` is
    False. Units are chosen as GraftingConfig says, whose other settings may be given by name. Then
    the network is trained for `epochs` on the ticket's training split, by its own loss at the full
    radius from the first step, masks fixed, with a learning rate that falls from `lr` (a fifth of
    the ticket's when None) to 0 like a cosine. With fraction 0 it is only trained on. Figures are
    of the validation split; the test split is not touched.

    ConfigError for a setting outside its limits; TicketError when the ticket is damaged, its data
    have changed, it has lines that would have to go, or `to` cannot be written; ModelError when
    the network has no ReLU that can be grafted.
    """
    ticket, to = load_ticket(folder), Path(to)
    check_ticket_place(to)
    grafting = read_config(GraftingConfig, {"start": 0.0, **settings, "fraction": fraction})
    _check_lines(ticket, grafting, Path(folder))
    masks = complete_masks(ticket)
    config = _fine_tuning(ticket, masks, grafting, epochs, lr)
    data = own_data(ticket)
    before = _measured(ticket, data)
    training = train(config, data, weights=ticket.weights, masks=masks)
    metrics = training.final_metrics()
    assert training.evaluation is not None
    after = _figures(training.loss.interval, training.evaluation, config, data)
    metrics["training_flops"] += ticket.metrics.get("training_flops", 0.0)
    new = replace(Ticket.from_training(training, metrics), parent=ticket.digest)
    write_ticket(new, to, onnx=onnx)
    return GraftReport(to, before, after, new.provenance)


def _check_lines(ticket: Ticket, grafting: GraftingConfig, folder: Path) -> None:
    """A ticket that is grafted already may get more lines of the same kind, and lose none."""
    own = ticket.config.grafting
    if own.fraction > grafting.fraction:
        raise TicketError(
            f"{folder} has a fraction of {own.fraction:g} of its ReLUs grafted already, more than "
            f"{grafting.fraction:g}: give a larger fraction, or the ticket from before"
        )
    if own.fraction > 0.0 and own.granularity != grafting.granularity:
        raise TicketError(
            f"{folder} has lines by {own.granularity}, which cannot be turned into lines by "
            f"{grafting.granularity}: use granularity {own.granularity}"
        )


def _fine_tuning(
    ticket: Ticket,
    masks: Mapping[str, Tensor],
    grafting: GraftingConfig,
    epochs: int,
    lr: float | None,
) -> TrialConfig:
    """The ticket's own training, without a ramp and with fixed masks."""
    own = ticket.config
    rate = own.optimizer.lr * _LR_SHARE if lr is None else lr
    tree = own.model_dump(mode="json")
    changes = {
        "epochs": epochs,
        "topology": fixed_topology(masks),
        "epsilon": {**tree["epsilon"], **_NO_RAMP},
        "optimizer": {**tree["optimizer"], "lr": rate, "lr_schedule": "cosine"},
        "grafting": grafting.model_dump(mode="json"),
    }
    return read_config(TrialConfig, {**tree, **changes})


def _measured(ticket: Ticket, data: Data) -> dict[str, float]:
    """The figures of the ticket as it is."""
    config, model = ticket.config, ticket.model().to(data.train.x.device)
    evaluation = evaluate(
        model, data.validation, config.evaluation, split_name="validation", seed=config.seed
    )
    return _figures(IntervalPass(model), evaluation, config, data)


def _figures(
    interval: IntervalPass, evaluation: Evaluation, config: TrialConfig, data: Data
) -> dict[str, float]:
    examples = Split(*first_examples(data.validation, config.evaluation.examples))
    names = ("natural_accuracy", "verified_accuracy", "num_grafted_units")
    return {
        **{name: evaluation.metrics[name] for name in names},
        "unstable_relus": mean_unstable_relus(interval, examples, config.evaluation.radius),
    }
