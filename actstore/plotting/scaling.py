"""The number of clones against the width of the layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting import settings
from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.style import GREY, by_category, doubling, plain, width_axis

Array = npt.NDArray[Any]

NONE = 1.0  # where "none" is written on the axis of the number of clones
FEWEST = 2.0
CRITERIA = {"heldout": "held-out R²", "paper": "R² of all neurons"}


def scaling(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    r"""Draw ``n_clones`` against width, one colour a setting, for one threshold.

    Bars are the 90 % interval. The solid line is the fit :math:`n_{clones} ∝ W^a` over its
    window, the thin dotted one :math:`W / w_c` with the critical size of the widest layer that
    has clones: what a critical size that does not depend on width would give. Hollow marks have
    a training error above zero. Widths without clones are marked in the row "none".

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.scaling` returned, at one threshold.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several thresholds: select one, or use
        :func:`actstore.plotting.figure`.
    """
    return draw_one(pieces(result), "scaling", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a threshold."""
    found = settings.whole(result, "setting", "threshold")

    highest = float(found[["width_ratio", "width_ratio_high"]].max().to_array().max())
    top = 1.5 * max(4.0, highest)  # one scale for all panels
    return [
        partial(_draw, result=found.sel(threshold=threshold), top=top)
        for threshold in found["threshold"].values
    ]


def _draw(ax: Axes, result: xr.Dataset, top: float) -> None:
    names = settings.names(result, "setting")
    widths = result["width"].values.astype(float)
    width_axis(ax, widths)
    none_row(ax, top)
    marks: set[str] = set()
    fits = []
    for number, name in enumerate(names):
        one = result.isel(setting=number)
        look = by_category(number)
        shift = 2 ** (0.10 * (number - (len(names) - 1) / 2))
        marks |= _marks(ax, one, widths, look, shift)
        fits.append(_fit(ax, one, widths, look))
        label = f"{name or 'all runs'}\n{fits[-1]}"
        line = "-" if one["exponent"].notnull() else ""
        ax.plot([], [], color=look["color"], marker=look["marker"], ls=line, label=label)
    _notes(ax, result, marks)
    ax.set_xlim(widths.min() / 1.4, widths.max() * 1.4)
    ax.set_ylabel("number of clones")
    ax.set_title(_title(result, names, fits))


def none_row(ax: Axes, top: float) -> None:
    """Make the vertical axis one of numbers of clones, with a row for "none" below 2."""
    doubling(ax.yaxis)
    ax.axhspan(0.5, FEWEST, color="0.95", lw=0, zorder=0)
    ax.set_ylim(0.75, top)
    ticks = [2.0**k for k in range(1, int(np.log2(top)) + 1)]
    ax.set_yticks([NONE, *ticks], ["none", *map(plain, ticks)])


def _marks(
    ax: Axes, one: xr.Dataset, widths: Array, look: dict[str, Any], shift: float
) -> set[str]:
    """Draw the counts of one setting; return which notes the legend needs."""
    ratio = one["width_ratio"].values
    ends = np.stack([one["width_ratio_low"].values, one["width_ratio_high"].values])
    errors = one["train_error"].values if "train_error" in one else np.full(len(widths), np.nan)
    has = one["has_clones"].values.astype(bool)
    needed: set[str] = set()
    for width, value, low, high, error, clones in zip(
        widths, ratio, *ends, errors, has, strict=True
    ):
        if np.isnan(value):  # there is no run of this width
            continue
        kind = "unknown" if np.isnan(error) else "above" if error > 0 else "zero"
        face = {"unknown": "0.75", "above": "white", "zero": look["color"]}[kind]
        mark = {"marker": look["marker"], "mec": look["color"], "mfc": face, "zorder": 3}
        needed.add(kind)
        if not clones:
            ax.plot(width * shift, NONE, ls="", ms=4, clip_on=False, **mark)
            continue
        spread = [[max(value - low, 0)], [max(high - value, 0)]]
        ax.errorbar(
            width, value, spread, ls="", ecolor=look["color"], elinewidth=1, capsize=2.5, **mark
        )
        needed.add("interval")
    return needed


def _fit(ax: Axes, one: xr.Dataset, widths: Array, look: dict[str, Any]) -> str:
    """Draw the power law over its window, and W / w_c; return what was found, in words."""
    has = one["has_clones"].values.astype(bool)
    if not has.any():
        return "no clones at any width"
    widest = int(np.flatnonzero(has)[-1])
    size = widths[widest] / float(one["width_ratio"][widest])
    line = np.array([max(widths.min(), FEWEST * size), widths.max()])
    ax.plot(line, line / size, color=look["color"], ls=":", lw=1.1, zorder=1)
    low, high = float(one["window_low"]), float(one["window_high"])
    exponent = float(one["exponent"])
    if np.isnan(exponent):
        return f"clones at {has.sum()} of {(one['width_ratio'] > 0).sum():d} widths: no fit"
    ratio = one["width_ratio"].values
    inside = (widths >= low) & (widths <= high) & np.isfinite(ratio)
    # least squares pass through the centre of the points, so the exponent gives the whole line
    centre = np.log(ratio[inside]).mean() - exponent * np.log(widths[inside]).mean()
    ends = np.array([widths[inside].min(), widths[inside].max()])
    ax.plot(ends, np.exp(centre) * ends**exponent, color=look["color"], ls="-", lw=1.6, zorder=2)
    interval = f"{float(one['exponent_low']):.2f}…{float(one['exponent_high']):.2f}"
    bend = float(one["critical_width"]) if "critical_width" in one else np.nan
    said = f"n_clones ~ width^{exponent:.2f} ({interval})\nwidths {plain(low)}…{plain(high)}"
    return said if np.isnan(bend) else f"{said}, critical width {bend:.3g}"


def _notes(ax: Axes, result: xr.Dataset, needed: set[str]) -> None:
    """Give the legend its entries for what is the same in every setting."""
    if result["has_clones"].any():
        ax.plot(
            [],
            [],
            color=GREY,
            ls=":",
            lw=1.1,
            label="proportional to width: W / w_c\nwith w_c of the widest layer",
        )
    if "interval" in needed:
        seeds = int(result["seeds"].max()) if "seeds" in result else 1
        over = "subsets (one seed)" if seeds == 1 else "seeds and subsets"
        ax.errorbar([], [], [], ecolor=GREY, ls="", capsize=2.5, label=f"90 % interval over {over}")
    for kind, face, label in (
        ("above", "white", "train error > 0"),
        ("unknown", "0.75", "train error not recorded"),
    ):
        if kind in needed:
            ax.plot([], [], ls="", marker="o", mec=GREY, mfc=face, label=label)


def _title(result: xr.Dataset, names: list[str], fits: list[str]) -> str:
    criterion = CRITERIA.get(str(result.attrs.get("criterion")), "R²")
    said = f"{criterion} ≥ {plain(float(result['threshold']))}"
    if len(names) > 1:
        return said
    found = fits[0].replace("\n", ", ")
    return f"{names[0]}, {said}\n{found}" if names[0] else f"{said}\n{found}"
