"""How much of a layer its subsets explain: R² of every subset size from one factorisation.

Everything follows from the co-moment C ``(neuron, neuron)`` of :mod:`actstore.kernels.moments`;
no sample is read. Dead neurons must have been left out. An ``order`` is a permutation of the
neurons, and its first w neurons are a random subset of size w.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.moments import Moments

_SMALLEST_RIDGE = 1e-12
_STRIP = 64
_CORNER = np.triu(np.ones((_STRIP, _STRIP)))


def random_subsets(n: int, *, subsets: int, seed: int) -> NDArray[np.int64]:
    """Draw random permutations; the first w entries of row t are the t-th subset of size w.

    The subsets of one row are nested. Asking for more subsets leaves the first ones as they are.

    Returns
    -------
    ``(subset, n)``, each row a permutation of 0 … n − 1.

    Examples
    --------
    >>> order = random_subsets(5, subsets=2, seed=0)
    >>> order.shape, sorted(order[1].tolist())
    ((2, 5), [0, 1, 2, 3, 4])
    """
    if subsets < 1:
        raise InvalidParameterError(f"subsets must be at least 1, not {subsets}")
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(subsets)])


def prefix_r2(
    comoment: NDArray[np.float64], order: NDArray[np.int64], *, ridge: float = 1e-8
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return R² of the layer from the first w neurons of an order, for every w.

    With the neurons in this order and :math:`C + λI = LLᵀ`, what the first w neurons leave
    unexplained is the trace of a Schur complement, a sum over the columns of L:

    .. math::

        \text{SSE}(w) = \sum_{j ≥ w} \Big(\sum_{i ≥ j} L_{ij}^2 - λ\Big), \quad
        r2(w) = 1 - \frac{\text{SSE}(w)}{\operatorname{tr} C}, \quad
        r2\_heldout(w) = 1 - \frac{\text{SSE}(w)}{\sum_{i ≥ w} C_{ii}}

    It is the variance-weighted R² of a ridge regression fitted and scored on the same samples.

    Parameters
    ----------
    comoment
        C, ``(neuron, neuron)``.
    order
        ``(neuron,)``, a permutation.
    ridge
        λ as a share of the mean of the diagonal of C; less than 1e-12 counts as 1e-12.

    Returns
    -------
    r2
        ``(neuron,)``, all neurons are targets, as in the paper; entry w − 1 is size w.
    r2_heldout
        ``(neuron,)``, neurons outside the subset only; the last entry is NaN.

    Raises
    ------
    InvalidDataError
        If no neuron varies, or C is not the co-moment of anything.

    References
    ----------
    arXiv 2106.03485. Leaving the subset's own neurons out keeps the mechanical rise of
    R² out as well: they count as perfectly explained in ``r2``.

    Examples
    --------
    >>> r2, r2_heldout = prefix_r2(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([0, 1]))
    >>> r2.round(6).tolist(), r2_heldout.round(6).tolist()
    ([0.625, 1.0], [0.25, nan])
    """
    variance = np.diagonal(comoment)[order]
    jitter = ridge_of(comoment, ridge=ridge)
    factor = prefix_factor(comoment, order, jitter=jitter)
    explained = np.linalg.vecdot(factor.T, factor.T)
    # No pivot of C + λI is below λ but by round-off: cut that off, so that R² never falls.
    unexplained = _tail_sums(np.maximum(explained - jitter, 0.0))
    outside = _tail_sums(variance)
    outside[-1] = np.nan
    return 1 - unexplained / variance.sum(), 1 - unexplained / outside


