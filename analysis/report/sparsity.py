"""The sparsity curve: accuracy against density, a mark per method."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from analysis.plot_style import INK
from analysis.plots import COLOURS
from analysis.recorded import Trial
from analysis.report.drawing import SMALL, Drawing, gid, new_axes, set_axis
from analysis.report.material import Material
from analysis.report.section import Section
from analysis.report.words import counted, title_of

_MARKS = "os^Dv<>Ph8pX*d"


def section(material: Material) -> Section:
    """Natural and verified accuracy of completed trials against density, or why there is none."""
    title = "Accuracy against density"
    trials = [t for t in (*material.others, *material.members) if t.metrics.get("density", 0.0) > 0]
    names = [
        name
        for name in ("natural_accuracy", "verified_accuracy")
        if any(name in trial.metrics for trial in trials)
    ]
    if trials and not names:
        return Section("sparsity", title, "There is no sparsity curve: no trial recorded accuracy.")
    if len(trials) < 2:
        return Section(
            "sparsity",
            title,
            f"There is no sparsity curve: {counted(len(trials), 'completed trial')} recorded a "
            "density, and a curve needs two.",
        )
    methods = sorted({trial.method for trial in trials})
    drawings = [_draw(material, trials, methods, name) for name in names]
    lead = (
        f"All {counted(len(material.completed), 'completed trial')} by the share of weights that "
        "they keep, with a mark for each method; members of the front are larger, with a dark "
        "border."
    )
    hidden = material.num_others - len(material.others)
    remarks = [f"{counted(hidden, 'trial')} left out at even distances."] if hidden else []
    return Section("sparsity", title, lead, drawings, remarks)


def _draw(
    material: Material, trials: Sequence[Trial], methods: Sequence[str], name: str
) -> Drawing:
    shown = [trial for trial in trials if name in trial.metrics]
    rows = -(-len(methods) // 4)
    figure, axes = new_axes(title_of(name), height=3.4 + 0.24 * rows)
    box = axes.get_position()
    room = 0.24 * rows / (3.4 + 0.24 * rows)
    axes.set_position((box.x0, box.y0 + room, box.width, box.height - room))
    set_axis(axes, "x", "density", [trial.metrics["density"] for trial in shown])
    set_axis(axes, "y", name, [trial.metrics[name] for trial in shown])
    on_front = {trial.run_id for trial in material.members}
    for trial in shown:
        strong = trial.run_id in on_front
        axes.plot(
            trial.metrics["density"], trial.metrics[name], _mark(methods, trial.method),
            color=_colour(methods, trial.method), markersize=8 if strong else 6,
            markeredgecolor=INK if strong else "white", markeredgewidth=1.2 if strong else 0.5,
            zorder=3 if strong else 2, gid=gid(trial),
        )  # fmt: skip
    handles = [
        Line2D([], [], marker=_mark(methods, m), color=_colour(methods, m), linestyle="",
               markersize=7, label=m)
        for m in methods
    ]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=min(4, len(methods)), frameon=False,
                  fontsize=SMALL, labelcolor=INK, handletextpad=0.2, columnspacing=1.2,
                  borderaxespad=0.2)  # fmt: skip
    axes.set_xlabel("density (share of weights kept, logarithmic)", fontsize=SMALL + 0.5)
    label = (
        f"{title_of(name)} against density, {counted(len(shown), 'trial')} by "
        f"{counted(len(methods), 'method')}"
    )
    return Drawing(f"sparsity-{name}".replace("_", "-"), figure, label)


def _mark(methods: Sequence[str], method: str) -> str:
    return _MARKS[methods.index(method) % len(_MARKS)]


def _colour(methods: Sequence[str], method: str) -> str:
    """Different in lightness too, so that few methods can be told apart in grey."""
    return to_hex(COLOURS(0.15 + 0.85 * methods.index(method) / max(len(methods) - 1, 1)))
