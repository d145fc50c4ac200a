"""Verified accuracy over the radius: of the front's members, and of the ticket's certificate."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.ticker import MaxNLocator

from analysis.certificate_model import Certificate
from analysis.plot_style import FAINT, INK, MUTED, in_percent
from analysis.plots_curve import shade_between, share_beyond
from analysis.recorded import Trial
from analysis.report.drawing import SMALL, Drawing, gid, legend, new_axes
from analysis.report.material import Material
from analysis.report.section import Section
from analysis.report.words import counted

_AT = "verified_accuracy_at_"
_LABEL = "radius (l∞, data units)"


def section(material: Material) -> Section:
    """One panel for the front, one for the certificate; or why there is none."""
    curves = {trial.run_id: _points(trial) for trial in material.members}
    drawings, remarks = [], []
    if any(len(points) > 2 for points in curves.values()):
        drawings.append(_of_members(material, curves))
        remarks.append(
            "Front: measured at the marks only, on the study's examples; natural accuracy stands "
            "at radius 0. Lines between marks only join them."
        )
    else:
        remarks.append(
            "The front's members were measured at one radius: add others to evaluation.radii of "
            "the study to see them here."
        )
    certificate = material.choice.certificate if material.choice else None
    if certificate is not None and certificate.certified_radius is not None:
        drawings.append(_of_certificate(certificate))
        remarks.append(
            "Ticket: each example's radius was found by bisection; between the two lines nothing "
            "is known."
        )
    else:
        remarks.append(
            "The chosen ticket has no certified radii: `goldenticket verify TICKET "
            "--certified-radius LARGEST` finds them, and --ticket shows them here."
        )
    title = "Verified accuracy over the radius"
    if not drawings:
        return Section("radius", title, remarks[0], (), remarks[1:])
    lead = "How much of what is right stays proved right as the allowed change grows."
    return Section("radius", title, lead, drawings, remarks)


def _points(trial: Trial) -> list[tuple[float, float]]:
    points = {
        float(name.removeprefix(_AT)): value
        for name, value in trial.metrics.items()
        if name.startswith(_AT)
    }
    if trial.radius is not None and "verified_accuracy" in trial.metrics:
        points[trial.radius] = trial.metrics["verified_accuracy"]
    if "natural_accuracy" in trial.metrics:
        points[0.0] = trial.metrics["natural_accuracy"]
    return sorted(points.items())


def _of_members(material: Material, curves: dict[str, list[tuple[float, float]]]) -> Drawing:
    figure, axes = new_axes("Members of the front")
    largest = 0.0
    for trial in material.members:
        points = curves[trial.run_id]
        largest = max([largest, *(radius for radius, _ in points)])
        style: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.6, "markersize": 5}
        axes.plot(*zip(*points, strict=True), "o-", gid=gid(trial), linewidth=1.6, clip_on=False,
                  color=material.inks.line(trial), zorder=3, **style)  # fmt: skip
    _frame(axes, largest * 1.03)
    label = f"Verified accuracy of {counted(len(curves), 'member')} of the front at several radii"
    return Drawing("radius-front", figure, label)


def _of_certificate(certificate: Certificate) -> Drawing:
    radii = certificate.certified_radius
    assert radii is not None
    figure, axes = new_axes(f"The ticket, {certificate.split} split")
    verified = share_beyond([-1.0 if r is None else r for r in radii.verified], radii.largest)
    upper = share_beyond(
        [math.inf if r is None else math.nextafter(r, -1.0) for r in radii.falsified],
        radii.largest,
    )
    axes.plot(*verified, color=INK, linewidth=2.0, label="verified")
    axes.plot(*upper, color=MUTED, linewidth=1.3, linestyle=(0, (4, 2)), label="not falsified")
    shade_between(axes, verified, upper)
    axes.axvline(radii.mean, color=FAINT, linewidth=1.2, zorder=1)
    side = "left" if radii.mean < 0.6 * radii.largest else "right"
    axes.text(radii.mean, 0.03, f" mean {radii.mean:.3g} ", fontsize=SMALL, color=MUTED, ha=side)
    _frame(axes, radii.largest)
    legend(axes, loc="upper right")
    label = (
        f"Verified accuracy of the ticket up to radius {radii.largest:g}; mean certified radius "
        f"{radii.mean:.3g}"
    )
    return Drawing("radius-ticket", figure, label)


def _frame(axes: Any, largest: float) -> None:
    axes.set(xlim=(0.0, largest), ylim=(0.0, 1.02))
    axes.set_xlabel(_LABEL, fontsize=SMALL + 0.5)
    in_percent(axes.yaxis)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
