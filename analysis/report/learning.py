"""Learning curves: accuracies, rung score and training epsilon over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.plot_labels import HALO
from analysis.plot_style import FAINT, INK, MUTED, in_percent
from analysis.report.artifacts import CURVES, Learning
from analysis.report.drawing import SMALL, TEXT, Drawing, gid, new_axes
from analysis.report.material import Material
from analysis.report.section import Section
from analysis.report.words import counted, listed, name_of, title_of
from spaces.scheduler import AshaConfig, MoashaConfig
from spaces.study import StudyConfig


def section(material: Material) -> Section:
    """A panel per recorded curve, or why there is none."""
    title = "Learning curves"
    drawings = [drawing for name in CURVES if (drawing := _draw(material, name)) is not None]
    if not drawings:
        return Section(
            "learning",
            title,
            "There are no learning curves: the tracking store has no trial with figures after two "
            "epochs or more.",
        )
    return Section("learning", title, _lead(material), drawings, _remarks(material))


def _lead(material: Material) -> str:
    text = (
        "Each epoch's figures as they were reported, by quick bounds on few examples; the last "
        "point is the final measurement by the whole cascade. Strong lines are members of the "
        "front, the darker the more FLOPs; faint ones are other trials, which end where they were "
        "stopped."
    )
    return text


def _remarks(material: Material) -> list[str]:
    drawn, every = len(material.learning), len(material.front.study.trials)
    remarks = []
    rungs = _rungs(material.study)
    if rungs:
        epochs = f"epoch{'s' if len(rungs) > 1 else ''} {listed([f'{rung}' for rung in rungs])}"
        remarks.append(
            f"Dashed: the scheduler's rungs, after {epochs}, where trials may be stopped."
        )
    elif len(material.front.studies) > 1:
        remarks.append("Rungs are not marked: several studies were asked, each with its own.")
    elif material.study is None:
        remarks.append("Rungs are not marked: the study file cannot be read from the store.")
    else:
        remarks.append(f"No rungs: the scheduler is {material.study.scheduler.name}.")
    if drawn < every:
        remarks.append(
            f"{counted(drawn, 'trial')} of {every:,} drawn: members of the front first, others at "
            "even distances, none that has no curve."
        )
    return remarks


def _rungs(study: StudyConfig | None) -> list[int]:
    """Epochs at which trials may be stopped; of bracket 0, whose rungs include all others'."""
    if study is None or not isinstance(study.scheduler, AshaConfig | MoashaConfig):
        return []
    rungs, epoch = [], study.scheduler.grace_epochs
    while epoch < study.budget.epochs:
        rungs.append(epoch)
        epoch *= study.scheduler.reduction_factor
    return rungs


def _draw(material: Material, name: str) -> Drawing | None:
    shown = [learning for learning in material.learning if name in learning.curves]
    if not shown:
        return None
    figure, axes = new_axes(title_of(name))
    on_front = {trial.run_id for trial in material.members}
    for learning in sorted(shown, key=lambda found: found.trial.run_id in on_front):
        strong = learning.trial.run_id in on_front
        style: dict[str, Any] = {"color": FAINT, "linewidth": 0.8, "zorder": 2, "alpha": 0.85}
        if strong:
            style = {
                "color": material.inks.line(learning.trial),
                "linewidth": material.weight,
                "zorder": 3,
            }
        axes.plot(*zip(*learning.curves[name], strict=True), gid=gid(learning.trial), **style)
    axes.set_xlabel("epoch", fontsize=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _value_axis(axes, name, shown, material)
    for epoch in _rungs(material.study):
        axes.axvline(epoch, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    label = f"{name_of(name)} over the epochs, of {counted(len(shown), 'trial')}"
    return Drawing(f"learning-{name}".replace("_", "-"), figure, label)


def _value_axis(axes: Axes, name: str, shown: Sequence[Learning], material: Material) -> None:
    highest = max(value for learning in shown for _, value in learning.curves[name])
    if name == "train_epsilon":
        axes.set_ylim(0.0, 1.12 * max(highest, 1e-9))
        axes.set_ylabel("training radius (l∞, data units)", fontsize=SMALL)
        radius = material.members[0].radius
        if radius is not None:
            axes.axhline(radius, color=INK, linewidth=1.0, linestyle=":", zorder=1)
            axes.text(0.02, radius, "evaluation radius", fontsize=SMALL, color=MUTED, va="bottom",
                      zorder=4, path_effects=HALO,
                      transform=axes.get_yaxis_transform())  # fmt: skip
        return
    axes.set_ylim(-0.015, min(1.015, 1.06 * highest + 0.01))
    in_percent(axes.yaxis)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
