"""Hyperparameter importance as bars, one panel per objective."""

from __future__ import annotations

from analysis.plot_style import FAINT, INK, MUTED
from analysis.report.drawing import HEIGHT, SMALL, Drawing, new_axes
from analysis.report.importance import (
    FEW_TRIALS,
    LEAST_TRIALS,
    MOST_TRIALS,
    Importance,
    importance,
)
from analysis.report.material import Material, evenly
from analysis.report.section import Section
from analysis.report.words import counted, name_of, percent, title_of

MOST_BARS = 8
_USELESS = 0.1  # R² on unseen trials below which the forests know nothing
_METHOD = (
    "How much of the objective's variance is no longer explained (loss of R²) when one setting is "
    "shuffled among the completed trials that have it: permutation importance of random forests "
    "(100 trees), judged on trials that they were not fitted on (five folds); whiskers: standard "
    "deviation over ten shufflings. FLOPs, counts and densities are taken as logarithms."
)


def section(material: Material) -> Section:
    """A panel for each objective that the settings explain, or why there is none."""
    title = "Which settings matter"
    completed = material.completed
    if len(completed) < LEAST_TRIALS:
        return _too_few(title, len(completed))
    judged = evenly(completed, MOST_TRIALS)
    found = [importance(judged, name, material.searched) for name in material.objectives]
    known = [result for result in found if result is not None]
    good = [result for result in known if result.explained >= _USELESS]
    remarks = [
        f"{name_of(result.objective)}: not drawn, because the forests explain "
        f"{percent(max(result.explained, 0.0), 0)} of its variance on unseen trials: nothing can "
        "be said."
        for result in known
        if result not in good
    ]
    if not good:
        return Section(
            "importance",
            title,
            "Importance is not told: from the settings of "
            f"{counted(len(judged), 'completed trial')} none of the objectives can be predicted.",
            (),
            remarks,
        )
    if len(completed) < FEW_TRIALS:
        remarks.insert(
            0,
            f"Only {counted(len(completed), 'completed trial')}: take it as a hint. With fewer "
            f"than {FEW_TRIALS} the order of the bars changes from one search to the next.",
        )
    if len(completed) > len(judged):
        remarks.append(f"From {len(judged)} of {len(completed):,} completed trials.")
    lead = (
        "What an objective depends on, among the settings that differed. A setting of no influence "
        "here may matter outside the ranges that were searched."
    )
    return Section("importance", title, lead, [_draw(r) for r in good], [_METHOD, *remarks])


def _too_few(title: str, count: int) -> Section:
    return Section(
        "importance",
        title,
        f"Importance is not told: it needs {LEAST_TRIALS} completed trials, is trustworthy "
        f"from about {FEW_TRIALS}, and this study has {count}. Stopped trials do not "
        "count, since they were measured before their training ended.",
    )


def _draw(found: Importance) -> Drawing:
    names = list(found.shares)[:MOST_BARS]
    height = 1.15 + 0.29 * len(names)
    figure, axes = new_axes(title_of(found.objective), height=min(height, HEIGHT + 0.6), left=1.72)
    for place, name in enumerate(names):
        share, spread = max(found.shares[name], 0.0), found.spreads[name]
        axes.barh(place, share, height=0.62, color=INK if place == 0 else MUTED, zorder=2)
        axes.plot([max(share - spread, 0.0), share + spread], [place] * 2, color=FAINT,
                  linewidth=2.0, zorder=3)  # fmt: skip
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names], fontsize=SMALL)
    axes.set(ylim=(len(names) - 0.4, -0.6))
    axes.set_xlim(left=0.0)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("loss of R² when shuffled", fontsize=SMALL, loc="left")
    figure.text(0.985, 1.0 - 0.2 / height, f"{found.num_trials} trials, R² {found.explained:.2f}",
                fontsize=SMALL, color=MUTED, ha="right", va="center")  # fmt: skip
    top = ", ".join(f"{name} {found.shares[name]:.2f}" for name in names[:3])
    return Drawing(
        f"importance-{found.objective}".replace("_", "-"),
        figure,
        f"Importance for {name_of(found.objective)}: {top}",
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
