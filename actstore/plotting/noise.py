"""Residual correlation against subset size, beside what independent noise would give."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting.panels import Piece, draw_one
from actstore.plotting.series import SIZE, Group, Series, curve, finish, groups, highest, opacity
from actstore.plotting.style import BAND, GREY, by_category, doubling

MEASURED = "residual_correlation_heldout"
NULL = "null"
EIGENVALUE, EDGE = "largest_eigenvalue", "marchenko_pastur_edge"
FACTORS, CONVERGED = "factors", "factors_converged"
LONG_DASHES = (0, (8, 2))
#: of the nulls, by the place of their rule: unlike the floor, the edge and the paper's convention
DASHES: tuple[Any, ...] = ("--", (0, (5, 1.5, 1, 1.5, 1, 1.5)), (0, (2, 4)))


def noise(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    r"""Draw the residual correlation of subsets, with the sampling floor and the matched null.

    A curve is the mean over subsets and seeds, its band holds 90 % of them. The dotted line is
    :math:`\sqrt{2 / (π \, dof)}`, what independent residuals show by sampling alone; the dashed
    line, where the result holds it, is the matched null: what a layer of shared signals and
    independent noise would give for the same subsets; where several rules chose its number of
    shared signals, each has dashes of its own. A single curve has the paper's convention beside
    it, whose fall to zero at w = W is arithmetic.

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
    return draw_one(_correlations(result), "noise", ax)


