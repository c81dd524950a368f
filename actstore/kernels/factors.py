"""A layer as shared signals plus private noise, and the residual correlations that this predicts.

Regressing on neurons that are themselves noisy injects an error that the residuals share, so
independent noise does not mean uncorrelated residuals. The matched null is what the same subsets
would show if the layer were exactly a factor model with the measured covariance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, eigh, lapack

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.independence import residual_correlations
from actstore.kernels.unlocked import add_gram

# Private noise is never let below this share of a neuron's variance: the likelihood may grow
# without bound as one of them goes to 0 (a Heywood case).
_SMALLEST_UNIQUENESS = 1e-6
_FIRST_LIMIT = 64
_TRACY_WIDOM_99 = 2.0234  # 99 % point of the distribution of the largest eigenvalue, β = 1


@dataclass(frozen=True, slots=True, eq=False)
class FactorModel:
    """x = μ + Λz + e with independent z ∼ N(0, I) and e ∼ N(0, Ψ), Ψ diagonal.

    Attributes
    ----------
    loadings
        Λ, ``(neuron, factor)``.
    uniquenesses
        The diagonal of Ψ, ``(neuron,)``: the variance of each neuron's private noise.
    converged
        Whether the search for the largest likelihood ended before its bound on iterations.
    iterations
        How many it made.
    """

    loadings: NDArray[np.float64]
    uniquenesses: NDArray[np.float64]
    converged: bool
    iterations: int

    @property
    def n_factors(self) -> int:
        """How many factors the model has; it may be fewer than were allowed."""
        return int(self.loadings.shape[1])

    @property
    def covariance(self) -> NDArray[np.float64]:
        """ΛΛᵀ + Ψ, ``(neuron, neuron)``."""
        return self.loadings @ self.loadings.T + np.diag(self.uniquenesses)


def fit_factors(
    covariance: NDArray[np.float64],
    *,
    n_factors: int,
    count: int | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-9,
) -> FactorModel:
    r"""Fit a factor model by maximum likelihood.

    Given Ψ the best Λ follows from the leading eigenvectors U and eigenvalues e of
    :math:`Ψ^{-1/2} C Ψ^{-1/2}`, so only Ψ is searched for (L-BFGS on log Ψ), down to the fixed
    point

    .. math:: Λ = Ψ^{1/2} U (e - 1)^{1/2}, \quad Ψ = \operatorname{diag}(C - ΛΛᵀ)

    Iterating these two equations gets there too, but takes hundreds of eigendecompositions on
    nearly rank-deficient layers where the search takes tens.

    Parameters
    ----------
    covariance
        C, ``(neuron, neuron)``, of neurons that vary.
    n_factors
        The largest number of factors. Eigenvalues of 1 or less give none.
    count
        The number of samples, if known: eigenvalues that independent noise would show too (the
        largest of them, in 99 of 100 layers) then give no factor, so that allowing for more
        factors than there are changes nothing.
    max_iterations
        Where to stop the search.
    tolerance
        Relative change of the log-likelihood at which the search has converged.

    Raises
    ------
    InvalidParameterError
        If ``n_factors`` is not in 0 … number of neurons − 1.
    InvalidDataError
        If a neuron does not vary, or C has negative eigenvalues.

    References
    ----------
    Jöreskog (1967), Psychometrika 32, 443; Lawley & Maxwell (1971), "Factor Analysis as a
    Statistical Method", ch. 4.

    Examples
    --------
    >>> covariance = np.full((4, 4), 0.5) + np.diag(np.full(4, 0.5))
    >>> model = fit_factors(covariance, n_factors=1)
    >>> model.converged, model.uniquenesses.round(3).tolist()
    (True, [0.5, 0.5, 0.5, 0.5])
    """
    n = len(covariance)
    if not 0 <= n_factors < max(n, 1):
        raise InvalidParameterError(
            f"n_factors must be 0 to {n - 1} for {n} neurons, not {n_factors}"
        )
    psi = _first_uniquenesses(covariance)
    if count is not None:
        n_factors = _above_noise(covariance, psi, n_factors, count)
    psi, iterations, converged = _search(covariance, psi, n_factors, max_iterations, tolerance)
    values, vectors = _whitened(covariance, psi, n_factors)
    loadings = _loadings(values, vectors, psi, int((values > 1).sum()))
    return FactorModel(loadings, psi, converged, iterations)


def choose_n_factors(
    covariance: NDArray[np.float64], *, count: int, rule: Literal["gap", "bic"] = "gap"
) -> int:
    r"""Choose the number of factors from the eigenvalues e of Ψ^-1/2 C Ψ^-1/2.

    ``gap`` puts the border between signals and noise where consecutive eigenvalues differ most,
    :math:`k = \arg\max_k e_k / e_{k+1}`, and drops those that independent noise would show too.
    Weak correlations of the noise then stay noise; but where signals grow weaker without a gap,
    it takes too few.

    ``bic`` counts every correlation that pays for its parameters,

    .. math:: k = \arg\max_k \sum_{j < k} \big[n (e_j - 1 - \log e_j) - (p - j) \log n\big]

    for p neurons and n samples, alternating with the update of Ψ until k stays for three rounds.
    With many samples it describes any correlated noise as further signals, so that nothing is
    left to contradict independence.

    So the two bracket the answer: it is firm where both give the same.

    Parameters
    ----------
    covariance
        ``(neuron, neuron)``, of neurons that vary.
    count
        The number of samples n.
    rule
        ``gap`` or ``bic``.

    Returns
    -------
    0 … number of neurons − 1; at most half of the neurons and of the samples by ``gap``.

    References
    ----------
    Ahn & Horenstein (2013), Econometrica 81, 1203 (the eigenvalue ratio); Schwarz (1978), Ann.
    Stat. 6, 461, and Bai & Li (2012), Ann. Stat. 40, 436 (the information criterion).

    Examples
    --------
    >>> choose_n_factors(np.full((9, 9), 0.5) + np.diag(np.full(9, 0.5)), count=1000)
    1
    """
    if count < 3:
        raise InvalidDataError(f"{count} samples cannot tell factors from noise; record more")
    psi = _first_uniquenesses(covariance)
    if rule == "bic":
        return _smallest_bic(covariance, psi, count)
    if rule != "gap":
        raise InvalidParameterError(f"rule must be 'gap' or 'bic', not {rule!r}")
    most = min(len(covariance) - 1, count - 1) // 2
    if most == 0:
        return 0
    values, _ = _whitened(covariance, psi, most + 1)
    return _above_noise(covariance, psi, int(np.argmax(values[:-1] / values[1:])) + 1, count)


def matched_null(
    model: FactorModel,
    order: NDArray[np.int64],
    *,
    sizes: Sequence[int],
    count: int,
    repeats: int,
    seed: int,
    ridge: float = 1e-8,
) -> NDArray[np.float64]:
    r"""Simulate the held-out residual correlation of subsets of a factor model.

    Each repeat draws the co-moment of ``count`` Gaussian samples of the model, by Bartlett's
    decomposition (:math:`S = L A AᵀLᵀ ∼ W(Σ, n - 1)` with A lower triangular, χ on its diagonal,
    normal below), and evaluates it as the measured one is evaluated.

    Parameters
    ----------
    model
        Fitted to the measured covariance.
    order
        ``(neuron,)``, a permutation, or ``(subset, neuron)``: then the mean over subsets.
    sizes
        Subset sizes, each in 1 … number of neurons.
    count
        The number of samples of the measurement.
    repeats
        How many measurements to simulate; quantiles over them are an interval.
    seed
        Of the random numbers.

    Returns
    -------
    ``(repeat, size)``, mean |r| over the pairs of neurons outside the subset.

    References
    ----------
    Bartlett (1933), Proc. R. Soc. Edinburgh 53, 260; arXiv 2106.03485 for the quantity.

    Examples
    --------
    >>> model = fit_factors(np.eye(6), n_factors=0)
    >>> null = matched_null(model, np.arange(6), sizes=[2], count=1000, repeats=50, seed=0)
    >>> null.shape, bool(0.02 < null.mean() < 0.03)  # √(2 / 1000 π) = 0.025
    ((50, 1), True)
    """
    if repeats < 1:
        raise InvalidParameterError(f"repeats must be at least 1, not {repeats}")
    rng = np.random.default_rng(seed)
    root = np.asfortranarray(np.linalg.cholesky(model.covariance))
    null = np.empty((repeats, len(sizes)))
    for repeat in range(repeats):
        comoment = _wishart(root, dof=count - 1, rng=rng)
        curves = [
            residual_correlations(comoment, one, sizes=sizes, ridge=ridge).heldout
            for one in np.atleast_2d(order)
        ]
        null[repeat] = np.mean(curves, axis=0)
    return null


def _wishart(
    root: NDArray[np.float64], *, dof: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw from the Wishart distribution of scale root · rootᵀ; singular where dof < neurons."""
    n = len(root)
    diagonal = np.arange(min(n, dof))
    bartlett = np.tril(rng.standard_normal((n, len(diagonal))), -1)
    bartlett[diagonal, diagonal] = np.sqrt(rng.chisquare(dof - diagonal))
    factor = blas.dtrmm(1.0, root, bartlett, lower=1)
    comoment = np.zeros((n, n), order="F")
    add_gram(comoment, factor)
    return np.asarray(np.tril(comoment) + np.tril(comoment, -1).T)


