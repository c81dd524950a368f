"""Disjoint subsets of a layer: how much of it each one carries.

The regressions on a part are those of :mod:`actstore.kernels.subsets`; each part costs one
factorisation of its own few neurons.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from actstore.errors import InvalidParameterError
from actstore.kernels.subsets import (
    Floats,
    Integers,
    as_comoment,
    loadings,
    penalty,
    scores,
    subset_r2,
)

__all__ = [
    "clone_to_clone_r2",
    "partition_r2",
    "partition_residual_correlation",
    "random_partition",
    "subset_r2",
]


def random_partition(n: int, size: int, *, seed: int) -> Integers:
    """Return a random partition of `n` neurons into ⌊n / size⌋ disjoint subsets.

    Parameters
    ----------
    n
        Number of neurons.
    size
        Neurons in each subset.
    seed
        Seed of the permutation that is cut into subsets.

    Returns
    -------
    labels
        Number of the subset that holds each neuron, shape ``(neuron,)``; −1 for the
        ``n mod size`` neurons left over.

    Raises
    ------
    InvalidParameterError
        When `size` is not in 1…n.

    Examples
    --------
    >>> sorted(int(label) for label in random_partition(7, 3, seed=0))
    [-1, 0, 0, 0, 1, 1, 1]
    """
    if not 1 <= size <= n:
        raise InvalidParameterError(
            f"subsets of {size} of {n} neurons; give a size between 1 and {n}"
        )
    parts = n // size
    labels = np.full(n, -1, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(n)
    labels[order[: parts * size]] = np.repeat(np.arange(parts), size)
    return labels


def partition_r2(
    comoment: ArrayLike, labels: ArrayLike, *, ridge: float = 1e-8
) -> tuple[Floats, Floats]:
    """Return :func:`subset_r2` of every part of a partition.

    Parameters
    ----------
    comoment
        Centred co-moment, shape ``(neuron, neuron)``.
    labels
        Part of each neuron, 0…parts−1, −1 for none; shape ``(neuron,)``.
    ridge
        As in :func:`subset_r2`.

    Returns
    -------
    r2, r2_heldout
        Shape ``(clone,)`` each.

    Raises
    ------
    InvalidParameterError
        When the labels do not number the parts 0, 1, 2, … without a gap.

    Examples
    --------
    >>> comoment = np.kron(np.ones((2, 2)), np.diag([1.0, 2.0]))
    >>> partition_r2(comoment, [0, 0, 1, 1])[1].round(6)
    array([1., 1.])
    """
    matrix = as_comoment(comoment)
    variance = np.diagonal(matrix)
    values = [
        scores(variance, np.square(rows).sum(axis=0), subset)
        for subset, rows in _parts(matrix, labels, ridge)
    ]
    r2, heldout = np.array(values, dtype=np.float64).reshape(-1, 2).T.copy()
    return r2, heldout


def clone_to_clone_r2(comoment: ArrayLike, labels: ArrayLike, *, ridge: float = 1e-8) -> Floats:
    """Return how much of each part every other part explains.

    ``R²_ij = Σ_{n∈j} explained_i(n) / Σ_{n∈j} C_nn``, variance-weighted over the neurons of
    part j, predicted by ridge regression from part i.

    Parameters
    ----------
    comoment, labels, ridge
        As in :func:`partition_r2`.

    Returns
    -------
    r2
        Shape ``(clone, clone)``: row i predicts, column j is predicted. The diagonal is 1 up to
        the ridge.

    Raises
    ------
    InvalidParameterError
        When the labels do not number the parts 0, 1, 2, … without a gap.

    References
    ----------
    arXiv 2106.03485, the control "disjoint chunk to disjoint chunk".

    Examples
    --------
    >>> comoment = np.kron(np.ones((2, 2)), np.diag([1.0, 2.0]))
    >>> clone_to_clone_r2(comoment, [0, 0, 1, 1]).round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    matrix = as_comoment(comoment)
    groups = as_labels(labels, len(matrix))
    inside = groups >= 0
    part = groups[inside]
    count = int(groups.max()) + 1
    variance = np.bincount(part, weights=np.diagonal(matrix)[inside], minlength=count)
    result = np.empty((count, count))
    for number, (_, rows) in enumerate(_parts(matrix, groups, ridge)):
        explained = np.square(rows).sum(axis=0)[inside]
        result[number] = np.bincount(part, weights=explained, minlength=count)
    with np.errstate(invalid="ignore"):
        return result / variance


def partition_residual_correlation(
    comoment: ArrayLike, labels: ArrayLike, *, ridge: float = 1e-8
) -> Floats:
    """Return the held-out residual correlation of every part of a partition.

    For each part S: regress the neurons outside it on it, and take the mean absolute value of
    the correlations between the residuals ``C_TT − Z_Tᵀ Z_T``, over all pairs outside.

    Parameters
    ----------
    comoment, labels, ridge
        As in :func:`partition_r2`.

    Returns
    -------
    residual_correlation
        Shape ``(clone,)``; NaN where fewer than two neurons outside have a residual.

    Raises
    ------
    InvalidParameterError
        When the labels do not number the parts 0, 1, 2, … without a gap.

    Notes
    -----
    A neuron outside that the part explains down to the ridge or to rounding (a duplicate) has
    no residual, only an artefact of the penalty; it takes no part in the mean.

    References
    ----------
    arXiv 2106.03485; held-out because a residual inside the subset is zero by construction.

    Examples
    --------
    >>> residual_correlation = partition_residual_correlation(np.eye(6), [0, 0, 0, 1, 1, 1])
    >>> residual_correlation.round(6)
    array([0., 0.])
    """
    matrix = as_comoment(comoment)
    jitter = penalty(matrix, ridge)
    result = []
    for subset, rows in _parts(matrix, labels, ridge):
        outside = np.setdiff1d(np.arange(len(matrix)), subset, assume_unique=True)
        residual = matrix[np.ix_(outside, outside)] - rows[:, outside].T @ rows[:, outside]
        variance = np.diagonal(residual)
        rounding = 1e-12 * np.diagonal(matrix)[outside]
        noisy = np.flatnonzero(variance > np.maximum(10 * jitter, rounding))
        if len(noisy) < 2:
            result.append(np.nan)
            continue
        scale = 1 / np.sqrt(variance[noisy])
        residual = residual[np.ix_(noisy, noisy)] * scale * scale[:, None]
        pairs = len(noisy) * (len(noisy) - 1)
        result.append(float((np.abs(residual).sum() - len(noisy)) / pairs))
    return np.array(result, dtype=np.float64)


def as_labels(labels: ArrayLike, n: int) -> Integers:
    """Return the labels as int64, or say what is wrong with them."""
    groups = np.asarray(labels, dtype=np.int64)
    if groups.shape != (n,):
        raise InvalidParameterError(
            f"labels of shape {groups.shape} for {n} neurons; give one label a neuron"
        )
    present = np.unique(groups[groups >= 0])
    if groups.min() < -1 or not np.array_equal(present, np.arange(len(present))):
        raise InvalidParameterError(
            "the labels of the parts have a gap; number them 0, 1, 2, … and −1 for none"
        )
    return groups


def _parts(matrix: Floats, labels: ArrayLike, ridge: float) -> Iterator[tuple[Integers, Floats]]:
    """Yield the neurons and the loadings of every part, in the order of the labels."""
    groups = as_labels(labels, len(matrix))
    jitter = penalty(matrix, ridge)
    for number in range(int(groups.max()) + 1):
        subset = np.flatnonzero(groups == number)
        yield subset, loadings(matrix, subset, jitter)
