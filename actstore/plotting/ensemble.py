"""A wide network against ensembles, and bias and variance by width."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from actstore.plotting import settings
from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.style import GREY, by_category, width_axis

CONTEST = "contest"
RIVAL = "rival"
AVERAGE = "average"
PARTS = {
    "squared_error": "bias² + variance",
    "bias2": "bias²",
    "variance": "variance",
}


def ensemble(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw error of the wide network − error of its rival, one row a contest.

    Bars are 95 % intervals: one that holds zero is a draw. Left of zero the wide network wins,
    right of it the rival. Full marks average logits, hollow ones probabilities. The legend
    counts who wins.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.ensemble` returned, of one setting.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds contests of several settings, or none: use
        :func:`actstore.plotting.figure`.
    """
    return draw_one(_contests(result), "ensemble", ax)


def bias_variance(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw bias² and variance over seeds against width, one colour a setting.

    Widths of a single seed have neither and are left out.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.ensemble` returned.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes
    """
    return draw_one(_parts(result), "ensemble", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing of the contests a setting, and one of bias and variance."""
    return [*_contests(result), *_parts(result)]


def height(result: xr.Dataset) -> float:
    """Return inches a panel, enough for one row a contest."""
    return 2.4 + 0.35 * max((len(places) for places in _settings(result).values()), default=0)


def _settings(result: xr.Dataset) -> dict[str, list[int]]:
    """Return the contests of each setting: the name of a contest leads with it."""
    found: dict[str, list[int]] = {}
    if CONTEST not in result.coords:
        return found
    for place, name in enumerate(np.atleast_1d(result[CONTEST].values)):
        found.setdefault(str(name).rpartition(": ")[0], []).append(place)
    return found


def _names(result: xr.Dataset) -> dict[str, str]:
    """Return what other panels call each setting: ``weight_decay=0`` for ``weight_decay=0.0``."""
    if "setting" not in result.dims:
        return {}
    written = [str(setting) for setting in result["setting"].values]
    return dict(zip(written, settings.names(result, "setting"), strict=True))


def _contests(result: xr.Dataset) -> list[Piece]:
    if "difference" not in result:
        return []
    wanted = result[["difference", "difference_low", "difference_high"]]
    found = settings.whole(wanted, CONTEST, RIVAL, AVERAGE)
    known = _names(result)
    return [
        partial(
            _draw_contests,
            setting=known.get(setting) or setting,
            contests=found.isel({CONTEST: places}),
        )
        for setting, places in _settings(found).items()
    ]


def _draw_contests(ax: Axes, setting: str, contests: xr.Dataset) -> None:
    names = [str(name).rpartition(": ")[2] for name in contests[CONTEST].values]
    rows = np.arange(len(names))[::-1]
    marks = [(r, a) for r in contests[RIVAL].values for a in contests[AVERAGE].values]
    for number, (rival, average) in enumerate(marks):
        one = contests.sel({RIVAL: rival, AVERAGE: average})
        middle = one["difference"].values
        low, high = one["difference_low"].values, one["difference_high"].values
        if not np.isfinite(middle).any():
            continue
        look = by_category(list(contests[RIVAL].values).index(rival))
        logits = average == "logits"
        shift = 0.7 * (0.5 - (number + 0.5) / len(marks))
        spread = np.clip([middle - low, high - middle], 0, None)
        held = np.isfinite(middle)
        wide, other = int((high[held] < 0).sum()), int((low[held] > 0).sum())
        won = f"wide wins {wide}, rival {other}, draws {held.sum() - wide - other}"
        ax.errorbar(
            middle, rows + shift, xerr=spread, ls="", capsize=2, elinewidth=1, ms=4.5,
            color=look["color"], marker=look["marker"], mfc=look["color"] if logits else "white",
            label=f"{rival}, {average}\n{won}",
        )  # fmt: skip
    ax.axvline(0, color="black", lw=1, zorder=1)
    ax.set_yticks(rows, names)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel("error of wide − error of rival   (left of 0: the wide network wins)")
    ax.set_title(setting)


def _parts(result: xr.Dataset) -> list[Piece]:
    known = [name for name in PARTS if name in result]
    found = settings.whole(result[known], "setting")
    if not known or not any(found[name].notnull().any() for name in known):
        return []
    return [partial(_draw_parts, found=found, known=known)]


def _draw_parts(ax: Axes, found: xr.Dataset, known: list[str]) -> None:
    lines = {"squared_error": ":", "bias2": "-", "variance": "--"}
    widths = found["width"].values.astype(float)
    for number, setting in enumerate(settings.names(found, "setting")):
        look = by_category(number)
        for name in known:
            values = found[name].isel(setting=number).values
            held = np.isfinite(values)
            marker = look["marker"] if name != "squared_error" else ""
            ax.plot(widths[held], values[held], color=look["color"], marker=marker, ls=lines[name])
        label = setting or "all runs"
        ax.plot([], [], color=look["color"], marker=look["marker"], ls="", label=label)
    for name in known:
        ax.plot([], [], color=GREY, ls=lines[name], label=PARTS[name])
    width_axis(ax, widths)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("squared error of the class probabilities")
    ax.set_title("bias² and variance over seeds")
