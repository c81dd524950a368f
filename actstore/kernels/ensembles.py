"""Several networks answering together: averaging, paired comparison, bias and variance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri, softmax

from actstore.errors import InvalidParameterError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers on the same samples; see :func:`mcnemar`."""

    n_samples: int
    only_a: int  # samples that a alone answers right
    only_b: int  # samples that b alone answers right
    statistic: float
    p_value: float
    difference: float  # error of a minus error of b: negative where a is better
    low: float
    high: float
    level: float


class BiasVariance(NamedTuple):
    """Mean squared error of class probabilities, cut in two; see :func:`bias_variance`."""

    bias2: float
    variance: float


def average_logits(members: Sequence[ArrayLike] | NDArray[Any]) -> Floats:
    """Return the mean of the members' logits, in float64.

    Parameters
    ----------
    members
        Logits, one array ``(sample, output)`` a member, or one array
        ``(member, sample, output)``.

    Returns
    -------
    logits
        Shape ``(sample, output)``.

    Raises
    ------
    InvalidParameterError
        When there is no member, or their shapes differ.

    References
    ----------
    arXiv 2106.03485: logits summed over independently seeded networks.

    Examples
    --------
    >>> average_logits([[[0.0, 2.0]], [[4.0, 0.0]]])
    array([[2., 1.]])
    """
    return np.asarray(_stacked(members).mean(axis=0))


def average_probabilities(members: Sequence[ArrayLike] | NDArray[Any]) -> Floats:
    """Return the mean over members of ``softmax(logits)``, in float64.

    Parameters, errors and shapes are those of :func:`average_logits`.

    Examples
    --------
    >>> average_probabilities([[[0.0, 0.0]], [[1000.0, 0.0]]])
    array([[0.75, 0.25]])
    """
    return np.asarray(softmax(_stacked(members), axis=-1).mean(axis=0))


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, *, level: float = 0.95) -> PairedComparison:
    """Compare the errors of two classifiers on the same samples.

    Only the samples that one alone answers right say anything. With n₁ of them for a and n₂ for
    b, ``statistic = (n₁ − n₂)² / (n₁ + n₂)`` and the two-sided p value is that of n₁ in the
    exact binomial distribution of n₁ + n₂ fair draws.

    Parameters
    ----------
    correct_a, correct_b
        Whether each sample is right, shape ``(sample,)``.
    level
        Of the interval of the difference of errors.

    Returns
    -------
    PairedComparison
        Both discordant counts, statistic, p value, ``difference = error_a − error_b`` with its
        interval.

    Raises
    ------
    InvalidParameterError
        When the two differ in length or are empty, or the level is outside (0, 1).

    Notes
    -----
    The interval is Agresti and Min's: half a sample is added to each of the four cells of the
    paired table, then Wald's formula
    ``d ± z √((n₁ + n₂) − (n₁ − n₂)² / n) / n``. It keeps its coverage where few samples are
    discordant, and where none is it does not shrink to a point.

    References
    ----------
    McNemar (1947), Psychometrika 12, 153. Agresti and Min (2005), "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24, 729.

    Examples
    --------
    >>> answer = mcnemar([True] * 9 + [False], [True] * 4 + [False] * 6)
    >>> answer.only_a, answer.only_b, answer.difference, answer.p_value
    (5, 0, -0.5, 0.0625)
    """
    a, b = np.asarray(correct_a, dtype=np.bool_), np.asarray(correct_b, dtype=np.bool_)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise InvalidParameterError(
            f"answers of shapes {a.shape} and {b.shape}; give two rows over the same samples"
        )
    if not 0 < level < 1:
        raise InvalidParameterError(f"level is {level}; give a number between 0 and 1")
    n, only_a, only_b = a.size, int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    # the added halves cancel in the difference of the discordant counts
    middle = (only_b - only_a) / (n + 2)
    half = (
        ndtri((1 + level) / 2)
        * np.sqrt((discordant + 1) - (only_b - only_a) ** 2 / (n + 2))
        / (n + 2)
    )
    return PairedComparison(
        n_samples=n,
        only_a=only_a,
        only_b=only_b,
        statistic=(only_a - only_b) ** 2 / discordant if discordant else 0.0,
        # the exact two-sided test; scipy.stats would take half a second to import for it
        p_value=min(1.0, 2 * float(bdtr(min(only_a, only_b), discordant, 0.5))),
        difference=(only_b - only_a) / n,
        low=max(-1.0, float(middle - half)),
        high=min(1.0, float(middle + half)),
        level=level,
    )


def bias_variance(
    probabilities: ArrayLike, labels: ArrayLike, *, unbiased: bool = True
) -> BiasVariance:
    """Return bias² and variance of class probabilities over seeds.

    With p_s the probabilities of seed s, p̄ their mean and y the one-hot label, for each sample

    ``mean_s ‖p_s − y‖² = ‖p̄ − y‖² + mean_s ‖p_s − p̄‖²``,

    averaged over samples: loss = bias² + variance, exactly.

    Parameters
    ----------
    probabilities
        Softmax outputs, shape ``(seed, sample, output)``.
    labels
        Index of the right output, shape ``(sample,)``.
    unbiased
        Multiply the variance by seeds / (seeds − 1) and take the same amount off bias², so that
        neither depends on the number of seeds in expectation. Their sum stays the loss; bias²
        can come out slightly negative. False gives the two terms of the equation.

    Returns
    -------
    bias2, variance
        NaN with `unbiased` and a single seed.

    Raises
    ------
    InvalidParameterError
        When shapes do not fit or a label is not an output.

    References
    ----------
    Neal et al., "A modern take on the bias-variance tradeoff in neural networks"
    (arXiv 1810.08591); Yang et al., "Rethinking bias-variance trade-off for generalization of
    neural networks" (arXiv 2002.11328), with its unbiased estimator.

    Examples
    --------
    >>> bias_variance([[[1.0, 0.0]], [[0.0, 1.0]]], [0], unbiased=False)
    BiasVariance(bias2=0.5, variance=0.5)
    """
    p = np.asarray(probabilities, dtype=np.float64)
    target = np.asarray(labels)
    if p.ndim != 3 or not p.size or target.shape != p.shape[1:2]:
        raise InvalidParameterError(
            f"probabilities of shape {p.shape} and labels of shape {target.shape}; "
            "give (seed, sample, output) and (sample,)"
        )
    if target.dtype.kind not in "iu" or target.min() < 0 or target.max() >= p.shape[2]:
        raise InvalidParameterError(
            f"labels from {target.min()} to {target.max()} for {p.shape[2]} outputs; "
            "give integers from 0"
        )
    mean = p.mean(axis=0)
    error = mean.copy()
    error[np.arange(len(target)), target] -= 1
    bias2 = np.square(error).sum(axis=-1).mean()
    variance = np.square(p - mean).sum(axis=-1).mean()
    if unbiased:
        seeds = len(p)
        extra = variance / (seeds - 1) if seeds > 1 else np.nan
        bias2, variance = bias2 - extra, variance + extra
    return BiasVariance(float(bias2), float(variance))


def _stacked(members: Sequence[ArrayLike] | NDArray[Any]) -> Floats:
    arrays = [np.asarray(member, dtype=np.float64) for member in members]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InvalidParameterError(
            f"{len(arrays)} members of shapes {shapes}; give at least one, all (sample, output)"
        )
    return np.stack(arrays)
