"""Error of whole networks against their width."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting import settings
from actstore.plotting.law import determined, draw_law, in_words
from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.style import GREY, by_category, from_zero, width_axis

LINES = {"test_error": "-", "train_error": "--"}


def width_error(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    r"""Draw training and test error of whole networks against width, one colour a setting.

    The dotted line is the fit :math:`error_{inf} + a W^{-γ}` over its window, drawn where the
    widths determine γ; the legend says so where they do not.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.scaling` returned.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes
    """
    return draw_one(pieces(result), "scaling", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return the one drawing."""
    wanted = [name for name in (*LINES, *_LAW) if name in result]
    found = settings.whole(result[wanted], "setting")
    return [partial(_draw, found=found)]


_LAW = ("gamma", "gamma_low", "gamma_high", "error_inf", "gamma_window_low", "gamma_window_high")


def _draw(ax: Axes, found: xr.Dataset) -> None:
    widths = found["width"].values.astype(float)
    known = [name for name in LINES if name in found]
    for number, setting in enumerate(settings.names(found, "setting")):
        one, look = found.isel(setting=number), by_category(number)
        for name in known:
            values = one[name].values
            held = np.isfinite(values)
            marker = look["marker"] if name == "test_error" else ""
            ax.plot(widths[held], values[held], color=look["color"], marker=marker, ls=LINES[name])
        label = "\n".join(filter(None, [setting or "all runs", _law(ax, one, widths, number)]))
        ax.plot([], [], color=look["color"], marker=look["marker"], ls="", label=label)
    for name in known:
        ax.plot([], [], color=GREY, ls=LINES[name], label=name.replace("_", " "))
    width_axis(ax, widths)
    from_zero(ax)
    ax.set_ylabel("error")
    ax.set_title("error of whole networks")


def _law(ax: Axes, one: xr.Dataset, widths: np.ndarray, number: int) -> str:
    """Draw the fit of the test error; return its exponent in words."""
    if not all(name in one for name in ("test_error", *_LAW)):
        return ""
    gamma, low, high, left, first, last = (float(one[name]) for name in _LAW)
    errors = one["test_error"].values
    inside = np.isfinite(errors) & (errors > 0) & (widths >= first) & (widths <= last)
    if determined(gamma, low, high):
        color = by_category(number)["color"]
        draw_law(ax, widths[inside], errors[inside], gamma, left, excess=False, color=color,
                 ls=":", lw=1.1)  # fmt: skip
    said = in_words(gamma, low, high, (first, last)).replace("sizes", "widths")
    return f"{said}\nerror_inf {left:.4f}" if determined(gamma, low, high) else said
