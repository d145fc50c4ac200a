"""`goldenticket front` and `export`: which trials a study has found, and one of them to keep."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from search.display import stderr, stdout
from search.display_front import WIDTH, front_table
from spaces.base import ConfigError
from spaces.constraint import number
from spaces.metrics import metric

if TYPE_CHECKING:
    from analysis import Front

RULES = "verified, natural, smallest or knee"

StudyNames = Annotated[
    list[str],
    typer.Argument(
        metavar="STUDY",
        help="A study's name in the tracking store, or its file. Trials of several studies make "
        "one front, if they were measured alike.",
    ),
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
    studies: StudyNames,
    where: Where = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="Metrics separated by commas, instead of the first study's."),
    ] = None,
    best: Best = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Thin the front: of members that differ by no more than this in these objectives, "
            'one stands for all. "natural_accuracy=0.005,inference_flops=5%".',
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="The worst value of each objective that counts: prints the hypervolume up to it. "
            '"natural_accuracy=0.5,verified_accuracy=0.3,inference_flops=1e6".',
        ),
    ] = None,
    group_seeds: Annotated[
        bool,
        typer.Option(
            "--group-seeds",
            help="One row for trials that differ in their seed alone: mean, lowest and highest.",
        ),
    ] = False,
    study_run: Annotated[
        str,
        typer.Option(
            metavar="newest|all|RUN_ID",
            help="Of a study that was searched several times: its newest search, all together, or "
            "the one with this run id.",
        ),
    ] = "newest",
    format: Annotated[
        Literal["table", "json", "csv"], typer.Option(help="How to print it.")
    ] = "table",
    plot: Annotated[
        Path | None, typer.Option(help="Draw it too, as FILE.png or FILE.html.")
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the Pareto front of one study or several, or the one trial that a rule picks."""
    if best is not None and reference is not None:
        raise ConfigError("--reference measures a whole front, --best picks one trial: leave one")
    names = named("--objectives", objectives)
    tolerances = _values("--epsilon", epsilon, "natural_accuracy=0.005,inference_flops=5%")
    point = _values("--reference", reference, "natural_accuracy=0.5,inference_flops=1e6")
    from analysis import load_front, plot_front  # noqa: PLC0415
    from analysis.front import check_rule  # noqa: PLC0415

    if best is not None:
        check_rule(best)
    found = load_front(
        studies,
        tracking_uri=tracking_uri,
        where=where or (),
        objectives=names,
        study_run=study_run,
        epsilon=tolerances,
        group_seeds=group_seeds,
    )
    if point:
        found = found.up_to({name: _number(name, text) for name, text in point.items()})
    shown = found if best is None else found.only(best)
    if plot is not None:
        print(f"drawn: {plot_front(found, plot)}", file=sys.stderr)
    print_front(shown, format)


def export(
    studies: StudyNames,
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
    vector_width: Annotated[
        int,
        typer.Option(min=1, help="float32 values in a vector of the target: AVX2 8, NEON 4."),
    ] = 16,
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

    source = chosen_ticket(
        studies, run=run, best=best, where=where or (), tracking_uri=tracking_uri
    )
    uri, run_id = tracking_uri, None
    if isinstance(source, Trial):
        uri, run_id = source.tracking_uri, source.run_id
    if register is not None:
        if not (onnx or compact):
            raise ConfigError("--register takes model.onnx or compact.onnx: leave --no-onnx out")
        check_registry(register, uri)
    chosen = {"onnx": onnx, "compact": compact, "int8": int8, "c": c, "csr": csr}
    before = _ticket_files(to)
    folder = export_ticket(
        source,
        to,
        routes=[route for route, wanted in chosen.items() if wanted],
        vector_width=vector_width,
    )
    if gone := before - _ticket_files(folder):
        print(
            f"note: {', '.join(sorted(gone))} of the older ticket in {folder} "
            f"{'is' if len(gone) == 1 else 'are'} gone",
            file=sys.stderr,
        )
    ticket = load_ticket(folder)
    if ticket.exports:
        stderr().print(exports_table(ticket))
    if register is not None:
        version = register_ticket(folder, register, uri, run_id=run_id)
        print(f"registered: models:/{register}/{version}", file=sys.stderr)
    print(f"next: goldenticket verify {shlex.quote(str(folder))}", file=sys.stderr)
    print(folder)


def _ticket_files(folder: Path) -> set[str]:
    from analysis.files import TICKET_FILES  # noqa: PLC0415

    return {name for name in TICKET_FILES if (folder / name).exists()}


def _values(option: str, text: str | None, example: str) -> dict[str, str]:
    """The texts by metric in `name=value,name=value`."""
    found: dict[str, str] = {}
    for part in () if text is None else text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise ConfigError(
                f"{option}: {part.strip()!r} is not NAME=VALUE: write it as {example}"
            )
        if metric(name).name in found:
            raise ConfigError(f"{option}: {name} appears twice: remove one")
        found[name] = value
    return found


def named(option: str, text: str | None) -> list[str] | None:
    """Metric names between commas; None where nothing was given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(
            f"{option}: {text!r} has an empty name: write it as natural_accuracy,inference_flops"
        )
    return names


def _number(name: str, text: str) -> float:
    value = number(text)
    if not math.isfinite(value):
        hint = ", as in the study file: 50 % is 0.5" if text.endswith("%") else ""
        raise ConfigError(f"--reference: {name}={text} must be a finite number{hint}")
    return value


def print_front(found: Front, format: str) -> None:
    """As a table, json or csv, to standard output."""
    if format == "json":
        print(found.to_json())
    elif format == "csv":
        print(found.to_csv(), end="")
    else:
        out = stdout()
        out.print(front_table(found, out.width if out.is_terminal else WIDTH))
