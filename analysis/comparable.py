"""Whether trials of several searches were measured alike, so that one front can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.errors import FrontError
from analysis.recorded import Trial

# Augmentation is training's own, and data sets with a name may lie anywhere.
_MAY_DIFFER = ("data.augment.", "data.folder", "data.download")


def check_comparable(trials: Sequence[Trial]) -> None:
    """FrontError when accuracies of two trials do not mean the same: it names both and both values.

    They must have been measured on the same split of the same data, on as many examples, at the
    same radius, by the same bounds. Of the data settings those count that both have recorded.
    """
    if not trials:
        return
    first = trials[0]
    ours = _measured_by(first)
    for trial in trials:
        theirs = _measured_by(trial)
        for name in ours:
            if name in theirs and ours[name] != theirs[name]:
                raise FrontError(_message(name, first, ours[name], trial, theirs[name]))


def _measured_by(trial: Trial) -> Mapping[str, object]:
    data = {
        name: text
        for name, text in trial.params.items()
        if name.startswith("data.") and not name.startswith(_MAY_DIFFER)
    }
    return {
        **data,
        "split": trial.split,
        "number of examples": trial.num_examples,
        "evaluation.radius": trial.radius,
        "bound of verified_accuracy": trial.bound,
    }


def _message(name: str, first: Trial, ours: object, other: Trial, theirs: object) -> str:
    if first.study == other.study:
        return (
            f"two searches of study {first.study!r} cannot be put into one front: {name} is {ours} "
            f"for run {first.run_id} and {theirs} for run {other.run_id}: ask for one search "
            "(its run id, or the newest)"
        )
    return (
        f"studies {first.study!r} and {other.study!r} cannot be put into one front: {name} is "
        f"{ours} in {first.study} and {theirs} in {other.study}, so their accuracies do not mean "
        "the same: ask for each alone, or search them with the same data and evaluation"
    )
