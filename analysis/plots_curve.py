"""Verified accuracy over the radius as a picture: PNG, or one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.certificate_model import Certificate, CertifiedRadius
from analysis.errors import TicketError
from analysis.plot_style import (
    FAINT,
    GRID,
    INK,
    MUTED,
    STYLE,
    check_suffix,
    in_percent,
    page,
    save_figure,
    svg_image,
)

LEFT = 0.1
Steps = tuple[list[float], list[float]]


def plot_curve(certificate: Certificate, path: str | Path) -> Path:
    """Draw the verified accuracy of a certificate over the radius, to a .png or .html file.

    At radius 0 it is the natural accuracy. The line above is what no counterexample has taken away;
    between the two nothing is known. FrontError for another suffix; TicketError when the
    certificate has no certified radii, or the file cannot be written.
    """
    path = check_suffix(path)
    if certificate.certified_radius is None:
        raise TicketError(
            "the certificate has no certified radii to draw: verify with certified_radius "
            "(--certified-radius LARGEST)"
        )
    with matplotlib.rc_context(STYLE):
        figure = _draw(certificate, certificate.certified_radius)
        return save_figure(figure, path, lambda svg: _page(certificate, svg))


def _draw(certificate: Certificate, radii: CertifiedRadius) -> Figure:
    figure = Figure(figsize=(8.4, 5.0), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((LEFT, 0.125, 0.97 - LEFT, 0.7))
    verified = share_beyond([-1.0 if r is None else r for r in radii.verified], radii.largest)
    upper = share_beyond(
        [math.inf if r is None else math.nextafter(r, -1.0) for r in radii.falsified],
        radii.largest,
    )
    natural = radii.curve[0][1]
    label = f"natural accuracy {100 * natural:.1f} %"
    axes.plot([0.0], [natural], "o", color=INK, clip_on=False, zorder=4, label=label)
    axes.plot(*verified, color=INK, linewidth=2.0, label="verified")
    axes.plot(*upper, color=MUTED, linewidth=1.3, linestyle=(0, (4, 2)), label="not falsified")
    shade_between(axes, verified, upper)
    axes.set_xlim(0.0, radii.largest)
    axes.set_ylim(0.0, min(1.0, natural * 1.1) + 0.02)
    axes.set_xlabel("radius (l∞, in data units: the range of an input is 0 to 1)", loc="left")
    axes.set_ylabel("share of the examples", loc="bottom")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    in_percent(axes.yaxis)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    _titles(figure, certificate, radii)
    return figure


def share_beyond(limits: Sequence[float], largest: float) -> Steps:
    """The share of `limits` that are at least r, for r from 0 to `largest`, as corners of steps."""
    xs, ys = [0.0], [_share(limits, 0.0)]
    for limit in sorted({r for r in limits if 0.0 <= r < largest}):
        xs += [limit, limit]
        ys += [ys[-1], _share(limits, math.nextafter(limit, math.inf))]
    return [*xs, largest], [*ys, ys[-1]]


def _share(limits: Sequence[float], radius: float) -> float:
    return sum(limit >= radius for limit in limits) / len(limits)


def shade_between(axes: Axes, verified: Steps, upper: Steps) -> None:
    """Shade what is neither verified nor falsified: back along the lower steps."""
    xs, ys = [*upper[0], *reversed(verified[0])], [*upper[1], *reversed(verified[1])]
    axes.fill(xs, ys, color=FAINT, alpha=0.45, linewidth=0.0, label="open")


def _titles(figure: Figure, certificate: Certificate, radii: CertifiedRadius) -> None:
    title = f"{certificate.data}: mean certified radius {radii.mean:.4g}"
    figure.text(LEFT, 0.945, title, fontsize=13.5, fontweight="bold", color=INK)
    figure.text(LEFT, 0.9, _provenance(certificate), fontsize=8.5, color=MUTED)
    notes = f"bisection up to {radii.largest:g}, to within {radii.tolerance:.3g}"
    figure.text(LEFT, 0.862, notes, fontsize=8.5, color=MUTED)


def _provenance(certificate: Certificate) -> str:
    return (
        f"{certificate.split} split, {certificate.num_examples} examples  ·  verified by "
        f"{certificate.bound.replace('+', ' + ')}"
    )


def _page(certificate: Certificate, svg: bytes) -> str:
    radii = certificate.certified_radius
    assert radii is not None
    label = "Verified accuracy over the radius; the table below has the figures"
    drawing = ElementTree.tostring(svg_image(svg, label), encoding="unicode")
    rows = "\n".join(
        f"<tr><td>{radius:.4g}</td><td>{100 * verified:.1f} %</td><td>{100 * upper:.1f} %</td></tr>"
        for radius, verified, upper in radii.curve
    )
    table = (
        f'<div class="scroll"><table><caption>{escape(_provenance(certificate))}</caption>\n'
        "<thead><tr><th>radius</th><th>verified</th><th>not falsified</th></tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )
    return page(f"{certificate.data}: certified radius", f"{drawing}\n{table}")
