"""Which step of the cascade decided how many examples of the chosen ticket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.certificate_model import Certificate, RadiusResult
from analysis.plot_style import FAINT, INK, MUTED
from analysis.report.drawing import SMALL, Drawing, new_axes
from analysis.report.material import Material
from analysis.report.section import Section
from analysis.report.words import seconds

_VERDICTS = {
    "misclassified": (FAINT, ""),
    "verified": (INK, ""),
    "falsified": ("#e3a43a", ""),
    "unknown": ("#ffffff", "////"),
}
_NAMES = {"natural": "wrong from the start", "pgd": "attack (PGD)", "ibp": "intervals (IBP)"}


def section(material: Material) -> Section:
    """A panel per radius, or why there is none."""
    title = "Which step decided"
    certificate = material.choice.certificate if material.choice else None
    if certificate is None:
        return Section(
            "cascade",
            title,
            "Shares of the cascade are in a ticket's certificate, and the ticket of this report "
            "has none yet: certify it by `goldenticket verify TICKET`, and give its folder by "
            "--ticket.",
        )
    drawings = [_draw(certificate, result) for result in certificate.results]
    lead = (
        f"Verification is a cascade, cheap steps first ({certificate.bound.replace('+', ', ')}); "
        "an example stops at the first step that decides it. Counts of examples on the "
        f"{certificate.split} split."
    )
    return Section("cascade", title, lead, drawings)


def _draw(certificate: Certificate, result: RadiusResult) -> Drawing:
    counts = Counter(zip(result.method, result.verdicts, strict=True))
    steps = _steps(certificate, result)
    height = 1.6 + 0.3 * len(steps)
    figure, axes = new_axes(f"Radius {result.radius:g}", height=height, left=1.55)
    box = axes.get_position()
    axes.set_position((box.x0, box.y0 + 0.35 / height, box.width, box.height - 0.35 / height))
    seen = set()
    for place, step in enumerate(steps):
        start = 0
        for verdict, (colour, hatch) in _VERDICTS.items():
            count = counts.get((step, verdict), 0)
            if not count:
                continue
            axes.barh(place, count, left=start, height=0.62, facecolor=colour, hatch=hatch,
                      edgecolor=MUTED, linewidth=0.6, zorder=2,
                      label=None if verdict in seen else verdict)  # fmt: skip
            seen.add(verdict)
            start += count
        axes.annotate(f"{start}", (start, place), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=SMALL, color=INK)  # fmt: skip
    axes.set_yticks(range(len(steps)), [_NAMES.get(step, step) for step in steps], fontsize=SMALL)
    axes.set(ylim=(len(steps) - 0.4, -0.6))
    axes.set_xlim(0, 1.14 * max(Counter(result.method).values()))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"examples (of {certificate.num_examples})", fontsize=SMALL + 0.5, loc="left")
    figure.text(0.985, 1.0 - 0.2 / height, seconds(result.seconds), fontsize=SMALL, color=MUTED,
                ha="right", va="center")  # fmt: skip
    figure.legend(loc="lower center", ncols=len(seen), frameon=False, fontsize=SMALL,
                  labelcolor=INK, handlelength=1.0, handletextpad=0.4, columnspacing=1.2,
                  borderaxespad=0.2)  # fmt: skip
    told = ", ".join(f"{step} {result.decided_by[step]}" for step in steps)
    label = f"Examples decided by each step at radius {result.radius:g}: {told}"
    return Drawing(f"cascade-{result.radius:g}".replace(".", "-"), figure, label)


def _steps(certificate: Certificate, result: RadiusResult) -> Sequence[str]:
    """The steps that decided something, in the order in which they ran; what is left at the end."""
    order = ["natural", *(step.name for step in result.steps), *certificate.bound.split("+")]
    known = dict.fromkeys([*order, *sorted(result.decided_by)])
    return [step for step in known if result.decided_by.get(step)]