def r2_curves(
    comoment: NDArray[np.float64], *, subsets: int, seed: int, ridge: float = 1e-8
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return :func:`prefix_r2` of each of :func:`random_subsets`, stacked: ``(subset, neuron)``.

    Examples
    --------
    >>> r2, r2_heldout = r2_curves(np.eye(4), subsets=3, seed=0)
    >>> r2.shape, r2[0].round(6).tolist()
    ((3, 4), [0.25, 0.5, 0.75, 1.0])
    """
    orders = random_subsets(len(comoment), subsets=subsets, seed=seed)
    curves = [prefix_r2(comoment, order, ridge=ridge) for order in orders]
    r2, r2_heldout = (np.stack(curve) for curve in zip(*curves, strict=True))
    return r2, r2_heldout


def cross_prefix_r2(
    fit: Moments,
    score: Moments,
    order: NDArray[np.int64],
    *,
    sizes: Sequence[int],
    ridge: float = 1e-8,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return R² on one split of the regressions that were fitted on another.

    With coefficients :math:`B = (C_{SS} + λI)^{-1} C_{S:}` and means of the split ``fit``, and G
    the second moment of the split ``score`` about the means of ``fit``,

    .. math::

        \text{SSE}_j = G_{jj} - 2 (BᵀG_{S:})_{jj} + (BᵀG_{SS}B)_{jj}, \quad
        G = C_{score} + n_{score} δδᵀ, \; δ = μ_{score} - μ_{fit}

    Parameters
    ----------
    fit, score
        Moments of the same neurons over the samples of either split.
    order
        ``(neuron,)``, a permutation; the subset of size w is its first w neurons.
    sizes
        Subset sizes, each in 1 … number of neurons.
    ridge
        λ as a share of the mean of the diagonal of the co-moment of ``fit``.

    Returns
    -------
    r2, r2_heldout
        ``(size,)``; like any R² on new samples they may be negative. ``r2_heldout`` is NaN where
        no neuron is outside.

    Raises
    ------
    InvalidParameterError
        If a size is out of range.
    InvalidDataError
        If the splits differ in width, or no neuron varies on the split ``fit``.
    """
    if fit.mean.size != score.mean.size:
        raise InvalidDataError(
            f"one split has {fit.mean.size} neurons and the other {score.mean.size}; "
            "compare splits of one layer"
        )
    n = len(order)
    check_sizes(sizes, n)
    jitter = ridge_of(fit.comoment, ridge=ridge)
    c = fit.comoment[np.ix_(order, order)]
    delta = (score.mean - fit.mean)[order]
    g = score.comoment[np.ix_(order, order)] + np.outer(delta, delta * score.count)
    factor = prefix_factor(fit.comoment, order, jitter=jitter)
    variance = np.diagonal(score.comoment)[order]
    r2, r2_heldout = np.full((2, len(sizes)), np.nan)
    for k, w in enumerate(sizes):
        b = cho_solve((factor[:w, :w], True), c[:w], check_finite=False)
        sse = np.diagonal(g) + np.einsum("ij,ij->j", b, g[:w, :w] @ b - 2 * g[:w])
        r2[k] = 1 - sse.sum() / variance.sum()
        if w < n:
            r2_heldout[k] = 1 - sse[w:].sum() / variance[w:].sum()
    return r2, r2_heldout


def critical_size(r2: NDArray[np.float64], threshold: float) -> int:
    """Return the smallest subset size whose R² reaches the threshold; all neurons if none does.

    Parameters
    ----------
    r2
        ``(neuron,)``, a curve over sizes 1 … n, usually the mean over subsets. The size of all
        neurons counts as reached, where R² of the neurons outside is NaN.
    threshold
        In (0, 1].

    References
    ----------
    arXiv 2106.03485. On integers: interpolating between powers of two is 5–15 % off at the knee.

    Examples
    --------
    >>> critical_size(np.array([0.2, 0.7, 0.96, np.nan]), 0.95)
    3
    """
    if not 0 < threshold <= 1:
        raise InvalidParameterError(f"the threshold of R² must be in (0, 1], not {threshold}")
    if r2.ndim != 1 or not r2.size:
        raise InvalidParameterError(
            f"critical_size takes one curve (neuron,), not an array {r2.shape}; average first"
        )
    reached = r2 >= threshold
    reached[-1] = True
    return int(np.argmax(reached)) + 1


def ridge_of(comoment: NDArray[np.float64], *, ridge: float) -> float:
    """Return λ = ridge · tr C / n, refusing a layer that has no variance to explain.

    A ridge below 1e-12 counts as 1e-12: for neurons that others reproduce exactly, less than that
    would divide round-off by round-off.
    """
    if not 0 <= ridge < np.inf:
        raise InvalidParameterError(f"ridge must be a finite number from 0 up, not {ridge}")
    total = float(np.trace(comoment))
    if not 0 < total < np.inf:
        raise InvalidDataError(
            f"the variances of the {len(comoment)} neurons sum to {total}; there is nothing to "
            "explain, so leave out layers of dead neurons"
        )
    return max(ridge, _SMALLEST_RIDGE) * total / len(comoment)


def check_sizes(sizes: Sequence[int], n: int) -> None:
    """Refuse subset sizes outside 1 … n."""
    wrong = [int(w) for w in sizes if not 1 <= w <= n]
    if wrong:
        raise InvalidParameterError(
            f"subset size {wrong[0]} is out of range; the layer has {n} neurons that vary, so "
            f"choose 1 to {n}"
        )


def permuted(comoment: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return C with its neurons in this order, a new array in Fortran order for LAPACK."""
    # Rows, then columns: four times as fast as np.ix_ at 512 neurons. C is symmetric.
    return comoment.take(order, axis=0).take(order, axis=1).T


def prefix_factor(
    comoment: NDArray[np.float64], order: NDArray[np.int64], *, jitter: float
) -> NDArray[np.float64]:
    """Return the lower triangular L, LLᵀ = C + jitter · I with the neurons in this order.

    Where Cholesky meets a pivot that is not positive (a layer of lower rank than its width, and
    round-off above the jitter), L is the triangle of a QR of a square root of the same matrix,
    which needs no positive pivots; its columns beyond the rank are round-off.
    """
    matrix = permuted(comoment, order)
    np.einsum("ii->i", matrix)[:] += jitter
    factor, failed = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
    if not failed:
        # Cleared here, in strips: clean=1 would cost a third of the factorisation itself.
        rows = factor.T
        for start in range(0, len(rows), _STRIP):
            stop = start + _STRIP
            rows[start:stop, :start] = 0.0
            corner = rows[start:stop, start:stop]
            corner *= _CORNER[: len(corner), : len(corner)]
        return np.asarray(factor)
    values, vectors = np.linalg.eigh(comoment)
    if values[0] < -1e-8 * values[-1]:
        raise InvalidDataError(
            f"the co-moment has the negative eigenvalue {values[0]:.3g}, so it is not the "
            "co-moment of any layer; compute the moments again, in float64"
        )
    root = np.sqrt(np.maximum(values, 0.0) + jitter)[:, None] * vectors[order].T
    triangle = np.linalg.qr(root).R
    return np.asarray(triangle.T)


def _tail_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Σ of the entries after each one: entry w − 1 sums over w, w + 1, …."""
    return np.append(np.cumsum(values[:0:-1])[::-1], 0.0)
