"""Trials one after the other in this process: for debugging, tests and machines without Ray."""

from __future__ import annotations

from search.ledger import Ledger
from search.trial import TrialFactory, TrialRunner


def run_local(ledger: Ledger, factory: TrialFactory) -> None:
    """Run trials until the ledger gives out no more."""
    while (job := ledger.ask()) is not None:
        runner = TrialRunner(factory, job)
        save = True  # an interrupted trial goes on when the search is resumed
        try:
            while ledger.report(job.number, runner.step()):
                pass
            save = ledger.record(job.number).state == "interrupted"
        finally:
            runner.close(save=save)
