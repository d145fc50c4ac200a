"""How well a rung's ranking foretells the last one: Kendall's tau on the recorded table.

    uv run benchmarks/rungs.py

For each candidate of a rung score and some epochs of 27: tau between it and the final verified
accuracy (validation split, radius 0.1, ibp + crown-ibp + crown) over the trainings that ended, all
of them and without gmp, which is dense at first. Accuracies at rungs are by interval bounds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence

from recorded import ROWS
from rows import RESULTS, read
from scipy.stats import kendalltau

AT = (1, 3, 5, 9, 13, 18)
CANDIDATES: dict[str, Callable[[Sequence[float]], float]] = {
    "natural": lambda e: e[0],
    "verified at 0.1 of the radius": lambda e: e[1],
    "verified at 0.25": lambda e: e[2],
    "verified at 0.5": lambda e: e[3],
    "verified at 0.75": lambda e: e[4],
    "verified at the radius": lambda e: e[5],
    "verified at the training radius": lambda e: e[6],
    "mean over 0.25 to 1": lambda e: sum(e[2:6]) / 4,
    "mean over 0.1 to 1": lambda e: sum(e[1:6]) / 5,
    "mean over 0.1 to 0.5": lambda e: sum(e[1:4]) / 3,
    "mean of 0.1 and the training radius": lambda e: (e[1] + e[6]) / 2,
}


def main() -> None:
    rows = [row for row in read(ROWS) if not row["error"]]
    curves = [json.loads(row["curve"]) for row in rows]
    final = [float(row["verified"]) for row in rows]
    sparse = [k for k, row in enumerate(rows) if "gmp" not in row["params"]]
    with (RESULTS / "rungs.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trials", "candidate", *AT])
        for name, chosen in (("all", range(len(rows))), ("without gmp", sparse)):
            print(f"{name}: {len(chosen)} trainings; tau at epoch " + ", ".join(map(str, AT)))
            for label, score in CANDIDATES.items():
                taus = [
                    kendalltau([score(curves[k][epoch - 1]) for k in chosen],
                               [final[k] for k in chosen]).statistic
                    for epoch in AT
                ]  # fmt: skip
                writer.writerow([name, label, *(f"{tau:.3f}" for tau in taus)])
                print(f"  {label:36s}" + "".join(f"{tau:7.2f}" for tau in taus))


if __name__ == "__main__":
    main()
