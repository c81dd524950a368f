"""Laws fitted to a few points: power law, decay to a floor, broken line.

Every result says in which window it holds, on how many points it stands and how sure it is.
Points that are not finite and positive are left out and not counted. Too few points, or points
that no such law describes, give NaN and no exception.

The decay and the broken line are linear in all parameters but one, and are fitted by
:mod:`actstore.kernels.projection`. Residuals are relative (divided by the measured value),
because the spread of an error rate or of a number of clones grows with its size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from actstore.errors import InvalidParameterError
from actstore.kernels.projection import Floats, Search, profile_interval, search

Window = tuple[float, float]

_EXPONENTS = np.geomspace(0.01, 10, 301)  # a decay outside this cannot be told from none


@dataclass(frozen=True)
class PowerLaw:
    """``y = amplitude · w^exponent``; see :func:`power_law`."""

    exponent: float
    amplitude: float
    low: float  # interval of the exponent
    high: float
    level: float
    window: Window  # smallest and largest w that were used
    n_points: int


@dataclass(frozen=True)
class DecayLaw:
    """``error = error_inf + amplitude · w^−gamma``; see :func:`decay_law`."""

    gamma: float
    amplitude: float
    error_inf: float
    error_inf_given: bool
    low: float  # interval of gamma; 0 or inf where the points do not bound it
    high: float
    level: float
    window: Window
    n_points: int


@dataclass(frozen=True)
class CriticalWidth:
    """``ratio = plateau + slope · max(0, w − critical_width)``; see :func:`critical_width`."""

    critical_width: float
    slope: float  # clones per neuron above the critical width
    plateau: float
    low: float  # interval of the critical width; 0 or inf where the points do not bound it
    high: float
    level: float
    window: Window
    n_points: int


def power_law(
    w: ArrayLike, y: ArrayLike, *, window: Window | None = None, level: float = 0.95
) -> PowerLaw:
    """Fit ``log y = log amplitude + exponent · log w`` by least squares.

    Parameters
    ----------
    w, y
        Points, shape ``(point,)``.
    window
        Smallest and largest w to use; all by default.
    level
        Of the interval of the exponent (Student's t on n − 2 degrees of freedom).

    Returns
    -------
    PowerLaw
        NaN with fewer than three points.

    Raises
    ------
    InvalidParameterError
        When shapes differ, the window is reversed or the level is outside (0, 1).

    References
    ----------
    arXiv 2106.03485 draws such a law as a guide; an exponent says nothing without its window.

    Examples
    --------
    >>> fit = power_law([8, 16, 32, 64], [1.0, 2.0, 4.0, 8.0])
    >>> round(fit.exponent, 6), fit.window, fit.n_points
    (1.0, (8.0, 64.0), 4)
    """
    points, values, used = _points(w, y, window, level)
    n = len(points)
    if n < 3 or np.ptp(points) == 0:
        return PowerLaw(np.nan, np.nan, np.nan, np.nan, level, used, n)
    x, z = np.log(points), np.log(values)
    centred = x - x.mean()
    spread = centred @ centred
    exponent = float(centred @ z / spread)
    residuals = z - z.mean() - exponent * centred
    half = stdtrit(n - 2, (1 + level) / 2) * np.sqrt(residuals @ residuals / (n - 2) / spread)
    return PowerLaw(
        exponent=exponent,
        amplitude=float(np.exp(z.mean() - exponent * x.mean())),
        low=exponent - float(half),
        high=exponent + float(half),
        level=level,
        window=used,
        n_points=n,
    )


def decay_law(
    w: ArrayLike,
    error: ArrayLike,
    *,
    error_inf: float | None = None,
    window: Window | None = None,
    level: float = 0.95,
) -> DecayLaw:
    """Fit ``error = error_inf + amplitude · w^−gamma`` by relative least squares.

    Parameters
    ----------
    w, error
        Points, shape ``(point,)``.
    error_inf
        Error of infinite width where it is known (from an ensemble); None fits it, in
        ``[0, ∞)``.
    window
        Smallest and largest w to use; all by default.
    level
        Of the profile interval of gamma.

    Returns
    -------
    DecayLaw
        NaN with fewer than three points, and where the error does not decay. The interval is
        NaN when there are no more points than parameters (3 with `error_inf` free, 2 without).

    Raises
    ------
    InvalidParameterError
        When shapes differ, the window is reversed, the level is outside (0, 1) or `error_inf`
        is negative.

    Notes
    -----
    Residuals are relative to the error and not to its excess over `error_inf`: a log-log fit
    of the excess (:func:`power_law`) gives most weight to the points where the excess is
    mostly noise.

    References
    ----------
    arXiv 2106.03485, test error minus that of an ensemble against width; Golub and Pereyra,
    "Separable nonlinear least squares" (2003).

    Examples
    --------
    >>> w = np.array([16.0, 32, 64, 128, 256, 512])
    >>> fit = decay_law(w, 0.02 + 0.3 * w**-0.5)
    >>> round(fit.gamma, 4), round(fit.error_inf, 4), fit.error_inf_given
    (0.5, 0.02, False)
    """
    if error_inf is not None and not error_inf >= 0:
        raise InvalidParameterError(f"error_inf is {error_inf}; give a number that is not negative")
    points, values, used = _points(w, error, window, level)
    n = len(points)
    given = error_inf is not None
    nothing = DecayLaw(np.nan, np.nan, np.nan, given, np.nan, np.nan, level, used, n)
    if n < 3 or np.ptp(points) == 0:
        return nothing
    found, unit, decays = _decay(points, values[None], error_inf)
    if not decays[0]:
        return nothing
    low, high = profile_interval(found, n - (2 if given else 3), level)
    return DecayLaw(
        gamma=float(found.parameter[0]),
        amplitude=float(found.slope[0] * unit ** found.parameter[0]),
        error_inf=float(found.floor[0]),
        error_inf_given=given,
        low=low,
        high=high,
        level=level,
        window=used,
        n_points=n,
    )


def critical_width(
    w: ArrayLike,
    ratio: ArrayLike,
    *,
    plateau: float | None = 1.0,
    window: Window | None = None,
    level: float = 0.95,
) -> CriticalWidth:
    """Fit a broken line to W / w_c against W: flat below a critical width, linear above.

    ``ratio = plateau + slope · max(0, w − critical_width)``. The plateau is 1 because a layer
    without clones needs all its neurons (w_c = W); and a layer whose clones have size w_c at
    every width has ratio W / w_c, which is this line with critical width w_c and slope 1 / w_c.

    Parameters
    ----------
    w, ratio
        Widths and W / w_c, shape ``(point,)``.
    plateau
        Value below the critical width; None fits it.
    window
        Smallest and largest width to use; all by default.
    level
        Of the profile interval of the critical width.

    Returns
    -------
    CriticalWidth
        NaN with fewer than three points, and where the ratio does not rise. The interval is NaN
        when there are no more points than parameters (2, or 3 with a free plateau).

    Raises
    ------
    InvalidParameterError
        When shapes differ, the window is reversed or the level is outside (0, 1).

    References
    ----------
    arXiv 2106.03485: the number of clones grows linearly with the width above a critical width.

    Examples
    --------
    >>> w = np.array([8.0, 16, 32, 64, 128, 256])
    >>> fit = critical_width(w, 1 + np.maximum(0, w - 20) / 16)
    >>> round(fit.critical_width, 3), round(fit.slope, 4)
    (20.0, 0.0625)
    """
    points, values, used = _points(w, ratio, window, level)
    n = len(points)
    nothing = CriticalWidth(np.nan, np.nan, np.nan, np.nan, np.nan, level, used, n)
    if n < 3 or np.ptp(points) == 0:
        return nothing

    found, rises = _broken_line(points, values[None], plateau)
    if not rises[0]:
        return nothing
    low, high = profile_interval(found, n - (2 if plateau is not None else 3), level)
    return CriticalWidth(
        critical_width=float(found.parameter[0]),
        slope=float(found.slope[0]),
        plateau=float(found.floor[0]),
        low=low,
        high=high,
        level=level,
        window=used,
        n_points=n,
    )


def power_law_exponents(w: ArrayLike, rows: ArrayLike, *, window: Window | None = None) -> Floats:
    """Return the exponent of :func:`power_law` of each row ``(row, point)``: ``(row,)``.

    Examples
    --------
    >>> power_law_exponents([8, 16, 32], [[1, 2, 4], [3, 3, 3], [1, 2, 0]]).round(6)
    array([ 1.,  0., nan])
    """

    def slopes(points: Floats, values: Floats) -> Floats:
        x = np.log(points)
        centred = x - x.mean()
        return np.asarray(np.log(values) @ centred / (centred @ centred))

    return _row_by_row(w, rows, window, slopes)


def decay_exponents(
    w: ArrayLike,
    rows: ArrayLike,
    *,
    error_inf: float | None = None,
    window: Window | None = None,
) -> Floats:
    """Return γ of :func:`decay_law` of each row ``(row, point)``: ``(row,)``.

    Examples
    --------
    >>> w = np.array([16.0, 32, 64, 128])
    >>> decay_exponents(w, [0.02 + 0.3 / w, 0.02 + 0.3 * w], error_inf=0.02).round(4)
    array([ 1., nan])
    """

    def gammas(points: Floats, values: Floats) -> Floats:
        found, _, decays = _decay(points, values, error_inf)
        return np.where(decays, found.parameter, np.nan)

    return _row_by_row(w, rows, window, gammas)


def critical_widths(
    w: ArrayLike, rows: ArrayLike, *, plateau: float | None = 1.0, window: Window | None = None
) -> Floats:
    """Return the critical width of :func:`critical_width` of each row ``(row, point)``: ``(row,)``.

    Examples
    --------
    >>> w = np.array([8.0, 16, 32, 64, 128])
    >>> critical_widths(w, [1 + np.maximum(0, w - 20) / 16, np.ones(5)]).round(3)
    array([20., nan])
    """

    def bends(points: Floats, values: Floats) -> Floats:
        found, rises = _broken_line(points, values, plateau)
        return np.where(rises, found.parameter, np.nan)

    return _row_by_row(w, rows, window, bends)


def _decay(
    points: Floats, rows: Floats, error_inf: float | None
) -> tuple[Search, float, NDArray[np.bool_]]:
    """Return the fit, the unit that widths were measured in, and which rows decay."""
    # widths in units of their geometric mean keep w^−10 in range
    unit = float(np.exp(np.log(points).mean()))
    found = search(lambda g: (points / unit) ** -g[..., None], _EXPONENTS, rows, error_inf)
    # above a given floor a flat or rising error fits best at the smallest exponent there is
    return found, unit, (found.slope > 0) & (found.parameter > 1.001 * _EXPONENTS[0])


def _broken_line(
    points: Floats, rows: Floats, plateau: float | None
) -> tuple[Search, NDArray[np.bool_]]:
    """Return the fit, and which rows rise."""
    # a bend above the last width but one would rest the line on a single point
    last = np.sort(points)[-2]
    bends = np.unique(np.concatenate([[0], np.geomspace(points.min() / 8, last, 200), points]))
    found = search(
        lambda bend: np.maximum(0, points - bend[..., None]), bends[bends <= last], rows, plateau
    )
    return found, found.slope > 1e-12 * rows.max(axis=1) / points.max()


def _row_by_row(
    w: ArrayLike, rows: ArrayLike, window: Window | None, fit: Callable[[Floats, Floats], Floats]
) -> Floats:
    """Fit all rows that have the same points at once; NaN where they are fewer than three."""
    points, values = np.asarray(w, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    low, high = window or (0, np.inf)
    kept = np.isfinite(values) & (values > 0) & (points > 0) & (points >= low) & (points <= high)
    found = np.full(len(values), np.nan)
    for pattern in np.unique(kept, axis=0):
        alike = (kept == pattern).all(axis=1)
        if pattern.sum() >= 3 and np.ptp(points[pattern]) > 0:
            found[alike] = fit(points[pattern], values[alike][:, pattern])
    return found


def _points(
    w: ArrayLike, y: ArrayLike, window: Window | None, level: float
) -> tuple[Floats, Floats, Window]:
    """Return the finite, positive points of the window, and the window they span."""
    points, values = np.asarray(w, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if points.ndim != 1 or points.shape != values.shape:
        raise InvalidParameterError(
            f"points of shapes {points.shape} and {values.shape}; give two rows of equal length"
        )
    if window is not None and not window[0] <= window[1]:
        raise InvalidParameterError(f"the window is {window}; give (smallest, largest)")
    _check_level(level)
    low, high = window or (0, np.inf)
    kept = np.isfinite(points) & np.isfinite(values) & (points > 0) & (values > 0)
    kept &= (points >= low) & (points <= high)
    points, values = points[kept], values[kept]
    if not len(points):
        return points, values, (np.nan, np.nan)
    return points, values, (float(points.min()), float(points.max()))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InvalidParameterError(f"level is {level}; give a number between 0 and 1")
