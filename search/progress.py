"""What a person sees while a search runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.display import duration, metrics_table, quantity, titled
from search.ranking import GrowingFront
from search.records import INTERRUPTED, ExactVerdicts, Observer, SearchRun, TrialRecord
from search.remarks import remarks

_SHOWN_MEMBERS = 8
_TRIALS_FOR_A_PACE = 3


class Progress(Observer):
    """A live view on a terminal; elsewhere one line per ended trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: dict[int, TrialRecord] = {}
        self.run: SearchRun | None = None
        self.started = time.monotonic()
        self.num_resumed = 0
        self._certified = self._to_certify = 0
        self._first_start: float | None = None
        self._front: GrowingFront | None = None
        self._live: Live | None = None

    def on_cluster(self, told: str) -> None:
        """Say where trials will run."""
        self._say(told)

    def on_warm_start(self, told: Sequence[str]) -> None:
        """Say which trials of earlier studies were used."""
        for line in told:
            self._say(line)

    def on_study_start(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Say what will be done, and open the view."""
        self.run, self.started = run, time.monotonic()
        self.records = {record.number: record for record in records}
        self.num_resumed = len(self._ended())
        self._front = GrowingFront(run.study)
        for record in records:
            self._front.add(record)
        study = run.study
        resumed = f", {self.num_resumed} of them done before" if self.num_resumed else ""
        self._say(
            f"study {study.name}: {study.budget.trials} trials{resumed}, up to "
            f"{study.budget.epochs} epochs each; sampler {study.sampler.name}, stopping by "
            f"{study.scheduler.name}, executor {run.executor}; files in {run.folder}"
        )
        for remark in remarks(run):
            self._say(f"note: {remark}")
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
        """Note a running trial; time is counted from the first one, after all has started up."""
        if self._first_start is None:
            self._first_start = time.monotonic()
        self.records[record.number] = record

    def on_report(self, record: TrialRecord) -> None:
        """Note how far it is."""
        self.records[record.number] = record

    def on_trial_pause(self, record: TrialRecord) -> None:
        """Note that it waits; say so when it lost its worker."""
        self.records[record.number] = record
        if record.state == "interrupted":
            self._say(f"{_named(record)} interrupted after {record.epochs} epochs: {_why(record)}")

    def on_trial_end(self, record: TrialRecord) -> None:
        """Note how it ended; print a line without a terminal, or when it failed."""
        assert self._front is not None
        self.records[record.number] = record
        self._front.add(record)
        if self._live is None:
            self._say(f"[{self._summary()}] {_outcome(record)}")
        elif record.state == "failed":
            self._say(_outcome(record))

    def on_study_end(self, run: SearchRun, records: Sequence[TrialRecord]) -> None:
        """Close the view and say what it took."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._say(self._summary())

    def on_certify_start(
        self,
        known: Mapping[int, ExactVerdicts],
        members: Sequence[TrialRecord],
        budget_s: float,
    ) -> None:
        """Say how many members of the front will be certified, and for how long at most."""
        self._certified, self._to_certify = 0, len(members)
        if members:
            before = f", {len(known)} done before" if known else ""
            self._say(
                f"exact verdicts on {len(members)} members of the front{before}, at most "
                f"{duration(budget_s)} in all"
            )

    def on_certified(self, record: TrialRecord, found: ExactVerdicts | str) -> None:
        """One line for each member."""
        self._certified += 1
        line = f"[{self._certified}/{self._to_certify}] trial {record.number} ({_method(record)})"
        if isinstance(found, str):
            self._say(f"{line}: no exact verdicts: {found}")
            return
        own = quantity("verified_accuracy", record.metrics.get("verified_accuracy"))
        exact = quantity("verified_accuracy", found.verified_accuracy)
        self._say(
            f"{line}: verified {own}, exact {exact}, {found.num_unknown} of {found.num_examples} "
            f"open, {duration(found.seconds)}"
        )

    def render(self) -> RenderableType:
        """The live view: bar, running trials, current front."""
        assert self.run is not None
        total = self.run.study.budget.trials
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=total, completed=len(self._ended()), width=30),
            Text(self._summary()),
        )
        parts: list[RenderableType] = [bar, *self._running()]
        front = [self.records[n] for n in self._front.members] if self._front else []
        if front:
            best_first = sorted(
                front, key=lambda r: r.metrics.get("verified_accuracy", 0.0), reverse=True
            )
            rows = [(f"{r.number}", r.metrics, (_method(r),)) for r in best_first[:_SHOWN_MEMBERS]]
            hidden = len(best_first) - _SHOWN_MEMBERS
            caption = f"and {hidden} more" if hidden > 0 else None
            parts.append(titled("Front so far (validation)", metrics_table(rows), caption))
        return Group(*parts)

    def _ended(self) -> list[TrialRecord]:
        return [r for r in self.records.values() if r.state in ("completed", "stopped", "failed")]

    def _say(self, line: str) -> None:
        # As Text, because paths and error messages may hold what Rich takes for markup.
        self.console.print(Text(line), soft_wrap=True)

    def _summary(self) -> str:
        assert self.run is not None
        records = self.records.values()
        states = Counter(record.state for record in records)
        parts = [
            f"{len(self._ended())}/{self.run.study.budget.trials} trials",
            f"{states['completed']} completed",
            f"{states['stopped']} stopped early",
        ]
        for state in ("failed", "paused", "interrupted", "running"):
            if states[state]:
                parts.append(f"{states[state]} {state}")
        parts.append(f"{duration(time.monotonic() - self.started)} elapsed")
        expected = self._expected()
        if expected is not None:
            parts.append(f"about {duration(expected)} to go")
        return ", ".join(parts)

    def _expected(self) -> float | None:
        """Seconds to go, at the pace of the trials so far; None while nothing can be said."""
        assert self.run is not None
        ended = len(self._ended())
        done_here, left = ended - self.num_resumed, self.run.study.budget.trials - ended
        if done_here < _TRIALS_FOR_A_PACE or left <= 0 or self._first_start is None:
            return None
        return (time.monotonic() - self._first_start) / done_here * left

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


def _outcome(record: TrialRecord) -> str:
    """One line on a trial that has ended: its figures, or why it failed."""
    said = f"{_named(record)} {record.state} after {record.epochs} epochs"
    if record.state == "failed":
        return f"{said}: {_last_line(record.reason)}"
    natural, verified, flops = (
        quantity(name, record.metrics.get(name))
        for name in ("natural_accuracy", "verified_accuracy", "inference_flops")
    )
    return f"{said}: natural {natural}, verified {verified}, {flops} FLOPs"


def _named(record: TrialRecord) -> str:
    return f"trial {record.number} ({_method(record)})"


def _why(record: TrialRecord) -> str:
    """What becomes of an interrupted trial."""
    if record.reason == INTERRUPTED:
        return "it goes on with --resume"
    return f"{_last_line(record.reason)}; it goes on from its checkpoint"


def _method(record: TrialRecord) -> str:
    return record.config.topology.method if record.config is not None else "-"


def _last_line(reason: str | None) -> str:
    lines = (reason or "").strip().splitlines()
    return lines[-1] if lines else "unknown reason"
