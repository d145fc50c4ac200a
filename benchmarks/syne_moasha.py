# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["syne-tune==0.16.0"]
# ///
"""Syne Tune's MOASHA behind a pipe: a result per line in, its decision per line out.

Started by benchmarks/stopping.py through `uv run --script`, in an environment of its own.
"""

import json
import sys
from datetime import datetime

from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import randint
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA


def main() -> None:
    grace, factor, max_t = map(int, sys.argv[1:])
    scheduler = MOASHA(
        {"row": randint(0, 1)},  # proposals are drawn elsewhere, at random as MOASHA's own are
        metrics=["loss_0", "loss_1", "loss_2"],
        do_minimize=True,
        time_attr="epoch",
        max_t=max_t,
        grace_period=grace,
        reduction_factor=factor,
        random_seed=0,
    )
    trials: dict[int, Trial] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        number = asked["trial"]
        if number not in trials:
            trials[number] = Trial(number, {}, datetime.now())
            scheduler.on_trial_add(trials[number])
        losses = {f"loss_{index}": loss for index, loss in enumerate(asked["losses"])}
        result = {"epoch": asked["epoch"], **losses}
        print(scheduler.on_trial_result(trials[number], result), flush=True)


if __name__ == "__main__":
    main()
