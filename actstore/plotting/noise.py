"""Residual correlation against subset size, beside what independent noise would give."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.series import (
    SIZE,
    Group,
    Series,
    band_entry,
    curve,
    groups,
    opacity,
    size_axis,
)
from actstore.plotting.style import BAND, GREY

MEASURED = "residual_correlation_heldout"
NULL = "matched_null"


def noise(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    r"""Draw the residual correlation of subsets, with the sampling floor and the matched null.

    A curve is the mean over subsets and seeds, its band holds 90 % of them. The dotted line is
    :math:`\sqrt{2 / (π \, dof)}`, what independent residuals show by sampling alone; the dashed
    line, where the result holds it, is the matched null: what a layer of shared signals and
    independent noise would give for the same subsets. A single curve has the paper's convention
    beside it, whose fall to zero at w = W is arithmetic.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.noise` returned, of one setting.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several settings, each with several widths or epochs: select one, or
        use :func:`actstore.plotting.figure`.
    """
    return draw_one(pieces(result), "noise", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a setting."""

    def of(group: Group) -> Piece:
        return lambda ax: _draw(ax, group)

    return [of(group) for group in groups(result, MEASURED)]


def _draw(ax: Axes, group: Group) -> None:
    single = len(group.series) == 1
    label = "neurons outside the subset" if single else ""
    for one in group.series:
        curve(
            ax,
            one,
            MEASURED,
            label="neurons outside the subset" if single else "",
            band=opacity(group),
        )
        if NULL in one.data:
            _null(ax, one)
    if single:
        faint = {"linestyle": "-.", "color": GREY, "marker": ""}
        curve(ax, group.series[0], "residual_correlation", label="all neurons (paper)", band=0,
              **faint)  # fmt: skip
    _floor(ax, group)
    band_entry(ax)
    ax.set_ylim(bottom=0)
    size_axis(ax, group)
    ax.set_ylabel("mean |correlation| of residuals")
    ax.set_title(", ".join(filter(None, [group.title, group.series[0].label if single else ""])))


def _null(ax: Axes, one: Series) -> None:
    look = {"linestyle": "--", "marker": "", "lw": 1.1}
    known = set(ax.get_legend_handles_labels()[1])
    curve(ax, one, NULL, label="_null", band=0, **look)
    label = "matched null: independent noise"
    if label not in known:
        ax.plot([], [], color=GREY, ls="--", lw=1.1, label=label)
    if f"{NULL}_low" in one.data:
        mean = one.data[[f"{NULL}_low", f"{NULL}_high"]].mean("run")
        sizes, low, high = mean[SIZE], mean[f"{NULL}_low"], mean[f"{NULL}_high"]
        ax.fill_between(sizes, low, high, color=one.look["color"], alpha=BAND, lw=0, hatch="///")


def _floor(ax: Axes, group: Group) -> None:
    """Draw the floor of the series that reaches the largest sizes: it hardly depends on width."""
    widest = max(group.series, key=lambda one: int(one.data["width"].max()))
    samples = sorted({int(n) for one in group.series for n in one.data["count"].values.ravel()})
    many = f"{samples[-1]}" if len(samples) == 1 else f"{samples[0]}…{samples[-1]}"
    look = {"linestyle": ":", "marker": "", "color": "black", "lw": 1.2, "zorder": 1}
    label = f"sampling floor, {many} samples"
    curve(ax, widest, "sampling_floor", label=label, band=0, **look)
