"""Layer-wise densities of the front's members."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from analysis.manifest import LayerCount
from analysis.plot_style import INK
from analysis.recorded import Trial
from analysis.report.drawing import SMALL, WIDTH, Drawing, gid, log_ticks, new_axes
from analysis.report.material import Material
from analysis.report.section import Section
from analysis.report.words import counted

_MOST_PANELS = 4


def section(material: Material) -> Section:
    """A panel per kind of network, whose layers have the same names, or why there is none."""
    title = "Where the weights are"
    kinds: dict[tuple[str, ...], list[Trial]] = {}
    for trial in material.members:
        if layers := material.layers.get(trial.run_id):
            kinds.setdefault(tuple(sorted(layers, key=natural_order)), []).append(trial)
    if not kinds:
        return Section(
            "layers",
            title,
            "Layer-wise densities are not shown: no member of the front has a ticket in the "
            "tracking store's artifacts.",
        )
    drawings = [
        _draw(material, names, trials, index)
        for index, (names, trials) in enumerate(list(kinds.items())[:_MOST_PANELS])
    ]
    shown = sum(len(trials) for trials in list(kinds.values())[:_MOST_PANELS])
    remarks = ["Counted from the tickets: weights that are kept and not zero, over all of a layer."]
    if shown < len(material.members):
        remarks.append(f"{shown} of {counted(len(material.members), 'member')} shown.")
    lead = (
        "Density of each layer of the front's members, from the input on the left to the logits: "
        "how a method shared its weights out."
    )
    return Section("layers", title, lead, drawings, remarks)


def _draw(material: Material, names: Sequence[str], trials: Sequence[Trial], index: int) -> Drawing:
    width = max(WIDTH, 0.34 * len(names) + 1.4)
    figure, axes = new_axes("Density by layer", width=width)
    values = []
    for trial in trials:
        densities = [_density(material.layers[trial.run_id], name) for name in names]
        values += densities
        axes.plot(
            range(len(names)), densities, "o-", gid=gid(trial), color=material.inks.line(trial),
            markersize=5, markeredgecolor=INK, markeredgewidth=0.6, linewidth=1.6, zorder=3,
        )  # fmt: skip
    axes.set_ylim(0.8 * max(min(values), 1e-5), 1.2)
    log_ticks(axes, "y", "fraction")
    axes.set_xlim(-0.3, len(names) - 0.7)
    axes.set_xlabel("layer, from the input to the logits", fontsize=SMALL + 0.5)
    short = [name.removesuffix(".weight") for name in names]
    tilted = sum(map(len, short)) > 10 * width
    axes.set_xticks(range(len(names)), short, fontsize=SMALL, rotation=38 if tilted else 0,
                    ha="right" if tilted else "center")  # fmt: skip
    if tilted:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0 + 0.12, box.width, box.height - 0.12))
    label = f"Density of {len(names)} layers of {counted(len(trials), 'member')} of the front"
    return Drawing(f"layers-{index + 1}", figure, label)


def _density(layers: Mapping[str, LayerCount], name: str) -> float:
    layer, size = layers[name], 1
    for length in layer.shape:
        size *= length
    return max(layer.nonzero / size, 1e-5)


def natural_order(name: str) -> list[tuple[int, str]]:
    """conv2 before conv10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
