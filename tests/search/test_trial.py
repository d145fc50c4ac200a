"""A trial in a worker: what it reports when it goes on from a checkpoint."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from toy_trials import ToyFactory, toy_study

from search.trial import TrialJob, TrialRunner


@pytest.fixture
def job(tmp_path: Path) -> TrialJob:
    """A trial of four epochs that is saved after each."""
    space = toy_study(tmp_path, budget={"trials": 1, "epochs": 4}).search_space()
    config = space.decode(space.sample(random.Random(0)))
    return TrialJob(0, config, tmp_path / "ticket", tmp_path / "trial_0.pt", checkpoint_s=0.0)


def test_an_epoch_that_was_saved_and_not_reported_is_reported_first(
    job: TrialJob, tmp_path: Path
) -> None:
    factory = ToyFactory(diary=tmp_path)
    before = TrialRunner(factory, job)
    reports = [before.step(), before.step()]
    before.close(save=False)
    after = TrialRunner(factory, replace(job, epochs=1))  # the second report did not arrive
    assert after.step().measurement == reports[1].measurement
    assert after.step().epoch == 3
    assert after.step().finished
    assert factory.epochs_run() == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_what_has_arrived_is_not_reported_again(job: TrialJob) -> None:
    before = TrialRunner(ToyFactory(), job)
    before.step()
    before.close(save=False)
    after = TrialRunner(ToyFactory(), replace(job, epochs=1))
    assert after.step().epoch == 2


def test_a_trial_that_was_saved_after_its_last_epoch_only_ends(job: TrialJob) -> None:
    before = TrialRunner(ToyFactory(), job)
    for _ in range(4):
        before.step()
    before.close(save=False)
    after = TrialRunner(ToyFactory(), replace(job, epochs=3))
    report = after.step()
    assert (report.finished, report.epoch) == (True, 4)
