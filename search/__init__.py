"""How many trials are run: asking, early stopping, executors, MLflow, the command line."""

from typing import TYPE_CHECKING, Any

from search.records import Observer, SearchRun, StudyResult, TrialRecord

if TYPE_CHECKING:
    from search.run import run_study

__all__ = ["Observer", "SearchRun", "StudyResult", "TrialRecord", "run_study"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that `goldenticket --help` does not wait for torch.
    if name == "run_study":
        from search.run import run_study  # noqa: PLC0415

        return run_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
