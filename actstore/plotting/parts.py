"""The error of each part of a partition under the trained readout."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from actstore import schema
from actstore.plotting import settings
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.style import GREY, by_category

PREFIX = "clone_error_"
#: the look of a split: not that of the numbers of clones, which share a legend with it
SPLITS = {"test": 2, "train": 3}


def clone_errors(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the error of each part under the trained readout, neither refitted nor rescaled.

    Full marks are clones by the criterion of the result, hollow ones parts that fall short of
    it. The title gives the mean over parts on each split.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.clones` returned, of one run and one threshold, at its last epoch.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several runs or thresholds, or no errors (a store without readouts).
    """
    return draw_one(pieces(result), "clones", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a run and threshold, of its last epoch; none without errors."""
    known = sorted(str(name) for name in result if str(name).startswith(PREFIX))
    if not known:
        return []
    found = settings.whole(
        result[[*known, "is_clone"]], schema.RUN, schema.EPOCH, "threshold", "clone"
    )
    runs = settings.one_by_one(found, known[0])
    highest = max(float(one[name].max()) for _, one in runs for name in known) or 1.0
    return [
        partial(_draw, one=one, setting=setting, known=known, highest=highest)
        for setting, one in runs
    ]


def _draw(ax: Axes, one: xr.Dataset, setting: str, known: list[str], highest: float) -> None:
    clone = one["is_clone"].values.astype(bool)
    for place, name in enumerate(known):
        split = name.removeprefix(PREFIX)
        look = by_category(SPLITS.get(split, place + 4))
        values = one[name].values
        parts = np.arange(len(values))
        for kept, face in ((clone, look["color"]), (~clone, "white")):
            ax.plot(parts[kept], values[kept], color=look["color"], marker=look["marker"], ls="",
                    mfc=face, label="_")  # fmt: skip
        ax.plot([], [], color=look["color"], marker=look["marker"], ls="",
                label=f"{split} error of a part")  # fmt: skip
    ax.plot([], [], color=GREY, marker="o", mfc="white", ls="", label="part that is no clone")
    count = max(int(np.isfinite(one[name].values).sum()) for name in known)
    ax.set_xlim(-0.6, max(count, 2) - 0.4)
    ax.set_ylim(-0.02 * highest, 1.05 * highest)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("part")
    ax.set_ylabel("error, readout as trained")
    means = ", ".join(
        f"{float(one[name].mean()):.3f} {name.removeprefix(PREFIX)}" for name in known
    )
    entitle(ax, setting, f"W = {int(one['width'])}", below=f"mean error of a part {means}")
