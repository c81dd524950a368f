"""How many clones a layer holds: by critical size, certified, and at most."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.matrix import pieces as matrices
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.parts import pieces as part_errors
from actstore.plotting.scaling import CRITERIA, FEWEST, NONE, none_row
from actstore.plotting.style import by_category, epoch_axis, plain, width_axis

Array: TypeAlias = npt.NDArray[Any]

THRESHOLD = "threshold"
#: runs whose parts fit on one figure
FEW_RUNS = 4


def clones(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    r"""Draw the number of clones against width, or against epoch for a single width.

    Three numbers: ``n_clones`` :math:`= W_{alive} / w_c` with its 90 % interval, the disjoint
    clones that were certified one by one, and the bound by principal components. Several seeds
    are averaged. Where there are no clones the mark is in the row "none".

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.clones` returned, of one setting and one threshold.
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
    return draw_one(_counts(result), "clones", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a threshold and setting; of few runs their parts one by one as well."""
    counts = _counts(result)
    if result.sizes.get(schema.RUN, 1) > FEW_RUNS or result.sizes.get(schema.EPOCH, 1) > 1:
        return counts
    return counts + part_errors(result) + matrices(result)


def columns(result: xr.Dataset) -> int:
    """Return how many panels stand side by side: one a setting."""
    return len(settings.by_setting(settings.whole(result, schema.RUN)))


def _counts(result: xr.Dataset) -> list[Piece]:
    found = settings.whole(result[_needed(result)], schema.RUN, schema.EPOCH, THRESHOLD)
    found = found.where(found["alive"] >= 0)  # -1: the run does not have this epoch
    top = 1.5 * max(4.0, float(found[["width_ratio", "component_bound"]].max().to_array().max()))
    return [
        partial(_draw, setting=setting, runs=runs.sel(threshold=threshold), top=top)
        for threshold in found[THRESHOLD].values
        for setting, runs in settings.by_setting(found)
    ]


def _needed(result: xr.Dataset) -> list[str]:
    wanted = [
        "critical_size_low", "critical_size_high", "width_ratio", "alive", "certified_clones",
        "component_bound",
    ]  # fmt: skip
    return [name for name in wanted if name in result]


def _draw(ax: Axes, setting: str, runs: xr.Dataset, top: float) -> None:
    widths = np.unique(runs["width"].values)
    over_epochs = len(widths) == 1 and runs.sizes[schema.EPOCH] > 1
    none_row(ax, top)
    if over_epochs:
        x, table = runs[schema.EPOCH].values.astype(float), runs.mean(schema.RUN)
        table["low"] = (runs["alive"] / runs["critical_size_high"]).mean(schema.RUN)
        table["high"] = (runs["alive"] / runs["critical_size_low"]).mean(schema.RUN)
        epoch_axis(ax, x)
    else:
        last = settings.last_epochs(runs, "width_ratio")
        last["low"] = last["alive"] / last["critical_size_high"]
        last["high"] = last["alive"] / last["critical_size_low"]
        table = last.groupby("width").mean()
        x = table["width"].values.astype(float)
        width_axis(ax, x)
        ax.set_xlim(x.min() / 1.4, x.max() * 1.4)
    # the marks of the three in the row "none" stand one above the other
    bound = {**by_category(6), "linestyle": ":", "none": NONE / 1.15}
    certified, counted = {**by_category(1), "none": NONE}, {**by_category(0), "none": NONE * 1.15}
    ratio = table["width_ratio"].values
    spread = np.clip([ratio - table["low"].values, table["high"].values - ratio], 0, None)
    spread[:, ~(ratio >= FEWEST)] = 0
    _line(ax, x, ratio, counted, "n_clones = W_alive / w_c")
    _line(ax, x, table["certified_clones"].values, certified, _certified(runs))
    _line(ax, x, table["component_bound"].values, bound, "bound by components")
    ax.errorbar(x, np.where(ratio >= FEWEST, ratio, np.nan), spread, ls="", capsize=2.5,
                ecolor=counted["color"])  # fmt: skip
    ax.set_ylabel("number of clones")
    said = (
        f"{CRITERIA.get(str(runs.attrs.get('criterion')), 'R²')} ≥ {plain(float(runs[THRESHOLD]))}"
    )
    entitle(ax, setting, f"W = {widths[0]}" if over_epochs else "", said)


def _line(ax: Axes, x: Array, values: Array, look: dict[str, Any], label: str) -> None:
    """Draw numbers of clones; those below two stand in the row "none"."""
    style = {k: look[k] for k in ("color", "marker")}
    shown = np.where(values >= FEWEST, values, np.nan)
    ax.plot(x, shown, ls=look["linestyle"], label=label, **style)
    none = ~(values >= FEWEST) & np.isfinite(values)
    ax.plot(x[none], np.full(none.sum(), look["none"]), ls="", ms=4, label="_none", **style)


def _certified(runs: xr.Dataset) -> str:
    if "parts" in runs.attrs:
        return f"certified of {runs.attrs['parts']} parts"
    return f"certified, {runs.attrs.get('strategy', '')} partition".replace(",  ", " ")
