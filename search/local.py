"""Trials one after the other in this process: for debugging, tests and machines without Ray."""

from __future__ import annotations

from search.ledger import Ledger
from search.trial import TrialFactory, TrialRunner


def run_local(ledger: Ledger, factory: TrialFactory) -> None:
    """Run trials until the ledger gives out no more."""
    while (job := ledger.ask()) is not None:
        runner = TrialRunner(factory, job)
        while ledger.report(job.number, runner.step()):
            pass
        runner.close()
