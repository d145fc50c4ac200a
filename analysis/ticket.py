"""A ticket: a sparse network with all that is needed to use it, check it and train it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
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
from analysis.version import code_version
from spaces.trial import TrialConfig
from trainers.errors import ModelError
from trainers.loop import Training
from trainers.models import build_model


@dataclass(frozen=True)
class Ticket:
    """A trained sparse network and where it came from.

    `weights` and `initial_weights` are state_dicts, on the CPU, zero where a mask is False;
    `masks` maps names of weights to BoolTensors of their shape (a weight without one is dense).
    `provenance` says how the accuracies in `metrics` were obtained. `dense_twin` is the state_dict
    of the dense network that methods such as acdc leave beside the sparse one, else empty.
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


def save_ticket(ticket: Ticket, folder: str | Path) -> Path:
    """Write ticket.json and ticket.safetensors; the folder appears whole or not at all.

    The same ticket gives the same bytes. TicketError when the folder cannot be written or holds
    something else, a figure is not finite, or a weight is not zero outside its mask.
    """
    folder = Path(folder)
    manifest = _manifest(ticket)
    content = safetensors.torch.save(_pack(ticket))
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
        weights, masks, initial, dense_twin = _unpack(tensors, manifest.layers)
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


def _pack(ticket: Ticket) -> dict[str, Tensor]:
    """Masked weights as the values that are kept, in order; masks as eight to the byte."""
    packed: dict[str, Tensor] = {}
    for name, weight in ticket.weights.items():
        mask = ticket.masks.get(name)
        if mask is None:
            packed[f"weights/{name}"] = weight.contiguous()
            continue
        if torch.count_nonzero(weight[~mask]):
            raise TicketError(
                f"{name} has {int(torch.count_nonzero(weight[~mask]))} weights that are not zero "
                "where its mask is: set them to zero before saving the ticket"
            )
        packed[f"weights/{name}"] = weight[mask]
        packed[f"masks/{name}"] = torch.from_numpy(np.packbits(mask.numpy()))
    for group in ("initial_weights", "dense_twin"):
        for name, weight in getattr(ticket, group).items():
            packed[f"{group}/{name}"] = weight.contiguous()
    # A copy of each: safetensors refuses tensors that share memory.
    return {name: packed[name].clone() for name in sorted(packed)}


def _unpack(
    tensors: Mapping[str, Tensor], layers: Mapping[str, LayerCount]
) -> tuple[dict[str, Tensor], ...]:
    """Weights, masks, initial weights, and the dense twin's weights."""
    groups: dict[str, dict[str, Tensor]] = {
        name: {} for name in ("weights", "masks", "initial_weights", "dense_twin")
    }
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        if group not in groups:
            raise ValueError(f"tensor {key} is unknown")
        groups[group][name] = tensor
    weights, initial = groups["weights"], groups["initial_weights"]
    if set(groups["masks"]) != set(layers):
        raise ValueError(f"masks are of {sorted(groups['masks'])}, layers are {sorted(layers)}")
    masks = {name: _unpack_mask(name, groups["masks"][name], layers[name]) for name in layers}
    for name, mask in masks.items():
        values = weights[name]
        if values.ndim != 1 or len(values) != int(mask.sum()):
            raise ValueError(f"{name} has {values.numel()} values for {int(mask.sum())} places")
        dense = torch.zeros(mask.shape, dtype=values.dtype)
        dense[mask] = values
        weights[name] = dense
    return weights, masks, initial, groups["dense_twin"]


def _unpack_mask(name: str, packed: Tensor, layer: LayerCount) -> Tensor:
    size = math.prod(layer.shape)
    if packed.dtype != torch.uint8 or packed.shape != (-(-size // 8),):
        raise ValueError(
            f"the mask of {name} has {packed.numel()} bytes, but shape {layer.shape} needs "
            f"{-(-size // 8)}"
        )
    bits = np.unpackbits(packed.numpy(), count=size).astype(bool)
    return torch.from_numpy(bits).reshape(layer.shape)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
