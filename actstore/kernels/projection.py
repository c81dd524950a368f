"""Least squares with one non-linear parameter, by variable projection, and its interval.

The other parameters enter linearly and are solved for at every value of the non-linear one, which
is searched on a grid and refined. Its interval is the profile one: all values whose residual sum
of squares stays below ``S_min · (1 + F(1, n − p) / (n − p))`` for n points and p parameters.

References
----------
Golub and Pereyra, "Separable nonlinear least squares" (2003); Bates and Watts, "Nonlinear
regression analysis" (1988), section 6.1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

Floats = NDArray[np.float64]

_FINER = 33


def profile(
    loss: Callable[[Floats], Floats],
    grid: Floats,
    freedom: int,
    level: float,
) -> tuple[float, float, float]:
    """Return the minimiser of a residual sum of squares and its profile interval.

    Parameters
    ----------
    loss
        Residual sums of squares at several values of the non-linear parameter.
    grid
        Values to search, ascending, not negative.
    freedom
        Points minus parameters; below 1 the interval is NaN.
    level
        Of the interval. Where the grid does not enclose it, its low end is 0 and its high end
        infinite.
    """
    losses = loss(grid)
    best = int(np.argmin(losses))
    value, least = float(grid[best]), float(losses[best])
    inner = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    width = 1e-9 * inner[1]
    # a grid within the grid, again and again: a loss of many values costs little more than of one
    while inner[1] - inner[0] > width:
        finer = np.linspace(*inner, _FINER)
        found = loss(finer)
        k = int(np.argmin(found))
        if found[k] < least:
            value, least = float(finer[k]), float(found[k])
        inner = finer[max(k - 1, 0)], finer[min(k + 1, _FINER - 1)]
    if freedom < 1:
        return value, np.nan, np.nan
    ceiling = least * float(1 + fdtri(1, freedom, level) / freedom)
    left, right = grid < value, grid > value
    low = _crossing(np.append(grid[left], value), np.append(losses[left], least), ceiling)
    high = _crossing(
        np.append(grid[right][::-1], value), np.append(losses[right][::-1], least), ceiling
    )
    return value, 0.0 if low is None else low, np.inf if high is None else high


def _crossing(grid: Floats, losses: Floats, ceiling: float) -> float | None:
    """Return where the loss first falls below the ceiling on the way to its minimum."""
    inside = int(np.argmax(losses <= ceiling))
    if not inside:
        return None
    outer, inner = losses[inside - 1], losses[inside]
    share = (outer - ceiling) / (outer - inner)
    return float(grid[inside - 1] + share * (grid[inside] - grid[inside - 1]))


def one_slope(basis: Floats, target: Floats) -> Floats:
    """Return the least-squares coefficient, not negative, of one basis vector a row."""
    across = (basis * target).sum(axis=1)
    length = np.square(basis).sum(axis=1)
    fitted: Floats = np.divide(across, length, out=np.zeros_like(across), where=length > 0)
    return fitted.clip(min=0)


def floor_and_slope(basis: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return floor ≥ 0 and coefficient ≥ 0 of ``floor + slope · basis``, relative residuals."""
    weights = 1 / np.square(values)
    middle = basis @ weights / weights.sum()
    centred = basis - middle[:, None]
    spread = np.square(centred) @ weights
    mean = (weights @ values) / weights.sum()
    across = (centred * weights) @ (values - mean)
    slope = np.divide(across, spread, out=np.zeros_like(across), where=spread > 0).clip(min=0)
    floor = mean - slope * middle
    # below zero the best floor is zero: the loss is convex in the two
    alone = one_slope(basis / values, np.ones_like(basis))
    return np.where(floor < 0, 0.0, floor), np.where(floor < 0, alone, slope)
