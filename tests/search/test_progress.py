"""What a person sees while a search runs, with a terminal and without."""

import io
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy_trials import toy_study

from search.progress import Progress
from search.records import INTERRUPTED, ExactVerdicts, SearchRun, TrialRecord

FIGURES = {"natural_accuracy": 0.9, "verified_accuracy": 0.8, "inference_flops": 1234.0}
ERROR = "ValueError: x[red] of [/bold] is nan :bug:"
FAILURE = f"Traceback (most recent call last):\n  [...]\n{ERROR}\n"


@pytest.fixture
def run(tmp_path: Path) -> SearchRun:
    # Nothing but the name of a study is free of what Rich takes for markup.
    return SearchRun(toy_study(tmp_path), tmp_path / "[bold]runs[/]" / "001", "local")


def a_trial(run: SearchRun, number: int, state: Any = "running", **changes: Any) -> TrialRecord:
    params = {
        "topology.method": "rigl",
        "topology.rigl.density": 0.5,
        "optimizer.lr": 0.01,
    }
    config = run.study.search_space().decode(params)
    return replace(TrialRecord(number, params, config, time.time(), state), **changes)


class View:
    """A progress view and what it has printed."""

    def __init__(self, terminal: bool, width: int = 80) -> None:
        self.out = io.StringIO()
        self.progress = Progress(Console(file=self.out, force_terminal=terminal, width=width))

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    def live(self, width: int = 160) -> str:
        """The live view at this moment, as plain text."""
        out = io.StringIO()
        Console(file=out, width=width).print(self.progress.render())
        return out.getvalue()


def test_without_a_terminal_each_ended_trial_has_one_line(run: SearchRun) -> None:
    view = View(terminal=False)
    show = view.progress
    show.on_study_start(run, [])
    show.on_trial_start(a_trial(run, 0))
    show.on_report(a_trial(run, 0, epochs=1, metrics=FIGURES))
    show.on_trial_end(a_trial(run, 0, "completed", epochs=3, metrics=FIGURES))
    show.on_trial_start(a_trial(run, 1))
    show.on_trial_end(a_trial(run, 1, "stopped", epochs=1, reason="rung_score 0.1"))
    show.on_trial_end(a_trial(run, 2, "failed", epochs=2, reason=FAILURE))
    show.on_study_end(run, [])
    start, first, second, third, end = view.lines
    assert start == (
        "study toy: 4 trials, up to 3 epochs each; sampler random, stopping by fifo, executor "
        f"local; files in {run.folder}"
    )
    assert first == (
        "[1/4 trials, 1 completed, 0 stopped early, 0.0 s elapsed] trial 0 (rigl) completed after "
        "3 epochs: natural 90.0%, verified 80.0%, 1.23k FLOPs"
    )
    assert second == (
        "[2/4 trials, 1 completed, 1 stopped early, 0.0 s elapsed] trial 1 (rigl) stopped after "
        "1 epochs: natural -, verified -, - FLOPs"
    )
    assert third.endswith(f"] trial 2 (rigl) failed after 2 epochs: {ERROR}")
    assert end.startswith("3/4 trials, 1 completed, 1 stopped early, 1 failed, 0.0 s elapsed")


def test_the_reason_of_a_failure_is_printed_once_and_literally(run: SearchRun) -> None:
    for terminal in (False, True):
        view = View(terminal, width=200)
        view.progress.on_study_start(run, [])
        view.progress.on_trial_end(a_trial(run, 0, "failed", reason=FAILURE))
        view.progress.on_study_end(run, [])
        said = f"trial 0 (rigl) failed after 0 epochs: {ERROR}"
        assert view.out.getvalue().count(said) == 1
        assert "Traceback" not in view.out.getvalue()


@pytest.mark.parametrize("reason", [None, "", "\n"])
def test_a_failure_without_a_reason_says_so(run: SearchRun, reason: str | None) -> None:
    view = View(terminal=False)
    view.progress.on_study_start(run, [])
    view.progress.on_trial_end(replace(a_trial(run, 0, "failed"), config=None, reason=reason))
    assert view.lines[-1].endswith("trial 0 (-) failed after 0 epochs: unknown reason")


def test_a_cluster_that_was_joined_is_told() -> None:
    view = View(terminal=False)
    view.progress.on_cluster("joined the Ray cluster at auto: room for 4 trials at once")
    assert view.lines == ["joined the Ray cluster at auto: room for 4 trials at once"]


def test_a_resumed_search_says_how_much_was_done_before(run: SearchRun) -> None:
    view = View(terminal=False)
    view.progress.on_study_start(run, [a_trial(run, 0, "completed", metrics=FIGURES)])
    assert "4 trials, 1 of them done before, up to" in view.lines[0]


def test_an_interrupted_trial_counts_as_neither_stopped_nor_done(run: SearchRun) -> None:
    view = View(terminal=False)
    view.progress.on_study_start(run, [])
    lost = a_trial(run, 0, "interrupted", epochs=1, reason="Traceback\nMemoryError: none is left")
    view.progress.on_trial_pause(lost)
    assert view.lines[-1] == (
        "trial 0 (rigl) interrupted after 1 epochs: MemoryError: none is left; it goes on from "
        "its checkpoint"
    )
    view.progress.on_trial_pause(replace(lost, reason=INTERRUPTED))
    assert view.lines[-1].endswith("interrupted after 1 epochs: it goes on with --resume")
    view.progress.on_study_end(run, [])
    assert view.lines[-1].startswith("0/4 trials, 0 completed, 0 stopped early, 1 interrupted, ")


