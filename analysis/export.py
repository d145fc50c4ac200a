"""From a recorded trial to a ticket folder that can be shipped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException

from analysis.certificate_claims import CERTIFICATE
from analysis.errors import FrontError, TicketError
from analysis.exports.add import add_exports, check_routes
from analysis.exports.footprint import VECTOR_WIDTH
from analysis.files import check_ticket_place, ticket_folder
from analysis.front import Studies, check_rule, load_front, read_studies
from analysis.manifest import EXPORTS, MANIFEST, TENSORS
from analysis.recorded import Trial
from analysis.store import no_progress_bar, open_store
from analysis.ticket import load_ticket, save_ticket
from spaces.constraint import Constraint

ARTIFACT = "ticket"


def export_ticket(
    source: Studies | Trial,
    folder: str | Path,
    *,
    run: str | None = None,
    best: str | None = None,
    where: Sequence[str | Constraint] = (),
    tracking_uri: str | None = None,
    routes: Sequence[str] = ("onnx",),
    vector_width: int = VECTOR_WIDTH,
) -> Path:
    """Write the ticket of one trial to `folder`, with exports by `routes` (`exports.ROUTES`).

    The trial is `source` itself (a member of a front), or that of study `source` (name or YAML
    file, or several) with run id `run`, or the one that rule `best` picks among the trials that
    satisfy `where`. `source` may be the folder of a ticket too, to export that one. Every export is
    compared with the weights on validation examples and timed; the folder appears whole or not at
    all, and may replace an older ticket but nothing else.

    FrontError when there is no such trial or it has no ticket; TicketError when the ticket is
    damaged, the network cannot be exported, the folder cannot be written, or would lose exports or
    the certificate that it has.
    """
    check_routes(routes)
    check_ticket_place(Path(folder))
    chosen = chosen_ticket(source, run=run, best=best, where=where, tracking_uri=tracking_uri)
    if isinstance(chosen, Path) and chosen.resolve() == Path(folder).resolve():
        _check_nothing_is_lost(chosen, routes)
    with ticket_folder(Path(folder)) as new:
        if isinstance(chosen, Path):
            save_ticket(load_ticket(chosen), new)
        else:
            _download(chosen, new)
        ticket = load_ticket(new)
        if routes:
            add_exports(ticket, new, routes, vector_width=vector_width)
    return Path(folder)


def chosen_ticket(
    source: Studies | Trial,
    *,
    run: str | None = None,
    best: str | None = None,
    where: Sequence[str | Constraint] = (),
    tracking_uri: str | None = None,
) -> Path | Trial:
    """The folder or the trial that `export_ticket` means by the same arguments; FrontError."""
    given = _ticket_folder(source, run, best, where)
    return _choose(source, run, best, where, tracking_uri) if given is None else given


def _ticket_folder(
    source: Studies | Trial, run: str | None, best: str | None, where: Sequence[str | Constraint]
) -> Path | None:
    """`source` when it is the folder of a ticket."""
    if isinstance(source, Trial):
        return None
    places = [Path(place) for place in ([source] if isinstance(source, str | Path) else source)]
    tickets = [place for place in places if (place / MANIFEST).is_file()]
    if not tickets:
        return None
    if len(places) > 1 or run or best or where:
        raise FrontError(
            f"{tickets[0]} is a ticket, and not a study to choose from: export it alone, without "
            "run, best and where"
        )
    return tickets[0]


def _check_nothing_is_lost(folder: Path, routes: Sequence[str]) -> None:
    """Refuse to replace a ticket's folder by one with fewer exports, or without its certificate."""
    dropped = [
        name
        for route in load_ticket(folder).exports
        if route not in routes
        for name in EXPORTS[route]
    ]
    dropped += [CERTIFICATE] if (folder / CERTIFICATE).exists() else []
    if dropped:
        raise TicketError(
            f"{folder} would lose {', '.join(dropped)}: export to another folder, which can be "
            "verified then"
        )


def _choose(
    source: Studies | Trial,
    run: str | None,
    best: str | None,
    where: Sequence[str | Constraint],
    tracking_uri: str | None,
) -> Trial:
    if isinstance(source, Trial):
        if run or best or where:
            raise FrontError("a trial was given: run, best and where choose one from a study")
        return source
    if (run is None) == (best is None):
        raise FrontError(
            "which ticket? Give either a run id (--run) or a rule (--best verified, natural, "
            f"smallest or knee){_no_ticket(source)}"
        )
    if best is not None:
        check_rule(best)
        return load_front(source, tracking_uri=tracking_uri, where=where).best(best)
    if where:
        raise FrontError("where chooses among trials, but run names one: leave one of them out")
    assert run is not None
    return read_studies(source, tracking_uri=tracking_uri, study_run="all").trial(run)


def _no_ticket(source: Studies) -> str:
    """A hint, when a folder was given that is no ticket's."""
    place = Path(source) if isinstance(source, str | Path) else Path(*source[:1])
    if place.is_dir():
        return f". {place} is a folder, but not of a ticket: it has no {MANIFEST}"
    return "" if len(place.parts) == 1 or place.exists() else f". There is no folder {place}"


def _download(trial: Trial, folder: Path) -> None:
    client = open_store(trial.tracking_uri)
    try:
        present = {item.path for item in client.list_artifacts(trial.run_id, ARTIFACT)}
        if not present:
            raise FrontError(
                f"run {trial.run_id} (trial {trial.number}, {trial.state}) has no ticket: "
                + (
                    f"there is no folder {ARTIFACT} among its artifacts, so choose another trial"
                    if trial.state == "completed"
                    else "only completed trials have one; `goldenticket front` lists them"
                )
            )
        with tempfile.TemporaryDirectory() as scratch, no_progress_bar():
            for name in (MANIFEST, TENSORS):
                path = client.download_artifacts(trial.run_id, f"{ARTIFACT}/{name}", scratch)
                shutil.copyfile(path, folder / name)
    except (MlflowException, OSError) as error:
        raise FrontError(
            f"the ticket of run {trial.run_id} cannot be read from the artifacts of "
            f"{trial.tracking_uri}: {error}"
        ) from error
