"""The verbs that steer a running search: pause and stop."""

from __future__ import annotations

import sys

from search.cli_space import StudyFile
from search.control import Order, give_order, is_running
from spaces import ConfigError, StudyConfig


def pause(study_file: StudyFile) -> None:
    """Let the running search of a study end so that it can be resumed; its trials are kept."""
    _order(study_file, "pause")
    print("it ends when its trials next report; go on with: search STUDY.yaml --resume")


def stop(study_file: StudyFile) -> None:
    """End the running search of a study now: its front is final, its best ticket is exported."""
    _order(study_file, "stop")
    print("it ends when its trials next report, with the trials that have ended so far")


def _order(study_file: StudyFile, order: Order) -> None:
    from search.run import newest_folder  # noqa: PLC0415

    study = StudyConfig.from_yaml(study_file)
    folder = newest_folder(study)
    if folder is None or not is_running(folder):
        raise ConfigError(
            f"no search of study {study.name!r} is running in {study.storage.path}: change to the "
            "folder where it was started, on a machine that shares its disk"
        )
    give_order(folder, order)
    print(f"told the search in {folder} to {order}", file=sys.stderr)