def noise_eigenvalues(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the largest eigenvalue of the residual correlations beside the Marchenko-Pastur edge.

    A curve is the mean over subsets and seeds, its band holds 90 % of them; the dashed line is
    the edge for the same number of neurons and samples, which the largest eigenvalue of
    independent noise does not exceed by more than chance. Both are defined for each width.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.noise` returned with ``eigenvalues=True``, of one setting.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several settings, or no eigenvalues.
    """
    return draw_one(_eigenvalues(result), "noise", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return the correlations of each setting, then the eigenvalues if the result holds them."""
    return [*_correlations(result), *_eigenvalues(result)]


def columns(result: xr.Dataset) -> int:
    """Return how many panels stand side by side: one a setting where there are two rows."""
    return len(groups(result, MEASURED)) if EIGENVALUE in result else 3


def _correlations(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a setting, on one scale."""
    found = groups(result, MEASURED)
    top = 1.05 * max(highest(group, MEASURED) for group in found)
    return [partial(_draw, group=group, top=top) for group in found]


def _eigenvalues(result: xr.Dataset) -> list[Piece]:
    if EIGENVALUE not in result:
        return []
    found = groups(result, EIGENVALUE)
    top = 1.5 * max(highest(group, EIGENVALUE) for group in found)
    return [partial(_draw_eigenvalues, group=group, top=top) for group in found]


def _draw(ax: Axes, group: Group, top: float) -> None:
    single = len(group.series) == 1
    label = "neurons outside the subset" if single else ""
    for one in group.series:
        # the line is solid for settings too: dashes are the null's
        curve(ax, one, MEASURED, label=label, band=opacity(group), linestyle="-")
        if NULL in one.data:
            _null(ax, one, single)
    if single:
        faint = {"linestyle": "-.", "color": GREY, "marker": "", "lw": 1.1}
        label = "all neurons (paper)"
        curve(ax, group.series[0], "residual_correlation", label=label, band=0, **faint)
    else:
        null_entries(ax, [one.data for one in group.series if NULL in one.data])
    _floor(ax, group)
    finish(ax, group, axis="mean |correlation| of residuals")
    ax.set_ylim(0, top or 1)  # of the whole layer there are no residuals


def _draw_eigenvalues(ax: Axes, group: Group, top: float) -> None:
    single = len(group.series) == 1
    for one in group.series:
        label = "neurons outside the subset" if single else ""
        curve(ax, one, EIGENVALUE, label=label, band=opacity(group), linestyle="-")
        # of the whole layer there are no residuals, so the edge says nothing there
        there = one.data[EIGENVALUE].notnull().any("subset")
        edges = one._replace(data=one.data.assign({EDGE: one.data[EDGE].where(there)}))
        curve(ax, edges, EDGE, label="_edge", band=0, ls=LONG_DASHES, marker="", lw=1.1)
    ax.plot([], [], color=GREY, ls=LONG_DASHES, lw=1.1, label="Marchenko-Pastur edge, same colour")
    finish(ax, group, axis="largest eigenvalue of the residuals")
    doubling(ax.yaxis)
    ax.set_ylim(0.9, max(top, 1.5))


def _null(ax: Axes, one: Series, single: bool) -> None:
    """Draw the null, for a single curve with its interval and for each number of factors."""
    for number, chosen in enumerate(by_rule(one.data)):
        look = {"ls": dashes(number), "marker": "", "lw": 1.1}
        if not single:
            curve(ax, one._replace(data=chosen), NULL, label="_null", band=0, **look)
            continue
        look["color"] = by_category(number + 1)["color"]
        label = f"matched null, {_factors(chosen)}{unfinished(chosen[CONVERGED])}"
        curve(ax, one._replace(data=chosen), NULL, label=label, band=0, **look)
        ends = chosen[[f"{NULL}_low", f"{NULL}_high"]].mean("run")
        ax.fill_between(ends[SIZE], ends[f"{NULL}_low"], ends[f"{NULL}_high"], alpha=BAND, lw=0,
                        color=look["color"])  # fmt: skip


def null_entries(ax: Axes, data: Sequence[xr.Dataset]) -> None:
    """Say in the legend whose null has which dashes: its colour is that of the measurement."""
    for number, nulls in enumerate(zip(*map(by_rule, data), strict=True)):
        asked = f" ({nulls[0][FACTORS].item()})" if FACTORS in nulls[0].coords else ""
        ended = np.concatenate([np.ravel(one[CONVERGED].values) for one in nulls])
        ax.plot([], [], color=GREY, ls=dashes(number), lw=1.1,
                label=f"matched null{asked} of the same colour{unfinished(ended)}")  # fmt: skip


def unfinished(ended: npt.ArrayLike) -> str:
    r"""Say for a legend of how many nulls the fit did not converge, which judge nothing.

    Examples
    --------
    >>> unfinished([True, True]), unfinished(False), unfinished([True, False, False])
    ('', '\n(fit not converged)', '\n(fit not converged in 2 of 3)')
    """
    failed = ~np.atleast_1d(np.asarray(ended, bool))
    if not failed.any():
        return ""
    many = "" if failed.size == 1 else f" in {failed.sum()} of {failed.size}"
    return f"\n(fit not converged{many})"


def by_rule(data: xr.Dataset) -> list[xr.Dataset]:
    """Return what was found with each number of factors that was asked for."""
    several = data if FACTORS in data.dims else data.expand_dims(FACTORS)
    return [several.isel({FACTORS: number}) for number in range(several.sizes[FACTORS])]


def dashes(number: int) -> Any:
    """Return how the null of the rule at this place is drawn."""
    return DASHES[number % len(DASHES)]


def _factors(chosen: xr.Dataset) -> str:
    """Name the number of factors of the fit, and the number asked for where it found fewer."""
    found = "…".join(map(str, sorted({int(n) for n in chosen["n_factors"].values.ravel()})))
    asked = str(chosen[FACTORS].item()) if FACTORS in chosen.coords else "auto"
    if asked in ("gap", "bic"):
        return f"{found} factors ({asked})"
    return f"{found} factors" if asked in ("auto", found) else f"{found} of {asked} factors"


def _floor(ax: Axes, group: Group) -> None:
    """Draw the floor of the widest: it depends on samples and subset size, not on width."""
    widest = max(group.series, key=lambda one: int(one.data["width"].max()))
    samples = sorted({int(n) for one in group.series for n in one.data["count"].values.ravel()})
    many = "…".join(map(str, sorted({samples[0], samples[-1]})))
    look = {"linestyle": ":", "marker": "", "color": "black", "lw": 1.2, "zorder": 1}
    label = f"sampling floor, {many} samples"
    curve(ax, widest, "sampling_floor", label=label, band=0, **look)
