"""One subset of a layer's neurons: how much of the layer it explains.

Everything here is linear algebra on the co-moment ``C`` of shape ``(neuron, neuron)``. For a
subset S with ``C_SS + λI = L Lᵀ`` the *loadings* ``Z = L⁻¹ C_S:`` of shape
``(subset neuron, neuron)`` hold all of it: ``Zᵀ Z`` is the part of the co-moment that S
explains. λ is ``ridge · tr(C) / neurons``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from actstore.errors import InvalidDataError, InvalidParameterError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def penalty(comoment: Floats, ridge: float) -> float:
    """Return λ, the ridge penalty in the units of the co-moment."""
    if not ridge >= 0:
        raise InvalidParameterError(f"ridge is {ridge}; give a number that is not negative")
    return float(ridge * np.trace(comoment) / len(comoment))


def subset_factor(comoment: Floats, subset: Integers, jitter: float) -> Floats:
    """Return the lower Cholesky factor L of ``C_SS + λI`` for one subset S.

    Raises
    ------
    InvalidDataError
        When it is not positive definite (duplicate neurons and no ridge).
    """
    block = comoment[np.ix_(subset, subset)]
    block[np.diag_indices_from(block)] += jitter
    try:
        factor: Floats = cholesky(block, lower=True, check_finite=False)
        # a pivot that is only rounding would be divided by, and no error raised
        if (np.square(np.diagonal(factor)) < 1e-14 * np.diagonal(block)).any():
            raise LinAlgError
    except LinAlgError:
        raise InvalidDataError(
            f"the co-moment of {len(subset)} neurons is singular: some are dead or duplicates; "
            "leave dead neurons out and give a positive ridge"
        ) from None
    return factor


def loadings(comoment: Floats, subset: Integers, jitter: float) -> Floats:
    """Return ``Z = L⁻¹ C_S:``, shape ``(subset neuron, neuron)``, of one subset S."""
    factor = subset_factor(comoment, subset, jitter)
    rows: Floats = solve_triangular(
        factor, comoment[subset], lower=True, overwrite_b=True, check_finite=False
    )
    return rows


def scores(variance: Floats, explained: Floats, subset: Integers) -> tuple[float, float]:
    """Return ``(r2, r2_heldout)`` from what a subset explains of each neuron.

    The subset's own neurons count as explained whole: with the ridge they miss it by less than
    ``λ / 4`` each.
    """
    total = variance.sum()
    own = variance[subset].sum()
    outside = total - own
    gained = explained.sum() - explained[subset].sum()
    heldout = gained / outside if len(subset) < len(variance) and outside > 0 else np.nan
    return float((own + gained) / total) if total > 0 else np.nan, float(heldout)


def subset_r2(
    comoment: ArrayLike, subset: ArrayLike, *, ridge: float = 1e-8
) -> tuple[float, float]:
    """Return how much of the layer one subset of its neurons explains.

    With S the subset and T the neurons outside it,
    ``r2_heldout = tr(C_TS (C_SS + λI)⁻¹ C_ST) / tr(C_TT)`` and
    ``r2 = 1 − (1 − r2_heldout) · tr(C_TT) / tr(C)``: variance-weighted over the neurons outside,
    and over all neurons (the paper's, where the subset counts as explained).

    Parameters
    ----------
    comoment
        Centred co-moment of the layer, shape ``(neuron, neuron)``; a covariance serves as well.
    subset
        Indices of the neurons, shape ``(subset neuron,)``, in any order.
    ridge
        Penalty of the regression relative to the mean variance of a neuron.

    Returns
    -------
    r2, r2_heldout
        NaN for ``r2_heldout`` when nothing is outside the subset.

    Raises
    ------
    InvalidParameterError
        When the subset is empty, repeats a neuron or names one that is not there.
    InvalidDataError
        When the co-moment is not square, not finite, or singular on the subset.

    References
    ----------
    arXiv 2106.03485, reconstruction of the layer from a "chunk".

    Examples
    --------
    Two signals, each carried by two neurons:

    >>> signal = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    >>> r2, heldout = subset_r2(signal @ signal.T, [0, 1])
    >>> round(r2, 6), round(heldout, 6)
    (1.0, 1.0)
    >>> round(subset_r2(signal @ signal.T, [0])[0], 6)
    0.5
    """
    matrix = as_comoment(comoment)
    chosen = as_subset(subset, len(matrix))
    explained = loadings(matrix, chosen, penalty(matrix, ridge))
    return scores(np.diagonal(matrix), np.square(explained).sum(axis=0), chosen)


def as_comoment(comoment: ArrayLike) -> Floats:
    """Return the co-moment as float64, or say what is wrong with it."""
    matrix = np.asarray(comoment, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise InvalidDataError(
            f"a co-moment of shape {matrix.shape}; it must be square, (neuron, neuron)"
        )
    # one finite trace and one finite sum are not enough: inf − inf hides in either
    if not np.isfinite(matrix).all():
        raise InvalidDataError("the co-moment holds NaN or infinite values; check the activations")
    if not np.trace(matrix) > 0:
        raise InvalidDataError("every neuron of the layer is dead: no variance to explain")
    return matrix


def as_subset(subset: ArrayLike, n: int) -> Integers:
    """Return the indices as int64, or say what is wrong with them."""
    chosen = np.asarray(subset, dtype=np.int64).ravel()
    if not chosen.size or chosen.min() < 0 or chosen.max() >= n:
        raise InvalidParameterError(
            f"a subset of {chosen.size} neurons; give at least one index between 0 and {n - 1}"
        )
    if len(np.unique(chosen)) < len(chosen):
        raise InvalidParameterError("a neuron is twice in the subset; give each index once")
    return chosen


def check_threshold(threshold: float) -> None:
    """Raise InvalidParameterError unless the threshold is in (0, 1]."""
    if not 0 < threshold <= 1:
        raise InvalidParameterError(f"threshold is {threshold}; give a number in (0, 1]")
