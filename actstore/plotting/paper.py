"""The panels of the paper's main figure, from one's own runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from actstore.errors import InvalidParameterError
from actstore.plotting import settings
from actstore.plotting.error import on_split
from actstore.plotting.error import pieces as errors
from actstore.plotting.noise import pieces as noise
from actstore.plotting.panels import Piece
from actstore.plotting.reconstruction import pieces as reconstruction
from actstore.plotting.scaling import pieces as scaling
from actstore.plotting.style import STYLE, legend_of, legend_right, made_from
from actstore.plotting.width_error import pieces as width_error

#: the queries whose answers the figure is made of
QUESTIONS = ("reconstruction", "noise", "error", "scaling")


def paper(answers: Mapping[str, xr.Dataset]) -> Figure:
    """Draw R², residual correlation and error of subsets, and clones and error against width.

    A column is a setting of the hyper-parameters. The rows are those of figure 2 of the paper;
    below, over all settings, the number of clones against width and the error of whole networks.

    Parameters
    ----------
    answers : mapping
        The answers of :func:`actstore.reconstruction`, :func:`actstore.noise`,
        :func:`actstore.error` and :func:`actstore.scaling`, under these names, of the same runs.

    Returns
    -------
    Figure

    Raises
    ------
    InvalidParameterError
        If an answer is missing.

    References
    ----------
    arXiv 2106.03485, figure 2 and section 3.
    """
    missing = [name for name in QUESTIONS if name not in answers]
    if missing:
        raise InvalidParameterError(
            f"the figure of the paper was asked for without {', '.join(missing)}; "
            f"give the answers of {', '.join(QUESTIONS)}"
        )
    on_test = on_split(answers["error"], "test")
    growth = answers["scaling"]
    clone = {
        "criterion": growth.attrs.get("criterion", "heldout"),
        "threshold": float(np.ravel(growth["threshold"])[0]),
    }
    r2 = reconstruction(answers["reconstruction"], **clone)
    rows = [r2, noise(answers["noise"]), errors(on_test)]
    columns = len(settings.by_setting(settings.whole(answers["reconstruction"], "run")))
    below = [*scaling(growth), *width_error(growth)]
    with mpl.rc_context(STYLE):
        high = [3.0 * len(rows), 3.2 * len(below)]
        whole = Figure((max(4.0 * columns + 2.0, 8.6), sum(high) + 0.3), layout="constrained")
        parts: Any = whole.subfigures(2, 1, height_ratios=high)
        top, bottom = parts
        grid = top.subplots(len(rows), columns, squeeze=False, sharey="row")
        for axes, pieces in zip(grid, rows, strict=True):
            _row(list(axes), pieces)
        legend_of(top, grid.ravel().tolist())
        for ax, piece in zip(
            bottom.subplots(len(below), 1, squeeze=False).ravel(), below, strict=True
        ):
            piece(ax)
            legend_right(ax)
        made_from(whole, "What subsets of the layer carry", growth)
    return whole


def _row(axes: list[mpl.axes.Axes], pieces: list[Piece]) -> None:
    """Draw a panel a setting; a single panel of all settings takes the first place."""
    for place, ax in enumerate(axes):
        if place < len(pieces):
            pieces[place](ax)
            ax.yaxis.label.set_visible(place == 0)
        else:
            ax.remove()
