"""Clones and errors against the epoch of training."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.followed import pieces as followed
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.scaling import CRITERIA, FEWEST, NONE, none_row
from actstore.plotting.series import Group, by_width, looks_of
from actstore.plotting.style import GREY, epoch_axis, error_axis, plain

Array: TypeAlias = npt.NDArray[Any]

THRESHOLD = "threshold"
ERRORS = {"train_error": "-", "test_error": "--"}


def dynamics(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the number of clones against epoch, one curve a width, for one setting and threshold.

    A triangle above the axes marks the first of the epochs shown by which the train error of
    every seed has been zero, in the colour of the width. Several seeds are averaged. Epochs
    without clones are in the row "none".

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.dynamics` returned, of one setting and one threshold.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several settings or thresholds: select one, or use
        :func:`actstore.plotting.figure`.
    """
    return draw_one(_clones(result), "dynamics", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return the errors of each setting, the clones of each threshold, and subsets as followed."""
    return [*_errors(result), *_clones(result), *followed(result)]


def columns(result: xr.Dataset) -> int:
    """Return how many panels stand side by side: one a setting."""
    return len(settings.by_setting(settings.whole(result[["alive"]], schema.RUN)))


def _groups(result: xr.Dataset, names: list[str]) -> list[Group]:
    """Return one panel a setting, with a curve a width."""
    found = settings.whole(result[names], schema.RUN, schema.EPOCH)
    widths = sorted(set(found["width"].values.tolist()))
    looks = looks_of(widths)
    return [
        Group(
            setting,
            by_width(runs, looks),
        )
        for setting, runs in settings.by_setting(found)
    ]


def _errors(result: xr.Dataset) -> list[Piece]:
    known = [name for name in ERRORS if name in result]
    if not known:
        return []
    found = _groups(result, known)
    means = [mean.values for group in found for mean in _means(group, known)]
    together = np.concatenate([np.ravel(one) for one in means])  # one scale for all settings
    return [partial(_draw_errors, group=group, known=known, errors=together) for group in found]


def _clones(result: xr.Dataset) -> list[Piece]:
    known = ["width_ratio", *[n for n in ("interpolation_epoch",) if n in result]]
    found = settings.whole(result[known], schema.RUN, schema.EPOCH, THRESHOLD)
    top = 1.5 * max(4.0, float(found["width_ratio"].max()))
    criterion = CRITERIA.get(str(result.attrs.get("criterion")), "R²")
    return [
        partial(_draw_clones, group=group, said=f"{criterion} ≥ {plain(float(threshold))}", top=top)
        for threshold in found[THRESHOLD].values
        for group in _groups(found.sel({THRESHOLD: threshold}), known)
    ]


def _means(group: Group, known: list[str]) -> list[xr.DataArray]:
    return [one.data[name].mean(schema.RUN) for one in group.series for name in known]


def _draw_errors(ax: Axes, group: Group, known: list[str], errors: Array) -> None:
    for one in group.series:
        for name in known:
            mean = one.data[name].mean(schema.RUN)
            look: dict[str, Any] = {**one.look, "linestyle": ERRORS[name], "ms": 4}
            look["label"] = one.label if name == known[0] else "_"
            if name == "test_error":
                look["marker"] = ""
            ax.plot(mean[schema.EPOCH], mean, **look)
    for name in known:
        label = name.replace("_", " ")
        ax.plot([], [], color=GREY, ls=ERRORS[name], lw=1.1, label=label)
    error_axis(ax.yaxis, errors)
    epoch_axis(ax, [e for one in group.series for e in one.data[schema.EPOCH].values])
    ax.set_ylabel("error")
    entitle(ax, group.title, "error")


def _draw_clones(ax: Axes, group: Group, said: str, top: float) -> None:
    none_row(ax, top)
    for number, one in enumerate(group.series):
        ratio = one.data["width_ratio"].mean(schema.RUN)
        epochs, values = ratio[schema.EPOCH].values.astype(float), ratio.values
        ax.plot(epochs, np.where(values >= FEWEST, values, np.nan), **one.look, label=one.label)
        none = np.isfinite(values) & ~(values >= FEWEST)
        # one above the other, so that no width hides another
        row = NONE * 1.25 ** ((number + 0.5) / len(group.series) - 0.5)
        look = {**one.look, "linestyle": "", "ms": 3.5, "label": "_"}
        ax.plot(epochs[none], np.full(none.sum(), row), **look)
    _interpolation(ax, group)
    epoch_axis(ax, [e for one in group.series for e in one.data[schema.EPOCH].values])
    ax.set_ylabel("number of clones")
    entitle(ax, group.title, said)


def _interpolation(ax: Axes, group: Group) -> None:
    """Mark the epoch by which every seed has had no train error, widths below one another."""
    marked: list[float] = []
    for one in group.series:
        if "interpolation_epoch" not in one.data:
            continue
        first = float(one.data["interpolation_epoch"].max(schema.RUN, skipna=False))
        if np.isnan(first):  # of a seed at least: the mean of the others would mark too much
            continue
        height = 0.98 - 0.035 * marked.count(first)
        marked.append(first)
        ax.plot(first, height, marker="v", ms=5, ls="", color=one.look["color"],
                transform=ax.get_xaxis_transform(), clip_on=False)  # fmt: skip
        if len(group.series) == 1:
            ax.axvline(first, color=GREY, ls=":", lw=1)
    if marked:
        several = any(one.data.sizes[schema.RUN] > 1 for one in group.series)
        label = (
            f"zero train error reached{' by all seeds' if several else ''}\n(of the epochs shown)"
        )
        ax.plot([], [], marker="v", ls="", color=GREY, label=label)
