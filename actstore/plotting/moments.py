"""How much each neuron of a layer varies, and which of them vary together."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.matrix import image_of, without_image
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.series import FEW, Series, by_width, looks_of
from actstore.plotting.style import doubling, from_zero

Array: TypeAlias = npt.NDArray[Any]

DEVIATION, ALIVE = "deviation", "is_alive"


def moments(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the standard deviation of each neuron, from the largest on, one curve a width.

    Runs are shown at their last epoch; several seeds are averaged, the first neurons of each, and
    so on. Dead neurons are at zero, and are counted in the legend.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.moments` returned, of one setting.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several settings: select one, or use
        :func:`actstore.plotting.figure`.
    """
    return draw_one(_deviations(_last(result)), "moments", ax)


def correlations(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the absolute correlation of every two alive neurons, like ones beside each other.

    Of the first seed of the widest network, at its last epoch. The order is that of the leaves of
    a hierarchical clustering: average linkage of 1 - absolute correlation. The diagonal is grey.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.moments` returned, of one setting.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several settings.
    """
    return draw_one(_matrices(_last(result)), "moments", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return two drawings a setting: how much neurons vary, and which vary together."""
    last = _last(result)
    return _deviations(last) + _matrices(last)


def columns(result: xr.Dataset) -> int:
    """Return how many panels stand side by side: one a setting."""
    return len(settings.by_setting(settings.whole(result[["count"]], schema.RUN)))


def _last(result: xr.Dataset) -> xr.Dataset:
    found = settings.whole(result[["count", "comoment", ALIVE]], schema.RUN, schema.EPOCH)
    found["count"] = found["count"].where(found["count"] > 0)  # else the run has not this epoch
    return settings.last_epochs(found, "count").transpose(schema.RUN, schema.NEURON, ...)


def _deviations(last: xr.Dataset) -> list[Piece]:
    dims = (schema.RUN, schema.NEURON)
    variances = np.diagonal(last["comoment"].values, axis1=1, axis2=2)
    deviations = np.sqrt(np.clip(variances / (last["count"].values[:, None] - 1), 0, None))
    found = last[["count"]].assign(
        {DEVIATION: (dims, -np.sort(-deviations, axis=1)), "alive": last[ALIVE].sum(schema.NEURON)}
    )
    looks = looks_of(sorted(set(found["width"].values.tolist())))
    top = 1.05 * float(np.nanmax(deviations))
    return [
        partial(_draw, setting=setting, series=by_width(runs, looks), top=top)
        for setting, runs in settings.by_setting(found)
    ]


def _draw(ax: Axes, setting: str, series: list[Series], top: float) -> None:
    for one in series:
        values = one.data[DEVIATION].mean(schema.RUN).dropna(schema.NEURON).values
        numbers = np.arange(1, len(values) + 1)
        ax.plot(numbers, values, **one.look, ms=4, label=one.label,
                markevery=max(1, len(numbers) // FEW))  # fmt: skip
    doubling(ax.xaxis)
    ax.set_xlim(0.9, 1.15 * max(int(one.data["width"].max()) for one in series))
    from_zero(ax, top)
    ax.set_xlabel("neuron, from the largest deviation on")
    ax.set_ylabel("standard deviation")
    entitle(ax, setting, series[0].label if len(series) == 1 else "")


def _matrices(last: xr.Dataset) -> list[Piece]:
    return [
        partial(_draw_matrix, setting=setting, one=runs.isel({schema.RUN: _widest(runs)}))
        for setting, runs in settings.by_setting(last)
    ]


def _widest(runs: xr.Dataset) -> int:
    order = np.lexsort((runs["seed"].values, -runs["width"].values))
    return int(order[0])


def _draw_matrix(ax: Axes, setting: str, one: xr.Dataset) -> None:
    alive = np.flatnonzero(one[ALIVE].values)
    whose = f"W = {int(one['width'])}"
    if len(alive) < 2:
        without_image(ax, "fewer than two alive neurons")
        entitle(ax, setting, whose)
        return
    comoment = one["comoment"].values[np.ix_(alive, alive)]
    deviations = np.sqrt(np.diagonal(comoment))
    found = np.abs(comoment / np.outer(deviations, deviations))
    order = _alike(found)
    found = found[np.ix_(order, order)]
    np.fill_diagonal(found, np.nan)  # a neuron is like itself: that is no finding
    image_of(ax, found, "|correlation|")
    ax.set_xlabel("neuron, like ones together")
    ax.set_ylabel("neuron, in the same order")
    mean = f"mean |correlation| {np.nanmean(found):.3f}"
    entitle(ax, setting, whose, below=f"{len(alive)} alive neurons, {mean}")


def _alike(found: Array) -> Array:
    """Return an order of the neurons in which those that vary together are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    apart = np.clip(1 - found, 0, None)
    np.fill_diagonal(apart, 0)
    return np.asarray(leaves_list(linkage(squareform(apart, checks=False), "average")))
