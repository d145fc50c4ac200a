"""The `goldenticket` command: all verbs, `search` itself, and how errors end it.

Results go to standard output, progress and messages to standard error. Exit status: 0 done, 1 the
job failed, 2 the input is wrong. Heavy libraries are imported by the verb that needs them, so that
`--help` and a mistyped file answer at once.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from search.cli_cluster import cluster_app, search_as_job
from search.cli_control import pause, stop
from search.cli_front import RULES, TrackingUri, export, front, print_front
from search.cli_report import report
from search.cli_retrain import retrain
from search.cli_space import StudyFile, space_app
from search.cli_ticket import graft, verify
from search.display import certificate_table, stdout
from spaces import ConfigError, StudyConfig
from spaces.running import TrackingConfig

app = typer.Typer(
    name="goldenticket",
    help="Find the smallest network that is accurate and provably robust, and ship it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(space_app, name="space")
app.add_typer(cluster_app, name="cluster")
_LEAST_S = 600.0
"""Seconds that a search may take to certify its best ticket, or more if its trials took long."""


class JobFailed(RuntimeError):
    """The input was right but the work did not succeed: exit status 1."""


@app.command()
def search(
    study_file: StudyFile,
    executor: Annotated[
        Literal["ray", "local"], typer.Option(help="Ray Tune, or one process without Ray.")
    ] = "ray",
    address: Annotated[
        str | None,
        typer.Option(
            help="A running Ray cluster (HOST:6379, or auto), or where to submit the search as a "
            "job (http://HOST:8265). [default: start Ray here]"
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials, instead of the study's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest search of this study.")
    ] = False,
    resume_or_start: Annotated[
        bool,
        typer.Option(
            "--resume-or-start",
            help="Go on with the newest search, or start one: safe to run again and again.",
        ),
    ] = False,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STUDY",
            help="An earlier study from whose trials the sampler learns; may be repeated.",
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    output: Annotated[Path, typer.Option(help="The best ticket goes to OUTPUT/<study>.")] = Path(
        "tickets"
    ),
    best: Annotated[str, typer.Option(help=f"Which ticket to export: {RULES}.")] = "verified",
    no_certify_front: Annotated[
        bool,
        typer.Option("--no-certify-front", help="No exact verdicts on the members of the front."),
    ] = False,
) -> None:
    """Search, print the front, export the best ticket and verify it."""
    if address is not None and executor != "ray":
        raise ConfigError(f"--address {address} is for the executor ray: leave one of them out")
    study = _overridden(
        StudyConfig.from_yaml(study_file), trials, tracking_uri, warm_start, no_certify_front
    )
    from analysis.files import check_ticket_place  # noqa: PLC0415
    from analysis.front import check_rule  # noqa: PLC0415
    from search.certify import certification_budget  # noqa: PLC0415
    from search.progress import Progress  # noqa: PLC0415
    from search.run import run_study  # noqa: PLC0415

    check_rule(best)
    if address is not None and address.startswith(("http://", "https://")):
        raise typer.Exit(search_as_job(study, address, best, output, resume, resume_or_start))
    check_ticket_place(output / study.name)
    try:
        result = run_study(
            study,
            executor,
            address=address,
            resume="auto" if resume_or_start else resume,
            observers=(Progress(Console(stderr=True)),),
        )
    except KeyboardInterrupt:
        print(f"interrupted; go on with: {_resuming()}", file=sys.stderr)
        raise typer.Exit(130) from None
    if not result.is_finished:
        print(f"paused; go on with: {_resuming()}", file=sys.stderr)
        return
    if not result.count("completed"):
        raise JobFailed(
            f"none of the {len(result.records)} trials of study {study.name!r} completed, so there "
            "is no ticket; the reasons are above and, with tracebacks, in MLflow"
        )
    _export_best(study, best, output, max(_LEAST_S, certification_budget(result.records)))


for verb in (pause, stop, front, export, report, verify, graft, retrain):
    app.command()(verb)


def main() -> None:
    """Run the command line; the console script's entry point."""
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"
    try:
        # A study may name functions of the user's own, in the folder where it is run. It comes
        # last, so that a file analysis.py there does not hide a package that is imported later.
        sys.path.append(os.getcwd())
        app()
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Tell a person what went wrong, and return the exit status."""
    if os.environ.get("GOLDENTICKET_TRACEBACK"):
        traceback.print_exception(error)
    # Every error of ours that names a mistake in the input is a ValueError with our message.
    ours = type(error).__module__.split(".")[0] in ("spaces", "trainers", "analysis", "search")
    if ours or isinstance(error, JobFailed):
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(
        f"error: {type(error).__name__}: {error}\n"
        "This was not foreseen. Set GOLDENTICKET_TRACEBACK=1 and run it again to see where it "
        "happened; what is recorded already is kept.",
        file=sys.stderr,
    )
    return 1


def _overridden(
    study: StudyConfig,
    trials: int | None,
    tracking_uri: str | None,
    warm_start: list[str] | None,
    no_certify_front: bool,
) -> StudyConfig:
    tree = study.model_dump(mode="json")
    if trials is not None:
        tree["budget"]["trials"] = trials
    if tracking_uri is not None:
        tree["tracking"]["uri"] = tracking_uri
    if warm_start:
        tree["warm_start"]["studies"] = warm_start
    if no_certify_front:
        tree["evaluation"]["certify_front"] = False
    return StudyConfig.from_dict(tree)


def _export_best(study: StudyConfig, rule: str, output: Path, budget_s: float) -> None:
    """Print the front of a finished search, export its best ticket and verify it in time."""
    from analysis import FrontError, export_ticket, load_front, verify_ticket  # noqa: PLC0415

    uri, objectives = study.tracking.uri, study.objectives
    try:
        found = load_front(
            study.name, tracking_uri=uri, objectives=objectives, where=study.constraints
        )
    except FrontError as error:
        print("No trial satisfies the study's constraints; without them:")
        print_front(load_front(study.name, tracking_uri=uri, objectives=objectives), "table")
        raise JobFailed(f"no ticket is exported: {error}") from error
    print_front(found, "table")
    trial = found.best(rule)
    folder = export_ticket(trial, output / study.name)
    print(f"\nBest by rule '{rule}': trial {trial.number}, exported to {folder}\n")
    stdout().print(certificate_table(verify_ticket(folder, budget_s=budget_s)))
    print(f"\n{_next_steps(study, folder)}")


def _next_steps(study: StudyConfig, folder: Path) -> str:
    uri, ticket = shlex.quote(study.tracking.uri), shlex.quote(str(folder))
    shipped = shlex.quote(f"{folder}-shipped")
    store = "" if study.tracking == TrackingConfig() else f" --tracking-uri {uri}"
    uv = _as_typed()
    return (
        "Next:\n"
        f"  {uv}goldenticket report {study.name}{store} --ticket {ticket} --to report.html\n"
        f"  {uv}goldenticket export {ticket} --compact --int8 --c --to {shipped}\n"
        f"  {uv}goldenticket verify {ticket} --radius {study.evaluation.radius:g}\n"
        f"  {uv}mlflow ui --backend-store-uri {uri}"
    )


def _resuming() -> str:
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--resume-or-start")]
    return f"{_as_typed()}goldenticket {shlex.join(words)} --resume"


def _as_typed() -> str:
    """What stands before a command that this person can paste: `uv run` says that it was used."""
    return "uv run " if "UV" in os.environ else ""


if __name__ == "__main__":
    main()
