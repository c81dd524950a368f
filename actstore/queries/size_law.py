"""How the error of subsets falls with their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.kernels.fits import DecayLaw, decay_exponents, decay_law
from actstore.queries.graph import Output, over_epochs
from actstore.queries.subset_errors import SPLIT

Array: TypeAlias = npt.NDArray[Any]

#: times that subsets are drawn anew to see how much γ owes to which were drawn
RESAMPLES = 100

LAW = {
    "gamma": Output((SPLIT,), "exponent of error - error_inf against subset size"),
    "gamma_low": Output((SPLIT,), "exponent, low end of its 95 % interval"),
    "gamma_high": Output((SPLIT,), "exponent, high end of its 95 % interval"),
    "error_inf": Output((SPLIT,), "error that is left at infinite size"),
    "window_low": Output((SPLIT,), "smallest subset of the fit", "neurons"),
    "window_high": Output((SPLIT,), "largest subset of the fit", "neurons"),
}


def size_law(
    errors: xr.DataArray,
    sizes: Sequence[int],
    *,
    error_inf: float | xr.DataArray | None,
    window: tuple[float, float] | None,
    rng_seed: int,
) -> xr.Dataset:
    r"""Return the fit of :math:`error - error_{inf} = a w^{-γ}` to the mean over subsets.

    Parameters
    ----------
    errors : (epoch, split, subset, subset_size)
    sizes : sequence of int
    error_inf : float, (epoch, split) or None
        Error at infinite size; fitted if None.
    window, rng_seed
        As in :func:`actstore.error`.

    Returns
    -------
    Dataset
        The variables of ``LAW`` ``(epoch, split)``. Lazy.
    """
    low_high = window or (2.0, np.inf)
    w = np.asarray(sizes, float)
    if not isinstance(error_inf, xr.DataArray):
        value = np.nan if error_inf is None else error_inf
        error_inf = xr.DataArray(np.full(errors.sizes[SPLIT], value), dims=SPLIT)

    def kernel(_epoch: int, by_split: Array, known: Array) -> tuple[Array, ...]:
        rows = []
        for one, inf in zip(by_split, known.tolist(), strict=True):  # (subset, size)
            options: dict[str, Any] = {
                "error_inf": None if np.isnan(inf) else inf, "window": low_high
            }  # fmt: skip
            fit = decay_law(w, one.mean(0), **options)
            low, high = fit.low, fit.high
            if np.isfinite(fit.gamma):
                # anew for each split: its answer is the same whichever others are asked for
                rng = np.random.default_rng(rng_seed)
                # one row of subsets at a time: nested subsets err alike at all sizes
                weights = rng.multinomial(len(one), np.full(len(one), 1 / len(one)), RESAMPLES)
                drawn = decay_exponents(w, weights @ one / len(one), **options)
                low, high = _widened(fit, drawn)
            rows.append((fit.gamma, low, high, fit.error_inf, *fit.window))
        return tuple(np.asarray(rows, float).T)

    return over_epochs(
        kernel, [errors, error_inf], LAW, epochs=errors[schema.EPOCH].values,
        sizes={SPLIT: errors.sizes[SPLIT]},
    )  # fmt: skip


def _widened(fit: DecayLaw, drawn: Array) -> tuple[float, float]:
    """Return the interval of γ with the spread of γ over subsets drawn anew, in quadrature."""
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < 0.95 * len(drawn):  # subsets drawn anew that do not decay bound nothing
        return 0.0, np.inf
    reach = 1.96 * finite.std(ddof=1)
    low = fit.gamma - np.hypot(fit.gamma - fit.low, reach)
    high = fit.gamma + np.hypot(fit.high - fit.gamma, reach)
    return max(0.0, low) if np.isfinite(low) else low, high
