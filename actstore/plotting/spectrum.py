"""Eigenvalues of a layer's covariance."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.series import Group, Series, groups
from actstore.plotting.style import decades, doubling, plain

COMPONENT = "component"
FRACTION = "fraction"
#: shares of the variance below this are not shown
LEAST = 1e-6


def spectrum(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the share of the variance in each principal component, one curve a width or epoch.

    The legend gives the effective rank, and the components needed for the first of the fractions
    asked for. Several seeds are averaged.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.spectrum` returned, of one setting.
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
    return draw_one(pieces(result), "spectrum", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a setting."""
    found = groups(result, "eigenvalue", dims=(COMPONENT,))
    return [partial(_draw, group=group) for group in found]


def _draw(ax: Axes, group: Group) -> None:
    largest = 1.0
    for one in group.series:
        values = one.data["eigenvalue"]
        share = (values / values.sum(COMPONENT)).mean("run").values
        held = share >= LEAST
        numbers = one.data[COMPONENT].values[held].astype(float)
        largest = max(largest, numbers.max(initial=1.0))
        ax.plot(numbers, share[held], **one.look, ms=4, label=_label(one),
                markevery=max(1, len(numbers) // 12))  # fmt: skip
    doubling(ax.xaxis)
    ax.set_xlim(0.9, 1.15 * largest)
    decades(ax.yaxis)
    ax.set_xlabel("principal component")
    ax.set_ylabel("share of the variance")
    ax.set_title(group.title)


def _label(one: Series) -> str:
    found = [f"{one.label}: effective rank {float(one.data['effective_rank'].mean()):.1f}"]
    if "components_needed" in one.data:
        needed = one.data["components_needed"].mean("run")
        needed = needed.isel({FRACTION: 0}) if FRACTION in needed.dims else needed
        share = float(needed[FRACTION]) if FRACTION in needed.coords else np.nan
        many = plain(round(float(needed), 1))
        found.append(f"{plain(round(100 * share, 6))} % of the variance in {many} components")
    return ",\n".join(found)
