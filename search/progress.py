"""What a person sees while a search runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.display import COLUMNS, duration, metrics_table, quantity
from search.ranking import front
from search.records import Observer, SearchRun, TrialRecord

_SHOWN_MEMBERS = 8


class Progress(Observer):
    """A live view on a terminal; elsewhere one line per ended trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: dict[int, TrialRecord] = {}
        self.run: SearchRun | None = None
        self.started = time.monotonic()
        self.num_resumed = 0
        self._front: tuple[TrialRecord, ...] = ()
        self._live: Live | None = None

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Say what will be done, and open the view."""
        self.run, self.started = run, time.monotonic()
        self.records = {record.number: record for record in records}
        self.num_resumed = len(self._ended())
        self._front = front(run.study, self.records.values())
        study = run.study
        resumed = f", {self.num_resumed} of them done before" if self.num_resumed else ""
        self.console.print(
            f"study [bold]{study.name}[/]: {study.budget.trials} trials{resumed}, up to "
            f"{study.budget.epochs} epochs each; sampler {study.sampler.name}, stopping by "
            f"{study.scheduler.name}, executor {run.executor}; files in {run.folder}",
            highlight=False,
            soft_wrap=True,
        )
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self.render,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def on_trial_start(self, record: TrialRecord) -> None:
        """Note a running trial."""
        self.records[record.number] = record

    def on_report(self, record: TrialRecord) -> None:
        """Note how far it is."""
        self.records[record.number] = record

    def on_trial_end(self, record: TrialRecord) -> None:
        """Note how it ended; without a terminal, print a line."""
        assert self.run is not None
        self.records[record.number] = record
        if record.state == "completed":
            self._front = front(self.run.study, self.records.values())
        if record.state == "failed":
            self.console.print(f"trial {record.number} failed: {_last_line(record.reason)}")
        if self._live is None:
            self.console.print(self._line(record), highlight=False, soft_wrap=True)

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Close the view and say what it took."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self.console.print(self._summary(), highlight=False)

    def render(self) -> RenderableType:
        """The live view: bar, running trials, current front."""
        assert self.run is not None
        total = self.run.study.budget.trials
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=total, completed=len(self._ended()), width=30), self._summary()
        )
        parts: list[RenderableType] = [bar, *self._running()]
        if self._front:
            best_first = sorted(
                self._front, key=lambda r: r.metrics.get("verified_accuracy", 0.0), reverse=True
            )
            hidden = len(best_first) - _SHOWN_MEMBERS
            rows = [
                (f"{r.number}", r.metrics, _method(r)) for r in best_first[:_SHOWN_MEMBERS]
            ]  # fmt: skip
            caption = f"and {hidden} more" if hidden > 0 else None
            parts.append(metrics_table("Front so far (validation)", rows, COLUMNS, caption))
        return Group(*parts)

    def _ended(self) -> list[TrialRecord]:
        return [r for r in self.records.values() if r.state != "running" and not r.interrupted]

    def _summary(self) -> Text:
        assert self.run is not None
        states = Counter(record.state for record in self.records.values())
        parts = [
            f"{len(self._ended())}/{self.run.study.budget.trials} trials",
            f"{states['completed']} completed",
            f"{states['stopped']} stopped early",
        ]
        if states["failed"]:
            parts.append(f"{states['failed']} failed")
        if states["running"]:
            parts.append(f"{states['running']} running")
        elapsed = time.monotonic() - self.started
        parts.append(f"{duration(elapsed)} elapsed")
        expected = self._expected(elapsed)
        if expected is not None:
            parts.append(f"about {duration(expected)} to go")
        return Text(", ".join(parts))

    def _expected(self, elapsed: float) -> float | None:
        """Seconds to go, at the pace so far; None before the first trial ended, 0 is not shown."""
        assert self.run is not None
        ended = len(self._ended())
        done_here, left = ended - self.num_resumed, self.run.study.budget.trials - ended
        if done_here <= 0 or left <= 0:
            return None
        return elapsed / done_here * left

    def _running(self) -> list[Text]:
        assert self.run is not None
        epochs = self.run.study.budget.epochs
        lines = []
        for record in self.records.values():
            if record.state == "running":
                natural = quantity("natural_accuracy", record.metrics.get("natural_accuracy"))
                verified = quantity("verified_accuracy", record.metrics.get("verified_accuracy"))
                lines.append(
                    Text(
                        f"  trial {record.number:<4} {_method(record):7} epoch {record.epochs:>3}/"
                        f"{epochs}   natural {natural:>6}   verified {verified:>6}",
                        style="dim",
                    )
                )
        return lines

    def _line(self, record: TrialRecord) -> str:
        natural = quantity("natural_accuracy", record.metrics.get("natural_accuracy"))
        verified = quantity("verified_accuracy", record.metrics.get("verified_accuracy"))
        flops = quantity("inference_flops", record.metrics.get("inference_flops"))
        return (
            f"[{self._summary()}] trial {record.number} ({_method(record)}) {record.state} after "
            f"{record.epochs} epochs: natural {natural}, verified {verified}, {flops}FLOPs"
        )


def _method(record: TrialRecord) -> str:
    return record.config.topology.method if record.config is not None else "-"


def _last_line(reason: str | None) -> str:
    lines = (reason or "unknown reason").strip().splitlines()
    return lines[-1]
