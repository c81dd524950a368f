"""Curves against subset size: which runs and epochs make one curve, and how it is drawn."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.panels import entitle
from actstore.plotting.style import BAND, GREY, by_category, by_order, doubling

Array: TypeAlias = npt.NDArray[Any]

SIZE = "subset_size"
SUBSET = "subset"
#: marks are drawn on curves of no more points than this
FEW = 12


class Series(NamedTuple):
    """What one curve stands for.

    Attributes
    ----------
    label : str
    look : dict
        Colour, marker and line.
    data : Dataset
        With the dims ``run`` (the seeds), ``subset`` and ``subset_size``.
    """

    label: str
    look: dict[str, Any]
    data: xr.Dataset


class Group(NamedTuple):
    """The curves of one panel."""

    title: str
    series: list[Series]


def groups(
    result: xr.Dataset, measured: str, *, dims: tuple[str, ...] = (SUBSET, SIZE)
) -> list[Group]:
    """Return the panels of a result: one a setting, with a curve a width or an epoch.

    Settings of a single width and epoch share a panel. Where both widths and epochs are several,
    each run is shown at its last epoch.

    Parameters
    ----------
    result : Dataset
        With ``measured (run, epoch, subset, subset_size)``; a dim that was selected away is
        taken as one.
    measured : str
        The variable that says which epochs a run has.
    dims : tuple of str
        Dims of the curves.
    """
    found = settings.whole(result, schema.RUN, schema.EPOCH, *dims)
    widths = sorted(set(found["width"].values.tolist()))
    epochs = found[schema.EPOCH].values.tolist()
    if len(widths) > 1 or len(epochs) == 1:
        last = settings.last_epochs(found, measured)
        note = "" if len(epochs) == 1 else "last epoch"
        parts = settings.by_setting(last)
        if len(widths) == 1 and len(parts) > 1:
            title = f"W = {widths[0]}"
            series = [Series(s, by_category(i), runs) for i, (s, runs) in enumerate(parts)]
            return [Group(title, series)]
        looks = looks_of(widths)
        return [
            Group(", ".join(filter(None, [setting, note])), by_width(runs, looks))
            for setting, runs in parts
        ]
    looks = looks_of(epochs)
    return [
        Group(", ".join(filter(None, [setting, f"W = {widths[0]}"])), _by_epoch(runs, looks))
        for setting, runs in settings.by_setting(found)
    ]


def curve(
    ax: Axes, series: Series, name: str, *, label: str = "", band: float = BAND, **look: Any
) -> None:
    """Draw the mean over subsets and seeds, and a band of this opacity that holds 90 % of them."""
    sizes, values = _held(series, name)
    if not len(sizes):
        return
    style = {**series.look, "label": label or series.label, **look}
    if len(sizes) > FEW:
        style["marker"] = ""
    if "ls" in style:
        style.pop("linestyle")
    ax.plot(sizes, np.nanmean(values, 0), **style)
    if band and len(values) > 1:
        low, high = np.nanquantile(values, [0.05, 0.95], axis=0)
        ax.fill_between(sizes, low, high, color=style["color"], alpha=band, lw=0)


def highest(group: Group, name: str) -> float:
    """Return the upper end of the highest band of a panel."""
    ends = [
        np.nanquantile(_held(one, name)[1], 0.95, axis=0).max(initial=0) for one in group.series
    ]
    return float(max(ends))


def _held(series: Series, name: str) -> tuple[Array, Array]:
    """Return the sizes that have values, and those: ``(seed and subset, subset_size)``."""
    values = series.data[name].transpose(..., SIZE).values
    values = values.reshape(-1, values.shape[-1])
    held = np.isfinite(values).any(0)
    return series.data[SIZE].values[held].astype(float), values[:, held]


def opacity(group: Group) -> float:
    """Return the opacity of the bands: many overlap."""
    return BAND if len(group.series) <= 4 else BAND / 2


def band_entry(ax: Axes) -> None:
    """Say in the legend what the bands are."""
    ax.fill_between([], [], [], color=GREY, alpha=BAND, lw=0, label="90 % of subsets")


def size_axis(ax: Axes, group: Group) -> None:
    """Make the horizontal axis one of subset sizes."""
    sizes = np.unique([s for one in group.series for s in one.data[SIZE].values])
    doubling(ax.xaxis, sizes)
    ax.set_xlabel("subset size: neurons in the subset")


def finish(ax: Axes, group: Group, *title: str, axis: str) -> None:
    """Give a panel of curves its axes, the entry of its bands, and a title that names the curve."""
    band_entry(ax)
    size_axis(ax, group)
    ax.set_ylabel(axis)
    single = group.series[0].label if len(group.series) == 1 else ""
    entitle(ax, *title, group.title, single)


def looks_of(values: list[int]) -> dict[int, dict[str, Any]]:
    """Dark to light by value, which survives grey; a single curve has no order to show."""
    if len(values) == 1:
        return {values[0]: by_category(0)}
    return {value: by_order(i, len(values)) for i, value in enumerate(values)}


def by_width(runs: xr.Dataset, looks: dict[int, dict[str, Any]]) -> list[Series]:
    """Return a curve a width, over its seeds."""
    found = []
    for width, look in looks.items():
        places = np.flatnonzero(runs["width"].values == width)
        if places.size:
            some = runs.isel({schema.RUN: places})
            found.append(Series(f"W = {width}{_dead(some, width)}", look, some))
    return found


def _by_epoch(runs: xr.Dataset, looks: dict[int, dict[str, Any]]) -> list[Series]:
    return [Series(f"epoch {e}", look, runs.sel({schema.EPOCH: e})) for e, look in looks.items()]


def _dead(runs: xr.Dataset, width: int) -> str:
    """Name the neurons that are alive where some are not: they alone are in subsets."""
    alive = int(runs["alive"].min()) if "alive" in runs else width
    return f" ({alive} alive)" if alive < width else ""
