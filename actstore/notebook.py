"""Answers in a notebook: ``answer.actstore.plot()``, and a bar while they are computed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dask
import xarray as xr
from dask.diagnostics.progress import ProgressBar
from dask.utils import format_time

from actstore.errors import InvalidParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@xr.register_dataset_accessor("actstore")
class Answer:
    """What actstore adds to a dataset that one of its questions returned.

    Parameters
    ----------
    answer : Dataset
    """

    def __init__(self, answer: xr.Dataset) -> None:
        self._answer = answer

    def plot(self, *, ax: Axes | None = None) -> Figure | Axes:
        """Draw the answer, or what ``.sel()`` has left of it.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw an answer of a single panel; by default all panels are drawn on a new
            figure, which a notebook shows.

        Returns
        -------
        Figure or Axes
            The axes if they were given.

        Raises
        ------
        InvalidParameterError
            If the dataset is no answer of actstore, or has no figure, or needs several axes.
        """
        question = self._answer.attrs.get("query")
        if question is None:
            raise InvalidParameterError(
                "a dataset that no question of actstore returned was to be drawn; "
                "draw a variable of it with .plot() of xarray"
            )
        from actstore import plotting
        from actstore.plotting.figure import DRAWINGS

        if ax is None or question not in DRAWINGS:  # which says what there are figures of
            return plotting.figure(question, self._answer)
        drawn: Axes = getattr(plotting, question)(self._answer, ax=ax)
        return drawn


class Bar(ProgressBar):
    """The bar of dask, with the time that is left if the rest goes as fast."""

    def _draw_bar(self, frac: float, elapsed: float) -> None:
        super()._draw_bar(frac, elapsed)
        left = f" | about {format_time(elapsed / frac - elapsed)} left" if 0 < frac < 1 else ""
        with suppress(ValueError):  # whoever printed there may have closed it
            if self._file is not None:
                self._file.write(f"{left:<25}")  # over what stood there before
                self._file.flush()


@contextmanager
def progress() -> Iterator[None]:
    """Show a bar while answers are computed, by threads here or by a cluster.

    It says how much is done, for how long, and about how long it still takes. A
    :class:`distributed.Client`, if there is one, is asked for its own bar.

    Returns
    -------
    context manager
        The bar is shown by ``.compute()``, ``.load()`` and ``.plot()`` within it.

    Raises
    ------
    ActstoreError
        What the answer itself raises when it is computed.

    Examples
    --------
    ::

        with actstore.progress():
            answer = actstore.open("digits.zarr").scaling().compute()
    """
    client = _client()
    if client is None:
        with Bar():
            yield
        return

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        from distributed import progress as bar

        futures = client.get(graph, keys, sync=False, **options)
        bar(futures)
        return client.gather(futures)

    with dask.config.set(scheduler=get):
        yield


def _client() -> Any:
    """Return the client that dask would send work to, if there is one."""
    if "distributed" not in sys.modules:  # nobody can have made one
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None
