"""Runs side by side, one row of a CSV file each; what has a row is not run again."""

from __future__ import annotations

import csv
import gzip
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Job = dict[str, Any]
Row = dict[str, Any]


def work(
    run: Callable[[Job], Row],
    todo: Sequence[Job],
    path: Path,
    columns: Sequence[str],
    workers: int,
    told: Callable[[Row], str],
) -> None:
    """Run jobs in processes of their own; each row is written, and told, when its run ends."""
    path.parent.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(run, job) for job in todo]
        for number, future in enumerate(as_completed(futures), 1):
            row = future.result()
            is_new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, columns, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            print(f"{number}/{len(todo)} {told(row)}", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of earlier runs; those that were packed are read from `path`.gz."""
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and packed.exists():
        with gzip.open(packed, "rt", newline="") as file:
            return list(csv.DictReader(file))
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
