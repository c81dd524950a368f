"""The decay of an error with size, as the queries fitted it: its line, its exponent in words."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from actstore.plotting.style import plain

Array: TypeAlias = npt.NDArray[Any]


def draw_law(
    ax: Axes, sizes: Array, errors: Array, gamma: float, left: float, *, excess: bool, **look: Any
) -> None:
    r"""Draw :math:`error_{inf} + a w^{-γ}`, or without :math:`error_{inf}` for an ``excess``.

    The amplitude a follows from γ and error_inf by least squares of relative residuals, as in
    the fit itself.
    """
    powers = sizes**-gamma
    amplitude = (powers * (errors - left) / errors**2).sum() / (powers**2 / errors**2).sum()
    line = np.geomspace(sizes.min(), sizes.max(), 64)
    ax.plot(line, amplitude * line**-gamma + (0 if excess else left), **look)


def determined(gamma: float, low: float, high: float) -> bool:
    """Whether the sizes determine the exponent at all."""
    return bool(np.isfinite([gamma, low, high]).all() and low > 0)


def in_words(gamma: float, low: float, high: float, window: tuple[float, float]) -> str:
    """Return the exponent with its interval and window, or that it is not determined.

    Examples
    --------
    >>> in_words(0.47, 0.41, 0.52, (128, 512))
    'γ = 0.47 (0.41…0.52), sizes 128…512'
    >>> in_words(0.02, 0.0, float("inf"), (2, 32))
    'γ not determined by sizes 2…32'
    """
    sizes = f"sizes {plain(window[0])}…{plain(window[1])}"
    if not determined(gamma, low, high):
        return f"γ not determined by {sizes}"
    return f"γ = {gamma:.2f} ({low:.2f}…{high:.2f}), {sizes}"
