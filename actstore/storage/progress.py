"""How far a piece of work is, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: takes how many parts are done, and of how many
Progress: TypeAlias = Callable[[int, int], None]


class Counter:
    """Sums up what is done of a total; called with a count, it tells how far the work is.

    Parameters
    ----------
    total : int
        Of bytes, say; what is done beyond it is not told, for totals may be estimates.
    progress : callable, optional
        Is told how many are done, and of how many.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def __call__(self, count: int) -> None:
        """Add to what is done."""
        self._done = min(self._total, self._done + count)
        if self._progress is not None:
            self._progress(self._done, self._total)
