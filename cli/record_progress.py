"""Progress of a sweep on stderr: bars on a terminal, lines in a log, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from actstore.training import Progress as SweepProgress
    from actstore.training import RunPlan


@contextmanager
def shown(store: str, *, quiet: bool) -> Iterator[SweepProgress | None]:
    """Give the progress of a sweep into ``store`` to show."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif not console.is_terminal:
        yield Lines(console, store)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bars:
            yield Bars(bars, store)


class Lines:
    """A line for the sweep, and one for each run that is complete."""

    def __init__(self, console: Console, store: str) -> None:
        self._console = console
        self._store = store
        self._metrics: Mapping[str, float] = {}

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

    def epoch_recorded(self, plan: RunPlan, epoch: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics for the end."""
        self._metrics = metrics

    def run_ended(self, plan: RunPlan) -> None:
        """Say the last errors."""
        self._say(f"{plan.name}: {describe_errors(self._metrics)}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bars:
    """A bar for the sweep and one for the run that is training, with its errors."""

    def __init__(self, bars: Progress, store: str) -> None:
        self._bars = bars
        self._store = store
        self._epochs = 0
        self._sweep = bars.add_task("sweep", total=None, note="")
        self._run = bars.add_task("run", total=None, note="", visible=False)

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Say what will be trained and how much written; start the sweep's bar, in epochs."""
        text = describe_sweep(self._store, plans, skipped, n_bytes)
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._bars.update(self._sweep, total=sum(plan.epochs for plan in plans))

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Start the run's bar where its training starts."""
        self._bars.reset(
            self._run, total=plan.epochs, completed=first_epoch - 1, visible=True,
            description=f"width {plan.width}, seed {plan.seed}", note="",
        )  # fmt: skip
        self._bars.advance(self._sweep, first_epoch - 1)

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """Move both bars by an epoch."""
        self._bars.advance(self._run)
        self._bars.advance(self._sweep)

    def epoch_recorded(self, plan: RunPlan, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the errors."""
        self._bars.update(self._run, note=describe_errors(metrics))

    def run_ended(self, plan: RunPlan) -> None:
        """Leave both bars as they are: the next run resets its own."""


def describe_sweep(
    store: str, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
) -> str:
    """Return one line about what a sweep will do."""
    if not plans:
        return f"all {len(skipped)} runs are complete in {store!r}"
    runs = f"{len(plans)} run{'s' if len(plans) > 1 else ''}"
    done = f", {len(skipped)} already complete" if skipped else ""
    return f"recording {runs} into {store!r}{done}: about {describe_bytes(n_bytes)} uncompressed"


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
