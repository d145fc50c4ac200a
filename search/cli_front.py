"""`goldenticket front` and `export`: which trials a study has found, and one of them to keep."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from search.display import front_table, stdout
from spaces import ConfigError

if TYPE_CHECKING:
    from analysis import Front

RULES = "verified, natural, smallest or knee"

StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's name in the tracking store, or its file.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow address. [default: the study file's, else sqlite:///mlflow.db]"),
]
Where = Annotated[
    list[str] | None,
    typer.Option(help='A constraint such as "verified_accuracy >= 0.8"; may be repeated.'),
]
Best = Annotated[str | None, typer.Option(help=f"Choose one trial by a rule: {RULES}.")]


def front(
    study: StudyName,
    where: Where = None,
    objectives: Annotated[
        str | None, typer.Option(help="Metrics separated by commas, instead of the study's.")
    ] = None,
    best: Best = None,
    format: Annotated[
        Literal["table", "json", "csv"], typer.Option(help="How to print it.")
    ] = "table",
    plot: Annotated[
        Path | None, typer.Option(help="Draw it too, as FILE.png or FILE.html.")
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the Pareto front of a study, or the one trial that a rule picks."""
    from analysis import load_front, plot_front  # noqa: PLC0415
    from analysis.front import check_rule  # noqa: PLC0415

    if best is not None:
        check_rule(best)
    names = None if objectives is None else [name.strip() for name in objectives.split(",")]
    found = load_front(study, tracking_uri=tracking_uri, where=where or (), objectives=names)
    shown = found if best is None else dataclasses.replace(found, members=(found.best(best),))
    if plot is not None:
        print(f"drawn: {plot_front(found, plot)}", file=sys.stderr)
    print_front(shown, format)


def export(
    study: StudyName,
    to: Annotated[Path, typer.Option(help="Folder to write; may replace an older ticket.")],
    run: Annotated[str | None, typer.Option(help="Run id of a trial, or its beginning.")] = None,
    best: Best = None,
    where: Where = None,
    onnx: Annotated[bool, typer.Option(help="Write model.onnx, checked against PyTorch.")] = True,
    compact: Annotated[
        bool, typer.Option("--compact", help="compact.onnx: without units that do nothing.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="int8.onnx: compacted, in 8-bit integers.")
    ] = False,
    c: Annotated[
        bool, typer.Option("--c", help="model.c and model.h: C99 with sparse rows, no dependency.")
    ] = False,
    csr: Annotated[
        bool, typer.Option("--csr", help="csr.safetensors: sparse rows, for other runtimes.")
    ] = False,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register it as a version of this MLflow model, too."),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the ticket of one trial, or of a ticket's folder, and what ships, checked and timed."""
    from analysis import export_ticket, load_ticket, register_ticket  # noqa: PLC0415
    from analysis.export import chosen_ticket  # noqa: PLC0415
    from analysis.recorded import Trial  # noqa: PLC0415
    from analysis.registry import check_registry  # noqa: PLC0415
    from search.display_exports import exports_table  # noqa: PLC0415

    source = chosen_ticket(study, run=run, best=best, where=where or (), tracking_uri=tracking_uri)
    uri, run_id = tracking_uri, None
    if isinstance(source, Trial):
        uri, run_id = source.tracking_uri, source.run_id
    if register is not None:
        if not (onnx or compact):
            raise ConfigError("--register takes model.onnx or compact.onnx: leave --no-onnx out")
        check_registry(register, uri)
    chosen = {"onnx": onnx, "compact": compact, "int8": int8, "c": c, "csr": csr}
    folder = export_ticket(
        source,
        to,
        routes=[route for route, wanted in chosen.items() if wanted],
    )
    ticket = load_ticket(folder)
    if ticket.exports:
        Console(stderr=True).print(exports_table(ticket))
    if register is not None:
        version = register_ticket(folder, register, uri, run_id=run_id)
        print(f"registered: models:/{register}/{version}", file=sys.stderr)
    print(f"next: goldenticket verify {shlex.quote(str(folder))}", file=sys.stderr)
    print(folder)


def print_front(found: Front, format: str) -> None:
    """As a table, json or csv, to standard output."""
    if format == "json":
        print(found.to_json())
    elif format == "csv":
        print(found.to_csv(), end="")
    else:
        stdout().print(front_table(found))
