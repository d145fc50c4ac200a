"""How many trials are run: asking, early stopping, executors, MLflow, the command line."""

from typing import TYPE_CHECKING, Any

from search.records import ExactVerdicts, Observer, SearchRun, StudyResult, TrialRecord

if TYPE_CHECKING:
    from search.certify import certify_front
    from search.run import run_study

__all__ = [
    "ExactVerdicts",
    "Observer",
    "SearchRun",
    "StudyResult",
    "TrialRecord",
    "certify_front",
    "run_study",
]


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that `goldenticket --help` does not wait for torch.
    if name == "run_study":
        from search.run import run_study  # noqa: PLC0415

        return run_study
    if name == "certify_front":
        from search.certify import certify_front  # noqa: PLC0415

        return certify_front
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
