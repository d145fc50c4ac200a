"""The index of a search: its ended trials in one file; MLflow takes 20 s to read 10,000 runs.

The writer of a search (search/tracking/runs.py) keeps it as an artifact of the search's run. It
holds trials whose runs change no more but for their membership of the front; all others started
at `since` or later, so that one query finds them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from analysis.recorded import Trial

INDEX = "trials.json.gz"
INDEX_TAG = "goldenticket.index"
"""Tag of a search's run: the name of its index, or empty while the index may not be relied on."""
PARETO = "goldenticket.pareto"
_FIELDS = ("run_id", "number", "state", "metrics", "params", "tags", "started")


@dataclass(frozen=True)
class TrialIndex:
    """Ended trials by run id; `since` is in milliseconds since 1970."""

    since: int
    trials: Mapping[str, Trial]

    def brought_up_to_date(self, fresh: Iterable[Trial], gone: Collection[str]) -> list[Trial]:
        """All trials of the search.

        `fresh` are, as the store has them now, those that started at `since` or later and those
        that are tagged as members of the front; `gone` are ids of deleted runs.
        """
        known = dict(self.trials)
        for run_id, trial in known.items():
            if trial.tags.get(PARETO) == "true":  # unless it is among the fresh ones
                known[run_id] = replace(trial, tags={**trial.tags, PARETO: "false"})
        known.update({trial.run_id: trial for trial in fresh})
        return [trial for run_id, trial in known.items() if run_id not in gone]


def to_row(trial: Trial) -> bytes:
    """A trial as a line of the index."""
    return json.dumps([getattr(trial, name) for name in _FIELDS], separators=(",", ":")).encode()


def from_row(row: bytes | list[Any], tracking_uri: str) -> Trial:
    """The trial of a line, or of a line that has been decoded."""
    values = json.loads(row) if isinstance(row, bytes) else row
    return Trial(**dict(zip(_FIELDS, values, strict=True)), tracking_uri=tracking_uri)


def pack(rows: Iterable[bytes], since: int) -> bytes:
    """The content of an index file."""
    document = b'{"since":%d,"trials":[\n%b\n]}\n' % (since, b",\n".join(rows))
    return gzip.compress(document, compresslevel=1, mtime=0)


def unpack(content: bytes, tracking_uri: str) -> TrialIndex:
    """The index in a file; OSError, EOFError or ValueError when it is damaged or another file."""
    document = json.loads(gzip.decompress(content))
    try:
        trials = [from_row(row, tracking_uri) for row in document["trials"]]
        return TrialIndex(document["since"], {trial.run_id: trial for trial in trials})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{INDEX} does not hold trials: {error}") from error
