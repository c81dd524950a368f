"""R² of the layer against the size of the subset that it is reconstructed from."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.series import Group, curve, finish, groups, opacity
from actstore.plotting.style import GREY, plain

VARIABLES = {"heldout": "r2_heldout", "paper": "r2"}
NAMES = {"heldout": "held-out R² (neurons outside)", "paper": "R² of all neurons (paper)"}

Criterion = Literal["heldout", "paper"]


def reconstruction(
    result: xr.Dataset,
    *,
    ax: Axes | None = None,
    criterion: Criterion = "heldout",
    threshold: float | None = 0.95,
) -> Axes:
    """Draw R² against subset size, one curve a width, an epoch or a setting.

    A curve is the mean over subsets and seeds, its band holds 90 % of them. A single curve has
    the other convention of R² beside it, dashed.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.reconstruction` returned, of one setting.
    ax : Axes, optional
        Where to draw; by default on a new figure.
    criterion : "heldout" or "paper"
        R² of the neurons outside the subset, or of all neurons.
    threshold : float, optional
        Where to draw the R² that makes a clone; None draws no line.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several settings, each with several widths or epochs: select one, or
        use :func:`actstore.plotting.figure`.
    """
    found = pieces(result, criterion=criterion, threshold=threshold)
    return draw_one(found, "reconstruction", ax)


def pieces(
    result: xr.Dataset, *, criterion: Criterion = "heldout", threshold: float | None = 0.95
) -> list[Piece]:
    """Return one drawing a setting."""
    return [
        partial(_draw, group=group, criterion=criterion, threshold=threshold)
        for group in groups(result, "r2")
    ]


def _draw(ax: Axes, group: Group, criterion: Criterion, threshold: float | None) -> None:
    single = len(group.series) == 1
    label = NAMES[criterion] if single else ""
    for one in group.series:
        curve(ax, one, VARIABLES[criterion], label=label, band=opacity(group))
    if single:
        other: Criterion = "paper" if criterion == "heldout" else "heldout"
        faint = {"linestyle": "--", "color": GREY, "marker": "", "lw": 1.1}
        curve(ax, group.series[0], VARIABLES[other], label=NAMES[other], band=0, **faint)
    if threshold is not None:
        said = f"R² = {plain(threshold)}"
        ax.axhline(threshold, color="black", ls=":", lw=1, label=said, zorder=1)
    lowest = min(float(np.min(line.get_ydata())) for line in ax.lines)
    ax.set_ylim(min(0.0, max(lowest, -0.5)) - 0.02, 1.02)
    finish(ax, group, axis="R²" if single else NAMES[criterion])
