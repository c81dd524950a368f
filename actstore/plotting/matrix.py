"""The R² of each clone from each other clone, as a matrix."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.style import plain

Array: TypeAlias = npt.NDArray[Any]

NAME = "clone_to_clone_r2"


def clone_matrix(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the R² of the neurons of one part (column) from those of another (row).

    The title gives the mean and range over pairs of different parts. Colour runs from 0, or
    less, to 1; the diagonal, a part from itself, is left grey.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.clones` returned, of one run and one threshold; the last epoch is
        drawn.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several runs or thresholds: select one with ``.isel(run=…)``.
    """
    return draw_one(pieces(result), "clones", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a run and threshold, of its last epoch."""
    wanted = [n for n in (NAME, "clone_size") if n in result]
    found = settings.whole(result[wanted], schema.RUN, schema.EPOCH, "threshold")
    runs = settings.one_by_one(found, NAME)
    return [partial(_draw, one=one, setting=setting) for setting, one in runs]


def _draw(ax: Axes, one: xr.Dataset, setting: str) -> None:
    values = one[NAME].values
    count = int(np.isfinite(values).any(0).sum())
    square = values[:count, :count].copy()
    np.fill_diagonal(square, np.nan)  # a part explains itself: that is no finding
    others = square[~np.eye(count, dtype=bool)]
    width = f"W = {int(one['width'])}"
    if not others.size:
        without_image(ax, "fewer than two parts")
        entitle(ax, setting, width)
        return
    low = min(0.0, float(np.nanmin(others)))
    image_of(ax, square, "R²", low)
    ax.set_xlabel("part that is predicted")
    ax.set_ylabel("part it is predicted from")
    between = f"{np.nanmean(others):.3f} ({np.nanmin(others):.3f}…{np.nanmax(others):.3f})"
    entitle(ax, setting, width, below=f"{count} parts{_of(one, count)}, R² {between}")


def image_of(ax: Axes, square: Array, label: str, low: float = 0.0) -> None:
    """Draw a matrix whose entries go to 1; those that are NaN are grey."""
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.85")
    image = ax.imshow(square, vmin=low, vmax=1, cmap=colours, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.9)
    ax.grid(visible=False)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def without_image(ax: Axes, why: str) -> None:
    """Say in an empty panel why there is no matrix."""
    ax.text(0.5, 0.5, why, ha="center", transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])


def _of(one: xr.Dataset, count: int) -> str:
    """Name the size of the parts, or its range."""
    if "clone_size" not in one:
        return ""
    sizes = one["clone_size"].values[:count]
    ends = sorted({float(sizes.min()), float(sizes.max())})
    return f" of {'…'.join(map(plain, ends))} neurons"
