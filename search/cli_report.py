"""`goldenticket report`: a study as one HTML page that can be read anywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli_front import Best, StudyNames, TrackingUri, Where, named
from spaces import ConfigError

if TYPE_CHECKING:
    from analysis import Front
    from analysis.recorded import Trial


def report(
    studies: StudyNames,
    to: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")],
    run: Annotated[
        str | None,
        typer.Option(help="Run id, or its beginning, of the trial that the last page is about."),
    ] = None,
    best: Best = None,
    ticket: Annotated[
        Path | None,
        typer.Option(help="An exported ticket for the last page, with its certificate."),
    ] = None,
    where: Where = None,
    objectives: Annotated[
        str | None, typer.Option(help="Metrics separated by commas, instead of the first study's.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for all figures as PNG, for papers.")
    ] = None,
    no_log: Annotated[
        bool, typer.Option("--no-log", help="Keep nothing with the study's run in MLflow.")
    ] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write one HTML page: front, settings, learning curves, cost, and one ticket in full."""
    given = {"--run": run, "--best": best, "--ticket": ticket}
    chosen = [option for option, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} each name a ticket: leave all but one out")
    from analysis import load_front, write_report  # noqa: PLC0415
    from analysis.front import check_rule  # noqa: PLC0415
    from analysis.report.write import check_place  # noqa: PLC0415

    check_place(to)
    if best is not None:
        check_rule(best)
    names = named("--objectives", objectives)
    found = load_front(studies, tracking_uri=tracking_uri, where=where or (), objectives=names)
    path = write_report(
        found,
        to,
        trial=_chosen(found, run, best),
        ticket=ticket,
        figures=figures,
        log=not no_log,
    )
    if not no_log:
        first = found.studies[0]
        kept = f"run {first.run_ids[0]} in {first.tracking_uri}"
        print(f"kept too with {kept}, under report/", file=sys.stderr)
    print(path)


def _chosen(found: Front, run: str | None, best: str | None) -> Trial | None:
    if run is not None:
        return found.study.trial(run)
    return None if best is None else found.best(best)
