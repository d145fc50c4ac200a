"""`goldenticket verify` and `graft`: what is done with an exported ticket."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from search.display import certificate_report, graft_table, stdout
from spaces import ConfigError

TicketFolder = Annotated[Path, typer.Argument(metavar="TICKET_DIR", help="An exported ticket.")]


def verify(
    ticket: TicketFolder,
    radius: Annotated[
        list[float] | None,
        typer.Option(help="l-infinity radius in data units; may be repeated. [default: its own]"),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="The first so many examples. [default: all]")
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which part of the data.")
    ] = "test",
    methods: Annotated[
        str | None,
        typer.Option(
            help="By commas, of ibp, crown-ibp, crown, alpha-crown and exact. [default: all]"
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds per example at a radius; then it is unknown.")
    ] = 60.0,
    budget: Annotated[
        float | None,
        typer.Option(help="Seconds for everything; then the rest is unknown. [default: no limit]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Exact programs at a time. [default: one for each CPU]")
    ] = None,
    certified_radius: Annotated[
        float | None,
        typer.Option(
            metavar="LARGEST",
            help="Find, for each example, up to which radius it is verified, at most LARGEST.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Of the certified radius. [default: LARGEST/64]")
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A file that ships, to be certified too, such as int8.onnx; may be repeated. "
            "[default: all but model.onnx]",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw verified accuracy over the radius, as FILE.png or FILE.html."),
    ] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print it.")] = "table",
) -> None:
    """Check a ticket from its folder alone and write its certificate there."""
    if plot is not None and certified_radius is None:
        raise ConfigError(f"--plot {plot} draws the certified radius: give --certified-radius too")
    from analysis import plot_curve, verify_ticket  # noqa: PLC0415
    from analysis.errors import CertificateKept  # noqa: PLC0415
    from analysis.plot_style import check_suffix  # noqa: PLC0415

    if plot is not None:
        check_suffix(plot)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", UserWarning)
        certificate = verify_ticket(
            ticket,
            radii=radius,
            examples=examples,
            split=split,
            methods=None if methods is None else [name.strip() for name in methods.split(",")],
            timeout_s=timeout,
            budget_s=budget,
            workers=workers,
            certified_radius=certified_radius,
            tolerance=tolerance,
            artifacts=artifact,
        )
    for remark in remarks:
        if issubclass(remark.category, CertificateKept):
            print(f"note: {remark.message}", file=sys.stderr)
    if plot is not None:
        print(f"drawn: {plot_curve(certificate, plot)}", file=sys.stderr)
    if format == "json":
        print(certificate.to_json())
    else:
        stdout().print(certificate_report(certificate))


def graft(
    ticket: TicketFolder,
    fraction: Annotated[
        float, typer.Option(help="Share of the ReLUs to replace by learned lines, in [0, 1].")
    ],
    epochs: Annotated[int, typer.Option(help="Epochs of training with the lines.")],
    to: Annotated[Path, typer.Option(help="Folder to write; may replace an older ticket.")],
    significance: Annotated[
        Literal["activation", "gradient"], typer.Option(help="What tells units that matter little.")
    ] = "gradient",
    granularity: Annotated[
        Literal["neuron", "channel"], typer.Option(help="What is replaced as a whole.")
    ] = "neuron",
    lr: Annotated[
        float | None, typer.Option(help="First learning rate. [default: a fifth of the ticket's]")
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write model.onnx, checked against PyTorch.")] = True,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print it.")] = "table",
) -> None:
    """Replace unstable ReLUs of a ticket by learned lines, train on, and write a new ticket."""
    from analysis import graft_ticket  # noqa: PLC0415

    report = graft_ticket(
        ticket,
        to,
        fraction=fraction,
        epochs=epochs,
        lr=lr,
        onnx=onnx,
        significance=significance,
        granularity=granularity,
    )
    print(f"next: goldenticket verify {shlex.quote(str(to))}", file=sys.stderr)
    if format == "json":
        print(report.to_json())
    else:
        stdout().print(graft_table(report))
