"""Is what a subset leaves over independent noise? Correlations of the residuals, and their floor.

The residual covariance of the neurons outside a subset is a Schur complement of the co-moment C
``(neuron, neuron)``; no sample is read. Dead neurons must have been left out. An ``order`` is a
permutation of the neurons, and its first w neurons are a random subset of size w.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack

from actstore.kernels.reconstruction import check_sizes, permuted, prefix_factor, ridge_of
from actstore.kernels.unlocked import add_gram, solve_right, symmetric_times

_DENSE = 64  # up to this many neurons LAPACK is as fast as Lanczos


class ResidualCorrelations(NamedTuple):
    """Correlations of the residuals of one order of the neurons, by subset size.

    Attributes
    ----------
    heldout
        ``(size,)``, mean |r| over the pairs of neurons outside the subset.
    paper
        ``(size,)``, mean |r| over all pairs, as in the paper.
    largest_eigenvalue
        ``(size,)``, of the correlation matrix of the residuals outside; NaN if not asked for.
    """

    heldout: NDArray[np.float64]
    paper: NDArray[np.float64]
    largest_eigenvalue: NDArray[np.float64]


def residual_correlations(
    comoment: NDArray[np.float64],
    order: NDArray[np.int64],
    *,
    sizes: Sequence[int],
    ridge: float = 1e-8,
    eigenvalues: bool = False,
) -> ResidualCorrelations:
    r"""Return how strongly the residuals of subsets correlate, for nested subsets of an order.

    .. math::

        r_{ij} = \frac{R_{ij}}{\sqrt{R_{ii} R_{jj}}}, \quad
        R = C_{22} - C_{21} (C_{11} + λI)^{-1} C_{12}

    where 1 is the subset and 2 the rest. Residuals of the subset's own neurons are zero, so the
    paper's mean over all W neurons is the held-out one × (W − w)(W − w − 1) / (W (W − 1)): its
    fall towards w = W is arithmetic.

    A neuron that the subset reproduces (a duplicate, or any neuron in a layer of lower rank) has
    a residual of 0 whose correlations are 0/0. It is counted out of ``heldout`` and of the
    eigenvalue, and counts with r = 0 in ``paper``, as it does in the paper's script, which adds
    1e-8 to the denominator. Counted out is what keeps less than 100 · ridge of its variance (or
    of the mean variance, if that is more): there λ, and the rounding of stored activations,
    would make the answer. For all others λ changes r by less than 1 %, mostly far less.

    Parameters
    ----------
    comoment
        C, ``(neuron, neuron)``.
    order
        ``(neuron,)``, a permutation.
    sizes
        Subset sizes, each in 1 … number of neurons, in any order.
    ridge
        λ as a share of the mean of the diagonal of C; less than 1e-12 counts as 1e-12.
    eigenvalues
        Whether to compute the largest eigenvalues too; it takes several times as long.

    Returns
    -------
    Three arrays ``(size,)``. ``heldout`` is NaN and ``paper`` is 0 where fewer than two neurons
    are outside or not counted out.

    Raises
    ------
    InvalidParameterError
        If a size is out of range.
    InvalidDataError
        If no neuron varies.

    References
    ----------
    arXiv 2106.03485 (correlation of the residuals).

    Examples
    --------
    >>> c = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.5, 1.0]])
    >>> found = residual_correlations(c, np.array([0, 1, 2]), sizes=[1, 2])
    >>> found.heldout.round(6).tolist(), found.paper.round(6).tolist()
    ([0.5, nan], [0.166667, 0.0])
    """
    n = len(order)
    check_sizes(sizes, n)
    jitter = ridge_of(comoment, ridge=ridge)
    variance = np.diagonal(comoment)[order]
    smallest = 100 * jitter * np.maximum(variance / variance.mean(), 1.0)
    work = np.empty(n * n)
    found = {}
    for w, residual in _residual_covariances(comoment, order, sorted(set(sizes)), jitter):
        spread = np.diagonal(residual)
        counted = spread > smallest[w:]
        pairs = counted.sum() * (counted.sum() - 1) / 2
        if pairs == 0:
            continue
        scale = np.where(counted, 1 / np.sqrt(np.where(counted, spread, 1.0)), 0.0)
        total = _sum_of_magnitudes(residual, scale, work)
        largest = _largest_eigenvalue(residual, scale) if eigenvalues else np.nan
        found[w] = (total / pairs, total / (n * (n - 1) / 2), largest)
    rows = np.array([found.get(w, (np.nan, 0.0, np.nan)) for w in sizes]).reshape(-1, 3)
    return ResidualCorrelations(*np.ascontiguousarray(rows.T))


def residual_covariance(
    comoment: NDArray[np.float64], order: NDArray[np.int64], size: int, *, ridge: float = 1e-8
) -> NDArray[np.float64]:
    """Return the co-moment of the residuals outside the first ``size`` neurons of an order.

    Returns
    -------
    R of :func:`residual_correlations`, ``(neuron, neuron)``: row i is neuron order[size + i].

    Examples
    --------
    >>> residual_covariance(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([0, 1]), 1).round(6)
    array([[1.5]])
    """
    check_sizes([size], len(order))
    jitter = ridge_of(comoment, ridge=ridge)
    for _, residual in _residual_covariances(comoment, order, [size], jitter):
        return np.tril(residual) + np.tril(residual, -1).T
    return np.empty((0, 0))


def sampling_floor(dof: ArrayLike) -> NDArray[np.float64]:
    """Return the mean |r| of independent Gaussian noise at these degrees of freedom.

    √(2 / (π · dof)), with dof = samples − 1 − w for the residuals of a subset of size w. It is a
    lower bound: a regression on noisy neurons adds an error that the residuals share, which
    :func:`actstore.kernels.factors.matched_null` accounts for.

    Examples
    --------
    >>> round(float(sampling_floor(10_000)), 4)
    0.008
    """
    dof = np.asarray(dof, dtype=np.float64)
    return np.sqrt(2 / (np.pi * np.where(dof > 0, dof, np.nan)))


def marchenko_pastur_edge(neurons: ArrayLike, dof: ArrayLike) -> NDArray[np.float64]:
    """Return the largest eigenvalue to expect of the correlations of independent neurons.

    (1 + √(neurons / dof))², the upper edge of the Marchenko–Pastur law.

    References
    ----------
    Marchenko & Pastur (1967), Math. USSR-Sbornik 1, 457; for correlation matrices Jiang (2004),
    Sankhya 66, 35.

    Examples
    --------
    >>> float(marchenko_pastur_edge(256, 1024))
    2.25
    """
    dof = np.asarray(dof, dtype=np.float64)
    return (1 + np.sqrt(np.asarray(neurons) / np.where(dof > 0, dof, np.nan))) ** 2


def _residual_covariances(
    comoment: NDArray[np.float64], order: NDArray[np.int64], sizes: Sequence[int], jitter: float
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield size and R, of which the lower triangle counts, for ascending sizes below n.

    A Cholesky factorisation with the sizes as its block boundaries: what it has left to factor
    at each boundary *is* the residual covariance, so all sizes together cost one factorisation.
    λ is added to the pivots only and never to R itself.
    """
    rest = permuted(comoment, order)
    factor: NDArray[np.float64] | None = None
    done = 0
    for w in sizes:
        if w == len(order):
            return
        step = w - done
        if factor is None:
            corner = rest[:step, :step] + jitter * np.eye(step)
            triangle, failed = lapack.dpotrf(corner, lower=1, overwrite_a=1)
            if failed:  # rank below width, and round-off above λ
                factor = prefix_factor(comoment, order, jitter=jitter)
        if factor is None:
            below = solve_right(triangle, rest[step:, :step])
        else:
            below = np.asfortranarray(factor[w:, done:w])
        rest = np.array(rest[step:, step:], order="F")
        add_gram(rest, below, scale=-1.0)
        done = w
        yield w, rest


def _sum_of_magnitudes(
    residual: NDArray[np.float64], scale: NDArray[np.float64], work: NDArray[np.float64]
) -> float:
    """Return Σ |r_ij| over the pairs i > j: sᵀ|R|s / 2 with a zero diagonal, s = 1 / √R_ii."""
    m = len(residual)
    magnitude = work[: m * m].reshape(m, m).T
    np.abs(residual, out=magnitude)
    np.fill_diagonal(magnitude, 0.0)
    return float(scale @ symmetric_times(magnitude, scale)) / 2


def _largest_eigenvalue(residual: NDArray[np.float64], scale: NDArray[np.float64]) -> float:
    m = len(residual)
    if m <= _DENSE:
        # The rows of neurons that are counted out are zero: they add eigenvalues of 0 only.
        return float(np.linalg.eigvalsh(residual * np.outer(scale, scale))[-1])
    # imported where it is used: it takes as long as a query does
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = LinearOperator(
        (m, m),
        matvec=lambda v: scale * symmetric_times(residual, scale * v.ravel()),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).normal(size=m)  # where Lanczos starts, not what it finds
    return float(eigsh(operator, k=1, which="LA", tol=1e-4, v0=start)[0][0])
