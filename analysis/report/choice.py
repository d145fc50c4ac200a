"""The ticket that a report is about in the end, with its certificate when it has one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.certificate_claims import CERTIFICATE, read_certificate
from analysis.certificate_model import Certificate
from analysis.errors import TicketError
from analysis.export import export_ticket
from analysis.manifest import MANIFEST, Manifest, read_manifest
from analysis.recorded import StudyRecord, Trial
from analysis.ticket import Ticket, load_ticket
from spaces.trial import flatten

_FIGURES = (
    "natural_accuracy",
    "verified_accuracy",
    "density",
    "num_active_parameters",
    "inference_flops",
    "training_flops",
)
_LONGEST = 497  # characters of a parameter that are recorded whatever its length


@dataclass(frozen=True)
class Choice:
    """A ticket that was loaded and checked, and which trial of the study it is (None: of none).

    `folder` is the one that the reader named; None for a ticket read from the store, which has no
    certificate. `rule` says for people why it was chosen.
    """

    ticket: Ticket
    manifest: Manifest
    certificate: Certificate | None
    trial: Trial | None
    folder: Path | None
    rule: str

    @property
    def exports(self) -> dict[str, dict[str, Any]]:
        """The manifest's record of each route by which the ticket was exported."""
        return dict(self.manifest.model_dump(mode="json")["exports"])

    @property
    def footprint(self) -> dict[str, Any] | None:
        """What the manifest says that the compacted network needs."""
        footprint = self.manifest.footprint
        return None if footprint is None else footprint.model_dump(mode="json")


def from_folder(folder: str | Path, record: StudyRecord) -> Choice:
    """The ticket in a folder; TicketError when it, or its certificate, is not what it claims."""
    folder = Path(folder)
    ticket = load_ticket(folder)
    certificate = _certificate(folder, ticket)
    trial = trial_of(ticket, record)
    return Choice(ticket, read_manifest(folder), certificate, trial, folder, "its folder was given")


def from_trial(trial: Trial, rule: str) -> Choice:
    """The ticket that a trial has left in the tracking store; FrontError when it has none."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_ticket(trial, Path(scratch) / "ticket", routes=())
        return Choice(load_ticket(folder), read_manifest(folder), None, trial, None, rule)


def trial_of(ticket: Ticket, record: StudyRecord) -> Trial | None:
    """The completed trial with this ticket's configuration and figures; None without one.

    What only one of the two knows was not there yet when the other was written.
    """
    wanted = {name: str(value) for name, value in flatten(ticket.config).items()}
    for trial in record.trials:
        common = trial.params.keys() & wanted.keys()
        same = all(trial.params[name][:_LONGEST] == wanted[name][:_LONGEST] for name in common)
        both = [name for name in _FIGURES if name in trial.metrics and name in ticket.metrics]
        alike = all(trial.metrics[name] == ticket.metrics[name] for name in both)
        if trial.state == "completed" and same and alike and both:
            return trial
    return None


def _certificate(folder: Path, ticket: Ticket) -> Certificate | None:
    path = folder / CERTIFICATE
    certificate = read_certificate(folder)
    if certificate is not None and certificate.ticket_digest != ticket.digest:
        raise TicketError(
            f"{path} is about another ticket: it names digest {certificate.ticket_digest}, but "
            f"{MANIFEST} has {ticket.digest}. Write a new one by `goldenticket verify {folder}`"
        )
    return certificate