def _first_uniquenesses(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Start from the variance that all other neurons together leave unexplained.

    Jöreskog (1967), Psychometrika 32, 443. The ridge lets it start where C is singular.
    """
    variance = np.diagonal(covariance)
    if not (variance > 0).all():
        raise InvalidDataError(
            f"{int((~(variance > 0)).sum())} of {variance.size} neurons do not vary; leave dead "
            "neurons out"
        )
    scale = np.sqrt(variance)
    correlation = covariance / np.outer(scale, scale)
    correlation[np.diag_indices_from(correlation)] += _SMALLEST_UNIQUENESS
    factor, failed = lapack.dpotrf(correlation.T, lower=1, overwrite_a=1)
    if failed:
        raise InvalidDataError(
            "the covariance has a negative eigenvalue, so it is not the covariance of any layer; "
            "compute the moments again, in float64"
        )
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    return np.asarray(variance * np.clip(1 / np.diagonal(inverse), _SMALLEST_UNIQUENESS, 1.0))


def _smallest_bic(covariance: NDArray[np.float64], psi: NDArray[np.float64], count: int) -> int:
    """Alternate between the best number of factors for this Ψ and Ψ for this number."""
    n = len(psi)
    cost = (n - np.arange(n - 1)) * np.log(count)
    history: list[int] = []
    limit = min(_FIRST_LIMIT, n - 1)
    for _ in range(50):
        values, vectors = _whitened(covariance, psi, limit)
        above = np.maximum(values, 1.0)
        gains = np.cumsum(count * (above - 1 - np.log(above)) - cost[:limit])
        chosen = int(np.argmax(np.append(0.0, gains)))
        if chosen == limit < n - 1:  # the best number may be beyond the eigenvalues computed
            limit = min(2 * limit, n - 1)
            continue
        history.append(chosen)
        if history[-3:] == [chosen] * 3:
            break
        psi = _uniquenesses(covariance, _loadings(values, vectors, psi, chosen))
    return history[-1]


def _above_noise(
    covariance: NDArray[np.float64], psi: NDArray[np.float64], n_factors: int, count: int
) -> int:
    """Count the whitened eigenvalues above those of independent noise, n_factors at most.

    Three rounds, because Ψ starts too small where neurons are many against samples.
    """
    edge = _noise_edge(len(psi), count - 1)
    found = 0
    for _ in range(3):
        values, vectors = _whitened(covariance, psi, n_factors)
        found = int((values > edge).sum())
        psi = _uniquenesses(covariance, _loadings(values, vectors, psi, found))
    return found


def _noise_edge(neurons: int, dof: int) -> float:
    """Return what the largest eigenvalue of independent noise exceeds in 1 of 100 layers.

    It lies about the Marchenko–Pastur edge and beyond it in many: of layers of noise alone, half
    were given a factor by the edge itself. Tracy–Widom: Johnstone (2001), Ann. Stat. 29, 295.
    """
    a, b = np.sqrt(max(dof - 1, 1)), np.sqrt(neurons)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return float((centre + _TRACY_WIDOM_99 * scale) / dof)


def _search(
    covariance: NDArray[np.float64],
    psi: NDArray[np.float64],
    n_factors: int,
    max_iterations: int,
    tolerance: float,
) -> tuple[NDArray[np.float64], int, bool]:
    """Maximise the likelihood over log Ψ from here on; return Ψ, iterations, converged."""
    variance = np.diagonal(covariance)

    def loss(log_psi: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        psi = np.exp(log_psi)
        values, vectors = _whitened(covariance, psi, n_factors)
        values = np.maximum(values, 1.0)
        loadings = _loadings(values, vectors, psi, n_factors)
        # log det Σ + tr Σ⁻¹C at the best Λ for this Ψ, and its derivative by log Ψ
        value = log_psi.sum() + (variance / psi).sum() - (values - 1 - np.log(values)).sum()
        return float(value), 1 - (variance - np.linalg.vecdot(loadings, loadings)) / psi

    # imported where it is used: it takes as long as a query does
    from scipy.optimize import Bounds, minimize

    found = minimize(
        loss,
        np.log(psi),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(np.log(_SMALLEST_UNIQUENESS * variance), np.log(variance)),
        options={"maxiter": max_iterations, "ftol": tolerance, "gtol": 1e-4},
    )
    return np.exp(found.x), int(found.nit), bool(found.success)


def _whitened(
    covariance: NDArray[np.float64], psi: NDArray[np.float64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the k leading eigenvalues (descending) and vectors of Ψ^-1/2 C Ψ^-1/2."""
    n = len(psi)
    if k == 0:
        return np.empty(0), np.empty((n, 0))
    scale = np.sqrt(psi)
    values, vectors = eigh(
        covariance / np.outer(scale, scale), subset_by_index=[n - k, n - 1], check_finite=False
    )
    return values[::-1], vectors[:, ::-1]


def _loadings(
    values: NDArray[np.float64], vectors: NDArray[np.float64], psi: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(psi)[:, None] * vectors[:, :k] * np.sqrt(values[:k] - 1))


def _uniquenesses(
    covariance: NDArray[np.float64], loadings: NDArray[np.float64]
) -> NDArray[np.float64]:
    variance = np.diagonal(covariance)
    private = variance - np.linalg.vecdot(loadings, loadings)
    return np.asarray(np.maximum(private, _SMALLEST_UNIQUENESS * variance))
