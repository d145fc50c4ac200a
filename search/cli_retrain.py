"""`goldenticket retrain`: a ticket is trained again, from its start or on other data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Group

from search.cli_ticket import TicketFolder
from search.display import plain_table, quantity, stdout, titled
from spaces import ConfigError
from spaces.reading import parse_yaml, read_yaml

if TYPE_CHECKING:
    from analysis import RetrainReport

_FILES = (".yaml", ".yml", ".json")


def retrain(
    ticket: TicketFolder,
    to: Annotated[Path, typer.Option(help="Folder to write; may replace an older ticket.")],
    start: Annotated[
        Literal["initial", "final"], typer.Option(help="Which of its weights to start from.")
    ] = "initial",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help='Other data: a name such as digits, settings such as "{name: npz, path: x.npz}", '
            "or a YAML or JSON file of them, or of a study. [default: the ticket's own]",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of training. [default: the ticket's]")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. [default: the ticket's]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of batches and a new last layer. [default: the ticket's]")
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write model.onnx, checked against PyTorch.")] = True,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print it.")] = "table",
) -> None:
    """Train a ticket again under its masks, on its own data or on others; write a new ticket."""
    from analysis import retrain_ticket  # noqa: PLC0415

    given = {"epochs": epochs, "seed": seed}
    settings = {name: value for name, value in given.items() if value is not None}
    report = retrain_ticket(
        ticket,
        to,
        data=None if data is None else read_data(data),
        start=start,
        lr=lr,
        onnx=onnx,
        **settings,
    )
    print(f"next: goldenticket verify {shlex.quote(str(to))}", file=sys.stderr)
    if format == "json":
        print(report.to_json())
    else:
        stdout().print(retrain_table(report))


def read_data(given: str) -> dict[str, Any]:
    """Settings of data from what a person wrote: themselves, a file of them, or only a name."""
    if given.lstrip().startswith("{"):
        return parse_yaml(given, "--data")
    if given.endswith(_FILES):
        tree = read_yaml(given)
        return tree["data"] if isinstance(tree.get("data"), dict) else tree
    if Path(given).is_file():
        kind = Path(given).suffix.removeprefix(".")
        more = ", label_column: NAME" if kind == "csv" else ""
        kind = kind if kind in ("npz", "csv") else "KIND"
        raise ConfigError(
            f"--data {given} is a file of examples: say of what kind, as in "
            f"--data '{{name: {kind}, path: {given}{more}}}'"
        )
    return {"name": given}


def retrain_table(report: RetrainReport) -> Group:
    """A ticket and the one trained from it, each measured on its own data."""
    table = plain_table(["ticket", "data", "natural", "verified", "density", "FLOPs"], num_texts=2)
    for label, figures in (("before", report.before), ("after", report.after)):
        metrics = figures["metrics"]
        names = ("natural_accuracy", "verified_accuracy", "density", "inference_flops")
        shown = [quantity(name, metrics.get(name)) for name in names]
        table.add_row(label, figures["data"], *shown)
    return titled(
        f"Trained again from its {report.start} weights: {report.folder}",
        table,
        caption="  ·  ".join(_measured(report.before, report.after)),
    )


def _measured(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """How the figures were obtained; twice when that differs."""
    texts = [
        f"{how['split']} split, {how['num_examples']} examples, radius {how['radius']:g} (l∞), "
        f"verified by {how['bound'].replace('+', ' + ')}"
        for how in (before, after)
    ]
    if texts[0] == texts[1]:
        return texts[:1]
    return [f"before: {texts[0]}", f"after: {texts[1]}"]