def test_the_live_view_before_any_trial(run: SearchRun) -> None:
    view = View(terminal=True)
    view.progress.on_study_start(run, [])
    (line,) = view.live().splitlines()
    assert re.search(r"0/4 trials, 0 completed, 0 stopped early, \d\.\d s elapsed$", line)
    view.progress.on_study_end(run, [])


def test_the_bar_shows_the_share_of_trials_that_have_ended(run: SearchRun) -> None:
    view = View(terminal=True)
    view.progress.on_study_start(run, [])
    view.progress.on_trial_end(a_trial(run, 0, "stopped"))
    view.progress.on_trial_end(a_trial(run, 1, "failed", reason=FAILURE))
    view.progress.on_trial_start(a_trial(run, 2))
    assert view.live().count("━") == 15  # two of four trials, of 30 characters
    view.progress.on_study_end(run, [])


def test_the_live_view_has_the_running_trials_and_the_front(run: SearchRun) -> None:
    view = View(terminal=True)
    show = view.progress
    show.on_study_start(run, [])
    worse = {**FIGURES, "verified_accuracy": 0.7}
    smaller = {**worse, "inference_flops": 1000.0, "density": 0.05}
    show.on_trial_end(a_trial(run, 0, "completed", metrics=worse))  # dominated by trial 1
    show.on_trial_end(a_trial(run, 3, "completed", metrics=smaller))
    show.on_trial_end(a_trial(run, 1, "completed", metrics=FIGURES))
    show.on_trial_end(a_trial(run, 2, "failed", reason=FAILURE))
    show.on_report(a_trial(run, 4, epochs=2, metrics={"natural_accuracy": 0.5}))
    lines = [" ".join(line.split()) for line in view.live().splitlines() if line.strip()]
    assert "4/4 trials, 3 completed, 0 stopped early, 1 failed, 1 running, 0.0 s" in lines[0]
    assert lines[1] == "trial 4 rigl epoch 2/3 natural 50.0% verified -"
    assert lines[2] == "Front so far (validation)"
    assert lines[3] == "trial natural verified density FLOPs method"
    assert lines[5:] == ["1 90.0% 80.0% - 1.23k rigl", "3 90.0% 70.0% 5.00% 1k rigl"]
    show.on_study_end(run, [])


def test_a_long_front_is_shown_in_part_best_first(run: SearchRun) -> None:
    view = View(terminal=True)
    view.progress.on_study_start(run, [])
    for number in range(11):
        share = number / 10
        figures = {**FIGURES, "verified_accuracy": share, "inference_flops": 1000.0 * share}
        view.progress.on_trial_end(a_trial(run, number, "completed", metrics=figures))
    lines = view.live().splitlines()
    shown = [int(line.split()[0]) for line in lines if "rigl" in line]
    assert shown == [10, 9, 8, 7, 6, 5, 4, 3]
    assert lines[-1] == "and 3 more"
    view.progress.on_study_end(run, [])


def test_the_live_view_fits_a_narrow_terminal(run: SearchRun) -> None:
    view = View(terminal=True, width=40)
    view.progress.on_study_start(run, [a_trial(run, 0, "completed", metrics=FIGURES)])
    view.progress.on_report(a_trial(run, 1, epochs=1, metrics=FIGURES))
    assert max(map(len, view.live(width=40).splitlines())) <= 40
    view.progress.on_study_end(run, [])


def test_with_a_terminal_nothing_is_printed_per_trial_and_the_view_goes_away(
    run: SearchRun,
) -> None:
    view = View(terminal=True, width=200)
    view.progress.on_study_start(run, [])
    view.progress.on_trial_end(a_trial(run, 0, "completed", metrics=FIGURES))
    view.progress.on_study_end(run, [])
    assert "completed after" not in view.out.getvalue()
    assert view.lines[-1].endswith("s elapsed")
    assert "\x1b[?25h" in view.out.getvalue()  # the cursor is back


def test_the_time_to_go_is_told_from_the_third_trial_on(
    run: SearchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    view = View(terminal=False, width=200)
    show = view.progress
    show.on_study_start(run, [])
    now = 130.0  # starting up took half a minute, which says nothing about the trials
    show.on_trial_start(a_trial(run, 0))
    for number in range(3):
        now += 20.0
        show.on_trial_end(a_trial(run, number, "stopped"))
    assert ["to go" in line for line in view.lines[1:]] == [False, False, True]
    assert "1:30 min elapsed, about 20 s to go" in view.lines[-1]
    show.on_trial_end(a_trial(run, 3, "stopped"))
    assert "to go" not in view.lines[-1]


def test_exact_verdicts_have_a_line_for_each_member(run: SearchRun) -> None:
    view = View(terminal=False, width=200)
    show = view.progress
    members = [a_trial(run, number, "completed", metrics=FIGURES) for number in (3, 5)]
    found = ExactVerdicts(0.85, 0.9, "ibp+exact", "validation", 20, 1, 2.51)
    show.on_certify_start({0: found}, members, 90.0)
    show.on_certified(members[0], found)
    show.on_certified(members[1], "the ticket is [bold]gone")
    assert view.lines == [
        "exact verdicts on 2 members of the front, 1 done before, at most 1:30 min in all",
        "[1/2] trial 3 (rigl): verified 80.0%, exact 85.0%, 1 of 20 open, 2.5 s",
        "[2/2] trial 5 (rigl): no exact verdicts: the ticket is [bold]gone",
    ]


def test_nothing_is_said_when_every_member_is_certified(run: SearchRun) -> None:
    view = View(terminal=False)
    view.progress.on_certify_start({}, [], 60.0)
    assert view.lines == []
