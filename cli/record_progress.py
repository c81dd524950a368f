"""Progress of a sweep on stderr: bars on a terminal, lines in a log, JSON, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .output import as_json

if TYPE_CHECKING:
    from actstore.training import Progress as SweepProgress
    from actstore.training import RecordedEpoch, RunPlan


@contextmanager
def shown(store: str, *, quiet: bool, log_format: str = "text") -> Iterator[SweepProgress | None]:
    """Give the progress of a sweep into ``store`` to show."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif log_format == "json":
        yield JsonLines(console, store)
    elif not console.is_terminal:
        yield Lines(console, store)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bars:
            yield Bars(bars, store)


class Lines:
    """A line for the sweep, and one for each run that is complete."""

    counts_clones = False

    def __init__(self, console: Console, store: str) -> None:
        self._console = console
        self._store = store
        self._last: dict[str, RecordedEpoch] = {}

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Say what will be trained and how much written."""
        self._say(describe_sweep(self._store, plans, skipped, n_bytes))

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Say where a resumed run goes on."""
        if first_epoch > 1:
            self._say(f"{plan.name}: resumed at epoch {first_epoch}")

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """Say nothing."""

    def epoch_recorded(self, plan: RunPlan, recorded: RecordedEpoch) -> None:
        """Keep the metrics for the end."""
        self._last[plan.name] = recorded

    def run_ended(self, plan: RunPlan, n_bytes: int) -> None:
        """Say the last errors and the bytes."""
        last = self._last.pop(plan.name, None)
        errors = f"{describe_errors(last.metrics)}, " if last is not None else ""
        early = last is not None and last.epoch < plan.epochs
        ended = f"ended at epoch {last.epoch}, " if early and last is not None else ""
        self._say(f"{plan.name}: {ended}{errors}{describe_bytes(n_bytes)}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class JsonLines:
    """A line of JSON for every step, for programs that watch a sweep."""

    counts_clones = True

    def __init__(self, console: Console, store: str) -> None:
        self._file = console.file
        self._store = store

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Write the runs to train and the bytes that they will take, uncompressed."""
        self._write(
            "sweep_started",
            store=self._store,
            runs=[plan.name for plan in plans],
            skipped=[plan.name for plan in skipped],
            estimated_bytes=n_bytes,
        )

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Write the run with its settings."""
        self._write(
            "run_started",
            **_run(plan),
            first_epoch=first_epoch,
            epochs=plan.epochs,
            hyper_parameters=dict(plan.hyper_parameters),
        )

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """Write nothing: tens of thousands of lines would say only that time passes."""

    def epoch_recorded(self, plan: RunPlan, recorded: RecordedEpoch) -> None:
        """Write the metrics, the number of clones and the bytes so far."""
        self._write(
            "epoch_recorded",
            **_run(plan),
            epoch=recorded.epoch,
            **recorded.metrics,
            n_clones=None if (recorded.n_clones or 0.0) < 2 else recorded.n_clones,  # none below 2
            bytes=recorded.n_bytes,
        )

    def run_ended(self, plan: RunPlan, n_bytes: int) -> None:
        """Write that the run is complete."""
        self._write("run_ended", **_run(plan), bytes=n_bytes)

    def _write(self, event: str, **facts: Any) -> None:
        line = {"event": event, "time": round(time.time(), 3), **facts}
        self._file.write(as_json(line) + "\n")
        self._file.flush()


class Bars:
    """A bar for the sweep, in epochs, and one for each run that is training."""

    counts_clones = True

    def __init__(self, bars: Progress, store: str) -> None:
        self._bars = bars
        self._store = store
        self._sweep = bars.add_task("sweep", total=None, note="")
        self._runs: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._bytes: dict[str, int] = {}

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Say what will be trained and how much written; start the sweep's bar, in epochs."""
        text = describe_sweep(self._store, plans, skipped, n_bytes)
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._bars.update(self._sweep, total=sum(plan.epochs for plan in plans))

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Start a bar for the run where its training starts."""
        self._runs[plan.name] = self._bars.add_task(
            f"width {plan.width}, seed {plan.seed}", total=plan.epochs, note=""
        )
        self._reach(plan, first_epoch - 1)

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """Move both bars by an epoch."""
        self._reach(plan, epoch)

    def epoch_recorded(self, plan: RunPlan, recorded: RecordedEpoch) -> None:
        """Show errors and clones of the run, and the bytes of the sweep."""
        errors = describe_errors(recorded.metrics)
        note = ", ".join(filter(None, (errors, describe_clones(recorded.n_clones))))
        self._bars.update(self._runs[plan.name], note=note)
        self._wrote(plan, recorded.n_bytes)

    def run_ended(self, plan: RunPlan, n_bytes: int) -> None:
        """Take the run's bar away; one that ended early has no epochs left to wait for."""
        self._reach(plan, plan.epochs)
        self._wrote(plan, n_bytes)
        self._bars.remove_task(self._runs.pop(plan.name))

    def _reach(self, plan: RunPlan, epoch: int) -> None:
        self._bars.update(self._runs[plan.name], completed=epoch)
        self._done[plan.name] = epoch
        self._bars.update(self._sweep, completed=sum(self._done.values()))

    def _wrote(self, plan: RunPlan, n_bytes: int) -> None:
        self._bytes[plan.name] = n_bytes
        note = f"{describe_bytes(sum(self._bytes.values()))} written"
        self._bars.update(self._sweep, note=note)


def _run(plan: RunPlan) -> dict[str, Any]:
    return {"run": plan.name, "width": plan.width, "seed": plan.seed}


def describe_sweep(
    store: str, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
) -> str:
    """Return one line about what a sweep will do."""
    if not plans:
        return f"all {len(skipped)} runs are complete in {store!r}"
    runs = f"{len(plans)} run{'s' if len(plans) > 1 else ''}"
    done = f", {len(skipped)} already complete" if skipped else ""
    return f"recording {runs} into {store!r}{done}: about {describe_bytes(n_bytes)} uncompressed"


def describe_clones(n_clones: float | None) -> str:
    """Return a number of clones for reading: below two there are none.

    Examples
    --------
    >>> describe_clones(8.17), describe_clones(1.3)
    ('about 8.2 clones', 'no clones')
    """
    if n_clones is None:
        return ""
    return f"about {n_clones:.1f} clones" if n_clones >= 2 else "no clones"


def describe_bytes(count: int) -> str:
    """Return a number of bytes for reading.

    Examples
    --------
    >>> describe_bytes(18_401_280)
    '18.4 MB'
    """
    amount, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if amount < 100 else f"{amount:.0f} {unit}"


def describe_errors(metrics: Mapping[str, float]) -> str:
    """Return the errors among the metrics, for reading.

    Examples
    --------
    >>> describe_errors({"train_error": 0.0, "test_error": 0.0125, "test_loss": 1.0})
    'train error 0.0000, test error 0.0125'
    """
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in metrics.items()
        if name.endswith("_error")
    )
