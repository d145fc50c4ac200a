"""A ticket: a sparse network with all that is needed to use it, check it and train it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from analysis.errors import TicketError
from analysis.files import ticket_folder, write_whole
from analysis.manifest import (
    MANIFEST,
    TENSORS,
    ExportRecord,
    Footprint,
    LayerCount,
    Manifest,
    Provenance,
    read_manifest,
    write_manifest,
)
from analysis.packing import pack, unpack
from analysis.version import code_version
from spaces.trial import TrialConfig
from trainers.errors import ModelError
from trainers.loop import Training
from trainers.models import build_model

if TYPE_CHECKING:
    from analysis.retrain import OtherData


@dataclass(frozen=True)
class Ticket:
    """A trained sparse network and where it came from.

    `weights` and `initial_weights` are state_dicts, on the CPU, zero where a mask is False;
    `masks` maps names of weights to BoolTensors of their shape (a weight without one is dense).
    `provenance` says how the accuracies in `metrics` were obtained. `dense_twin` is the state_dict
    of the dense network that methods such as acdc leave beside the sparse one, else empty. `parent`
    is the digest of the ticket that this one was trained from, if any.
    """

    config: TrialConfig
    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    initial_weights: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    provenance: Provenance
    input_shape: tuple[int, ...]
    num_classes: int
    data_fingerprints: Mapping[str, str] = field(default_factory=dict)
    code_version: str = field(default_factory=code_version)
    exports: Mapping[str, ExportRecord] = field(default_factory=dict)
    footprint: Footprint | None = None
    digest: str = ""
    parent: str = ""
    dense_twin: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_training(cls, training: Training, metrics: Mapping[str, float]) -> Ticket:
        """The ticket of a finished training whose `final_metrics` are among `metrics`."""
        assert training.evaluation is not None, "call final_metrics() first"
        data = training.data
        return cls(
            config=training.config,
            weights=_on_cpu(training.model.state_dict()),
            masks=_on_cpu(training.masks),
            initial_weights=_on_cpu(training.initial_weights),
            metrics=dict(metrics),
            provenance=Provenance.model_validate(training.evaluation.provenance()),
            input_shape=tuple(data.input_shape),
            num_classes=data.num_classes,
            data_fingerprints=dict(data.fingerprints),
            dense_twin=_on_cpu(training.twin.weights) if training.twin else {},
        )

    @property
    def seed(self) -> int:
        """The seed that fixed initial weights, masks and batch order."""
        return self.config.seed

    @property
    def layers(self) -> dict[str, LayerCount]:
        """Kept and non-zero weights of each masked layer, counted from the tensors."""
        return {
            name: LayerCount(
                shape=tuple(mask.shape),
                kept=int(mask.sum()),
                nonzero=int(torch.count_nonzero(self.weights[name])),
            )
            for name, mask in self.masks.items()
        }

    def model(self, *, dense_twin: bool = False) -> nn.Module:
        """The network, or its dense twin, with final weights, in eval mode, on the CPU.

        TicketError when there is no twin, when the configuration names a function that cannot be
        imported, or when the weights do not fit. A `python` model's function is imported and
        called: do this only with tickets that you trust.
        """
        if dense_twin and not self.dense_twin:
            raise TicketError(
                f"this ticket has no dense twin: its method is {self.config.topology.method}, and "
                "those that leave one are acdc and deadwooding"
            )
        # Mean and standard deviation are buffers: the weights bring the real ones.
        channels = self.input_shape[0]
        mean, std = torch.zeros(channels), torch.ones(channels)
        try:
            model = build_model(
                self.config.model,
                self.input_shape,
                self.num_classes,
                mean,
                std,
                grafting=self.config.grafting,
            )
            model.load_state_dict(dict(self.dense_twin if dense_twin else self.weights))
        except (ModelError, RuntimeError) as error:
            path = getattr(self.config.model, "python", None)
            hint = f"; {path} must be importable here, as it was in training" if path else ""
            raise TicketError(
                f"the ticket's {self.config.model.family} network cannot be built from its "
                f"weights ({error}){hint}"
            ) from error
        return model.eval()

    def retrain(
        self,
        data: OtherData | None = None,
        *,
        start: Literal["initial", "final"] = "initial",
        lr: float | None = None,
        **settings: Any,
    ) -> Ticket:
        """Train this ticket again under its masks, which stay; returns a new ticket.

        From the initial weights ("rewound": the weights at the first step of the training that
        made this ticket, zero where its masks were then; a weight that grew later starts at zero
        again) or from the final ones. On the ticket's own data, or on other data: their settings
        as under `data` of a study, such as {"name": "digits"}, or what `load_data` returned for
        such settings. Other data are normalised by their own mean and deviation; if they have
        another number of classes, the last layer is new, with the same share of weights
        (`trainers.transfer`). Settings are those of the ticket, unless given by name, as in
        `epochs=5, seed=1, loss={"kappa": 0.2}`; a mapping changes only what it names.

        Figures of the new ticket are of the validation split; the test split is not touched. Its
        `training_flops` are those of both trainings. On its own data, a ticket whose masks did not
        change in training becomes what it was.

        TicketError when the ticket has no initial weights, its own data have changed, other data
        have another input shape, or are its own, split in another way; ConfigError for a setting
        outside its limits; ModelError when not only the last layer depends on the classes.
        """
        # Trainings are the business of a module that needs this one.
        from analysis.retrain import retrain  # noqa: PLC0415

        return retrain(self, data, start=start, lr=lr, **settings)


def save_ticket(ticket: Ticket, folder: str | Path) -> Path:
    """Write ticket.json and ticket.safetensors; the folder appears whole or not at all.

    The same ticket gives the same bytes. TicketError when the folder cannot be written or holds
    something else, a figure is not finite, or a weight is not zero outside its mask.
    """
    folder = Path(folder)
    manifest = _manifest(ticket)
    tensors = pack(ticket.weights, ticket.masks, ticket.initial_weights, ticket.dense_twin)
    content = safetensors.torch.save(tensors)
    with ticket_folder(folder) as new:
        write_whole(new / TENSORS, content)
        write_manifest(new, manifest)
    return folder


def load_ticket(folder: str | Path) -> Ticket:
    """Read a ticket and check hashes and per-layer counts; nothing is unpickled or run.

    TicketError names the file that is missing or altered, with the expected and the found value.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    path = folder / TENSORS
    try:
        tensors = safetensors.torch.load(path.read_bytes())
        weights, masks, initial, dense_twin = unpack(tensors, manifest.layers)
    except (SafetensorError, KeyError, ValueError) as error:
        raise TicketError(f"{path} does not hold what {MANIFEST} lists: {error}") from error
    ticket = Ticket(
        config=manifest.config,
        weights=weights,
        masks=masks,
        initial_weights=initial,
        metrics=manifest.metrics,
        provenance=manifest.provenance,
        input_shape=manifest.input_shape,
        num_classes=manifest.num_classes,
        data_fingerprints=manifest.data_fingerprints,
        code_version=manifest.code_version,
        exports=manifest.exports,
        footprint=manifest.footprint,
        digest=manifest.digest,
        parent=manifest.parent,
        dense_twin=dense_twin,
    )
    _check_counts(ticket, manifest, folder)
    return ticket


def _manifest(ticket: Ticket) -> Manifest:
    try:
        return Manifest(
            config=ticket.config,
            seed=ticket.seed,
            metrics=dict(ticket.metrics),
            provenance=ticket.provenance,
            input_shape=ticket.input_shape,
            num_classes=ticket.num_classes,
            layers=ticket.layers,
            data_fingerprints=dict(ticket.data_fingerprints),
            code_version=ticket.code_version,
            parent=ticket.parent,
            files={},
        )
    except ValidationError as error:
        raise TicketError(
            f"the ticket cannot be described, so it was not written: {error}"
        ) from error


def _check_counts(ticket: Ticket, manifest: Manifest, folder: Path) -> None:
    for name, found in ticket.layers.items():
        recorded = manifest.layers[name]
        if found != recorded:
            raise TicketError(
                f"{folder / TENSORS}: {name} keeps {found.kept} weights, {found.nonzero} of them "
                f"not zero, but {MANIFEST} says {recorded.kept} and {recorded.nonzero}. Export the "
                "ticket again"
            )


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
