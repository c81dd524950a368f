"""What the paper's script computes, in scikit-learn and brute force: the tests' second opinion.

arXiv 2106.03485: ridge regression from a random subset of the neurons to all of them, its
variance-weighted R², and the mean absolute correlation of what it leaves over.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

Array = NDArray[np.float64]


def residuals(x: Array, subset: Array) -> Array:
    """Regress every neuron on the subset and return what is left over, (sample, neuron)."""
    predicted = Ridge(alpha=1e-8).fit(x[:, subset], x).predict(x[:, subset])
    return np.asarray(x - predicted)


def outside(x: Array, subset: Array) -> Array:
    """List the neurons that are not in the subset, in ascending order."""
    return np.setdiff1d(np.arange(x.shape[1]), subset)


def r2(x: Array, subset: Array) -> float:
    """R² of the layer from the subset, as in the paper: all neurons are targets."""
    return float(r2_score(x, x - residuals(x, subset), multioutput="variance_weighted"))


def r2_heldout(x: Array, subset: Array) -> float:
    """R² of the neurons outside the subset."""
    rest = outside(x, subset)
    predicted = x - residuals(x, subset)
    return float(r2_score(x[:, rest], predicted[:, rest], multioutput="variance_weighted"))


def cross_r2(fit: Array, score: Array, subset: Array) -> float:
    """R² on the samples of one split, of a regression fitted on another."""
    model = Ridge(alpha=1e-8).fit(fit[:, subset], fit)
    return float(r2_score(score, model.predict(score[:, subset]), multioutput="variance_weighted"))


def cross_r2_heldout(fit: Array, score: Array, subset: Array) -> float:
    """Do the same for the neurons outside the subset."""
    rest = outside(fit, subset)
    model = Ridge(alpha=1e-8).fit(fit[:, subset], fit[:, rest])
    predicted = model.predict(score[:, subset])
    return float(r2_score(score[:, rest], predicted, multioutput="variance_weighted"))


def residual_correlation(x: Array, subset: Array) -> float:
    """Mean |r| of the residuals over all pairs of neurons, 1e-8 added to the denominator."""
    return float(np.abs(_pairs(residuals(x, subset))).mean())


def residual_correlation_heldout(x: Array, subset: Array) -> float:
    """Mean |r| of the residuals over the pairs of neurons outside the subset."""
    return float(np.abs(_pairs(residuals(x, subset)[:, outside(x, subset)])).mean())


def _pairs(residual: Array) -> Array:
    covariance = np.cov(residual.T, bias=True)
    spread = np.sqrt(np.diagonal(covariance))
    correlation = covariance / (np.outer(spread, spread) + 1e-8)
    return np.asarray(correlation[np.tril_indices_from(correlation, -1)])
