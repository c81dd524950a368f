"""Subsets of some sizes, followed over the epochs of training."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import xarray as xr
from matplotlib.axes import Axes

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.noise import CONVERGED, NULL, by_rule, dashes, null_entries
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.series import SIZE, SUBSET, looks_of
from actstore.plotting.style import epoch_axis

R2, NOISE, ERROR = "r2_heldout", "residual_correlation_heldout", "error"
FLOOR, SPLIT = "sampling_floor", "split"


class Followed(NamedTuple):
    """What is followed of subsets.

    Attributes
    ----------
    name : str
        The variable.
    axis : str
        Of the vertical axis.
    """

    name: str
    axis: str


FOLLOWED = (
    Followed(R2, "held-out R² (neurons outside)"),
    Followed(NOISE, "mean |correlation| of residuals"),
)


def followed(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the held-out R² of subsets against epoch, one curve a subset size.

    A curve is the mean over subsets and seeds. :func:`actstore.plotting.figure` draws their
    residual correlation, with the matched null dashed and the sampling floor dotted, and their
    error below, where the result holds them.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.dynamics` returned with ``subset_size``, of one setting and width.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result follows no subsets, or holds several settings or widths.
    """
    return draw_one(_of(result, FOLLOWED[0]), "dynamics", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return a row of drawings for each thing that is followed, one a setting of a single width."""
    errors = [
        piece
        for split in (result[SPLIT].values if ERROR in result and SPLIT in result.dims else ())
        for piece in _of(result.sel({SPLIT: split}), Followed(ERROR, f"{split} error of subsets"))
    ]
    return [*(piece for one in FOLLOWED for piece in _of(result, one)), *errors]


def _of(result: xr.Dataset, what: Followed) -> list[Piece]:
    if what.name not in result or SIZE not in result[what.name].dims:
        return []
    beside = [n for n in (NULL, FLOOR) if what.name == NOISE and n in result]
    told = [CONVERGED] * (NULL in beside)
    found = settings.whole(result[[what.name, *beside, *told]], schema.RUN, schema.EPOCH, SIZE)
    parts = settings.by_setting(found)
    if any(len(set(runs["width"].values.tolist())) > 1 for _, runs in parts):
        return []

    means = [runs[n].mean(_over(runs, n)) for _, runs in parts for n in (what.name, *beside)]
    highest = max((float(one.max()) for one in means if one.notnull().any()), default=1.0)
    top = 1.02 if what.name == R2 else 1.08 * highest  # one scale for all settings
    return [
        partial(_draw, setting=setting, runs=runs, what=what, top=top) for setting, runs in parts
    ]


def _over(runs: xr.Dataset, name: str) -> list[str]:
    return [dim for dim in (schema.RUN, SUBSET) if dim in runs[name].dims]


def _draw(ax: Axes, setting: str, runs: xr.Dataset, what: Followed, top: float) -> None:
    sizes = [int(size) for size in runs[SIZE].values]
    for size, look in looks_of(sizes).items():
        one = runs.sel({SIZE: size})
        mean = one[what.name].mean(_over(one, what.name))
        if not bool(mean.notnull().any()):
            continue  # of the whole layer there is nothing outside
        ax.plot(mean[schema.EPOCH], mean, **{**look, "linestyle": "-"}, label=f"subsets of {size}")
        if NULL in one:
            for number, found in enumerate(by_rule(one)):
                _thin(ax, found[NULL].mean(schema.RUN), dashes(number), look["color"])
    if NULL in runs:
        null_entries(ax, [runs])
    if FLOOR in runs:
        floor = runs[FLOOR].isel({SIZE: 0}).mean(schema.RUN)
        _thin(ax, floor, ":", "black", label="sampling floor")
    epoch_axis(ax, runs[schema.EPOCH].values)
    ax.set_ylim(min(0.0, float(ax.get_ylim()[0])) if what.name == R2 else 0, top)
    ax.set_ylabel(what.axis)
    entitle(ax, setting, f"W = {int(runs['width'].values.flat[0])}")


def _thin(ax: Axes, line: xr.DataArray, style: Any, color: Any, label: str = "_") -> None:
    ax.plot(line[schema.EPOCH], line, ls=style, color=color, lw=1.1, label=label)
