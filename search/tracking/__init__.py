"""The one MLflow writer: a run for each search, and in it one for each trial.

MLflow is a copy of what the ledger knows, made for people to look at. The driver only
notes which trials have news (`tracker.py`, `backlog.py`). A thread of its own makes their runs say
the same (`writer.py`, `update.py`, `runs.py`, `trial_run.py`), so that no trial ever waits for
MLflow. What cannot be written stays noted: after an outage there is nothing to replay, and a
resumed search fills in what was left when it ended.
"""

from search.tracking.tracker import MlflowTracker

__all__ = ["MlflowTracker"]
