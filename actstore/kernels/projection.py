"""Least squares with one non-linear parameter, by variable projection, and its interval.

The laws are ``y = floor + slope · curve(w; parameter)`` with relative residuals. Floor and slope
enter linearly and are solved for at every value of the parameter, which is searched on a grid and
refined, for many rows of y at once (those of a bootstrap, say). The interval of the parameter is
the profile one: all values whose residual sum of squares stays below
``S_min · (1 + F(1, n − p) / (n − p))`` for n points and p parameters.

References
----------
Golub and Pereyra, "Separable nonlinear least squares" (2003); Bates and Watts, "Nonlinear
regression analysis" (1988), section 6.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

Floats = NDArray[np.float64]

#: parameters of any shape in, the curve at every point as a new last axis out
Curve = Callable[[Floats], Floats]

_FINER = 33
_STEPS = np.linspace(0, 1, _FINER)


class Search(NamedTuple):
    """The best law of each row, with the losses that the search met on its grid.

    Attributes
    ----------
    parameter, floor, slope, loss
        ``(row,)``; the loss is the sum of the squared relative residuals.
    grid
        ``(parameter,)``, ascending.
    losses
        On the grid, ``(row, parameter)``.
    """

    parameter: Floats
    floor: Floats
    slope: Floats
    loss: Floats
    grid: Floats
    losses: Floats


def search(curve: Curve, grid: Floats, rows: Floats, floor: float | None) -> Search:
    """Return the least-squares law of each row.

    Parameters
    ----------
    curve
        The law but for floor and slope.
    grid
        Values of the parameter to search, ascending, not negative.
    rows
        Positive values of y, ``(row, point)``.
    floor
        Known floor; None fits one that is not negative. Slopes are not negative either.
    """
    losses = _project(curve(grid)[None], rows, floor)[0]
    every, best = np.arange(len(rows)), losses.argmin(axis=1)
    found, least = grid[best], losses[every, best]
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    width = 1e-9 * high
    # a grid within the grid, again and again: a loss of many values costs little more than of one
    while (high - low > width).any():
        finer = low[:, None] + (high - low)[:, None] * _STEPS
        closer = _project(curve(finer), rows, floor)[0]
        k = closer.argmin(axis=1)
        better = closer[every, k] < least
        found, least = (
            np.where(better, now, before)
            for now, before in ((finer[every, k], found), (closer[every, k], least))
        )
        low, high = finer[every, np.maximum(k - 1, 0)], finer[every, np.minimum(k + 1, _FINER - 1)]
    _, floors, slopes = _project(curve(found[:, None]), rows, floor)
    return Search(found, floors[:, 0], slopes[:, 0], least, grid, losses)


def profile_interval(found: Search, freedom: int, level: float) -> tuple[float, float]:
    """Return the interval of the parameter of the first row.

    Parameters
    ----------
    found
    freedom
        Points minus parameters; below 1 the interval is NaN.
    level
        Of the interval. Where the grid does not enclose it, its low end is 0 and its high end
        infinite.
    """
    if freedom < 1:
        return np.nan, np.nan
    value, least = found.parameter[0], found.loss[0]
    grid, losses = found.grid, found.losses[0]
    ceiling = least * float(1 + fdtri(1, freedom, level) / freedom)
    left, right = grid < value, grid > value
    low = _crossing(np.append(grid[left], value), np.append(losses[left], least), ceiling)
    high = _crossing(
        np.append(grid[right][::-1], value), np.append(losses[right][::-1], least), ceiling
    )
    return 0.0 if low is None else low, np.inf if high is None else high


def _crossing(grid: Floats, losses: Floats, ceiling: float) -> float | None:
    """Return where the loss first falls below the ceiling on the way to its minimum."""
    inside = int(np.argmax(losses <= ceiling))
    if not inside:
        return None
    outer, inner = losses[inside - 1], losses[inside]
    share = (outer - ceiling) / (outer - inner)
    return float(grid[inside - 1] + share * (grid[inside] - grid[inside - 1]))


def _project(basis: Floats, rows: Floats, floor: float | None) -> tuple[Floats, Floats, Floats]:
    """Return losses, floors and slopes ``(row, parameter)``.

    ``basis`` is ``(row, parameter, point)``; a first axis of length 1 stands for all rows.
    """
    values = rows[:, None]
    relative = basis / values
    if floor is None:
        floors, slopes = _floor_and_slope(basis, relative, values)
    else:
        slopes = _slope(relative, 1 - floor / values)
        floors = np.full_like(slopes, floor)
    residuals = 1 - floors[..., None] / values - slopes[..., None] * relative
    return np.square(residuals).sum(axis=-1), floors, slopes


def _slope(basis: Floats, target: Floats) -> Floats:
    """Return the least-squares coefficient, not negative, of one basis vector."""
    across = (basis * target).sum(axis=-1)
    length = np.square(basis).sum(axis=-1)
    fitted: Floats = np.divide(across, length, out=np.zeros_like(across), where=length > 0)
    return fitted.clip(min=0)


def _floor_and_slope(basis: Floats, relative: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return floor ≥ 0 and slope ≥ 0 of ``floor + slope · basis``, relative residuals."""
    weights = 1 / np.square(values)
    whole = weights.sum(axis=-1)
    middle = (basis * weights).sum(axis=-1) / whole
    mean = (values * weights).sum(axis=-1) / whole
    centred = basis - middle[..., None]
    weighted = centred * weights
    spread = (centred * weighted).sum(axis=-1)
    across = (weighted * (values - mean[..., None])).sum(axis=-1)
    slope = np.divide(across, spread, out=np.zeros_like(across), where=spread > 0).clip(min=0)
    floor = mean - slope * middle
    # below zero the best floor is zero: the loss is convex in the two
    alone = _slope(relative, np.ones_like(values))
    return np.where(floor < 0, 0.0, floor), np.where(floor < 0, alone, slope)
