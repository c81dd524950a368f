"""How a sweep tells what it does: the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from actstore.training.plan import RunPlan


@dataclass(frozen=True)
class RecordedEpoch:
    """What is known of an epoch when it has been recorded.

    Parameters
    ----------
    epoch
        Completed passes over the training set.
    metrics
        Loss and error of each split.
    n_bytes
        Bytes of the run in the store so far, as they lie on the disk.
    n_clones
        Alive neurons ÷ critical size, from a few samples (see ``CloneCount``); below 2 there
        are no clones. None where it was not counted.
    """

    epoch: int
    metrics: Mapping[str, float]
    n_bytes: int
    n_clones: float | None


class Progress(Protocol):
    """Told of each step of a sweep; steps of runs that train at the same time are mixed."""

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Before anything trains: the runs to train, those already complete, bytes to write."""

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Before the first epoch of a run; ``first_epoch`` is above 1 when it is resumed."""

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """After each epoch of the training."""

    def epoch_recorded(self, plan: RunPlan, recorded: RecordedEpoch) -> None:
        """After each recorded epoch."""

    def run_ended(self, plan: RunPlan, n_bytes: int) -> None:
        """After a run is complete in the store, with its bytes there."""


class Silent:
    """Shows nothing; a base for a progress that shows some of the steps."""

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Show nothing."""

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Show nothing."""

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """Show nothing."""

    def epoch_recorded(self, plan: RunPlan, recorded: RecordedEpoch) -> None:
        """Show nothing."""

    def run_ended(self, plan: RunPlan, n_bytes: int) -> None:
        """Show nothing."""
