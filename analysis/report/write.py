"""Writing a report: one HTML file, its figures as PNG, and both kept with the study's run."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path

import matplotlib

from analysis.errors import FrontError, TicketError
from analysis.files import write_whole
from analysis.front import Front
from analysis.plot_style import STYLE
from analysis.recorded import Trial
from analysis.report import (
    cascade,
    influence,
    layers,
    learning,
    panels,
    parallel,
    radius,
    sparsity,
    tables,
    ticket_page,
)
from analysis.report.artifacts import log_files
from analysis.report.choice import Choice, from_folder, from_trial
from analysis.report.drawing import Drawing
from analysis.report.material import Material, gather
from analysis.report.page import drawings_of, to_page
from analysis.report.section import Section

_DPI = 300
_RULE = "it has the highest verified accuracy on the front"


def write_report(
    front: Front,
    path: str | Path,
    *,
    trial: Trial | None = None,
    ticket: str | Path | None = None,
    figures: str | Path | None = None,
    log: bool = True,
) -> Path:
    """Write the report of a front to one .html file that fetches nothing; returns its path.

    It ends with one ticket: the one in folder `ticket`, with its certificate; or that of `trial`,
    read from the tracking store (None: the most verified of the front). `figures` is a folder for
    PNGs of all figures, at 300 dots per inch. Unless `log` is False, page and PNGs are kept with
    the (first) study's newest run, under `report/`. The same store and ticket give the same bytes.

    FrontError when the store cannot be read, the trial has no ticket, or the store refuses the
    files (they are written then); TicketError when a ticket or certificate is damaged, or a file
    cannot be written.
    """
    path = check_place(path)
    if trial is not None and ticket is not None:
        raise TicketError("a report is about one ticket: give a trial or a ticket's folder")
    choice, reason = _choose(front, trial, ticket)
    material = gather(front, choice, reason)
    with matplotlib.rc_context(STYLE):
        sections = _sections(material)
        page = to_page(material, sections)
        write_whole(path, page.encode())
        if figures is not None or log:
            pngs = {f"{d.name}.png": _png(d) for d in drawings_of(sections)}
    if figures is not None:
        _write_figures(pngs, Path(figures))
    if log:
        with tempfile.TemporaryDirectory() as scratch:
            _write_figures(pngs, Path(scratch))
            log_files(front.studies[0], [path, *(Path(scratch) / name for name in pngs)])
    return path


def check_place(path: str | Path) -> Path:
    """The path; TicketError when no report can be written there, before any work is done."""
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise TicketError(f"{path}: a report is one HTML file, so its name must end in .html")
    if not path.parent.is_dir():
        raise TicketError(f"{path} cannot be written: there is no folder {path.parent}; make it")
    return path


def _choose(
    front: Front, trial: Trial | None, ticket: str | Path | None
) -> tuple[Choice | None, str]:
    if ticket is not None:
        return from_folder(ticket, front.study), ""
    if trial is not None:
        return from_trial(trial, "it was asked for"), ""
    try:
        return from_trial(front.best("verified"), _RULE), ""
    except FrontError as error:
        return None, f"There is no ticket to show: {error}."


def _sections(material: Material) -> list[Section]:
    makers = (
        panels.section,
        parallel.section,
        influence.section,
        learning.section,
        layers.section,
        sparsity.section,
        radius.section,
        tables.cost_section,
        ticket_page.section,
        cascade.section,
    )
    return [make(material) for make in makers]


def _png(drawing: Drawing) -> bytes:
    """Without a date, so that the same figure gives the same bytes."""
    out = io.BytesIO()
    drawing.figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    return out.getvalue()


def _write_figures(pngs: Mapping[str, bytes], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TicketError(
            f"{folder} cannot be made for the figures ({error.strerror}): choose another place"
        ) from error
    for name, content in pngs.items():
        write_whole(folder / name, content)
