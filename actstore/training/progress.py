"""How a sweep tells what it does: the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from actstore.training.sweep import RunPlan


class Progress(Protocol):
    """Told of each step of a sweep."""

    def sweep_started(
        self, plans: Sequence[RunPlan], skipped: Sequence[RunPlan], n_bytes: int
    ) -> None:
        """Before anything trains: the runs to train, those already complete, bytes to write."""

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        """Before the first epoch of a run; ``first_epoch`` is above 1 when it is resumed."""

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        """After each epoch of the training."""

    def epoch_recorded(self, plan: RunPlan, epoch: int, metrics: Mapping[str, float]) -> None:
        """After each recorded epoch, with loss and error of each split."""

    def run_ended(self, plan: RunPlan) -> None:
        """After a run is complete in the store."""


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

    def epoch_recorded(self, plan: RunPlan, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def run_ended(self, plan: RunPlan) -> None:
        """Show nothing."""
