"""The readout fitted again on a subset of the neurons, from moments alone.

Least squares to one-hot labels needs the co-moment of the neurons and their co-moment with the
labels, ``K = Σ (x − μ)(y − ȳ)ᵀ`` of shape ``(neuron, output)``: no second pass over samples,
whatever the subset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.subsets import Floats, as_comoment, as_subset, penalty, subset_factor


@dataclass(frozen=True)
class CrossMoment:
    """Moments of a layer with one-hot labels.

    Attributes
    ----------
    count
        Samples.
    mean_x, mean_y
        Means of the neurons and of the one-hot labels, ``(neuron,)`` and ``(output,)``.
    cross
        Centred co-moment, ``(neuron, output)``.
    """

    count: int
    mean_x: Floats
    mean_y: Floats
    cross: Floats


def one_hot_cross_moment(x: ArrayLike, labels: ArrayLike, n_classes: int) -> CrossMoment:
    """Return the co-moment of activations with one-hot labels.

    A block of samples gives a block's answer; :func:`merge_cross_moments` joins them.

    Parameters
    ----------
    x
        Activations, shape ``(sample, neuron)``.
    labels
        Index of the right output, shape ``(sample,)``.
    n_classes
        Number of outputs.

    Raises
    ------
    InvalidDataError
        When a label is outside 0…n_classes − 1, or the activations are not finite.

    Examples
    --------
    >>> one_hot_cross_moment([[1.0], [3.0]], [0, 1], 2).cross
    array([[-1.,  1.]])
    """
    data, target = np.asarray(x), np.asarray(labels)
    if data.ndim != 2 or target.shape != data.shape[:1] or not len(target):
        raise InvalidDataError(
            f"activations of shape {data.shape} and labels of shape {target.shape}; "
            "give (sample, neuron) and (sample,)"
        )
    if target.dtype.kind not in "iu" or target.min() < 0 or target.max() >= n_classes:
        raise InvalidDataError(
            f"labels from {target.min()} to {target.max()} ({target.dtype}) for {n_classes} "
            "outputs; give integers from 0"
        )
    counts = np.bincount(target, minlength=n_classes).astype(np.float64)
    mean_x = data.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean_x).all():
        raise InvalidDataError("the activations hold NaN or infinite values")
    # Σ (x − μ)(y − ȳ)ᵀ = Σ (x − μ) yᵀ, the sum over the samples of each label; x is centred
    # before it is summed, because a mean large against the spread would cancel digits
    cross = np.zeros((data.shape[1], n_classes))
    for label in np.flatnonzero(counts):
        cross[:, label] = (data[target == label] - mean_x).sum(axis=0)
    return CrossMoment(len(target), mean_x, counts / len(target), cross)


def merge_cross_moments(a: CrossMoment, b: CrossMoment) -> CrossMoment:
    """Return the cross moment of two disjoint sets of samples together.

    References
    ----------
    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).

    Examples
    --------
    >>> parts = [one_hot_cross_moment([[value]], [label], 2) for value, label in [(1, 0), (3, 1)]]
    >>> merge_cross_moments(*parts).cross
    array([[-1.,  1.]])
    """
    count = a.count + b.count
    shift_x, shift_y = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    return CrossMoment(
        count,
        a.mean_x + shift_x * (b.count / count),
        a.mean_y + shift_y * (b.count / count),
        a.cross + b.cross + np.outer(shift_x, shift_y) * (a.count * b.count / count),
    )


def refit_weights(
    comoment: ArrayLike,
    cross_moment: ArrayLike,
    mean_x: ArrayLike,
    mean_y: ArrayLike,
    subset: ArrayLike,
    *,
    ridge: float = 1e-8,
) -> tuple[Floats, Floats]:
    """Return the least-squares readout of a subset of the neurons.

    ``A_Sᵀ = (C_SS + λI)⁻¹ K_S`` and ``b = ȳ − A_S μ_S``, with λ = ridge · tr(C) / neurons: ridge
    regression of the one-hot labels on the subset, intercept not penalised.

    Parameters
    ----------
    comoment
        Centred co-moment of the layer, shape ``(neuron, neuron)``.
    cross_moment
        Co-moment with the one-hot labels, shape ``(neuron, output)``.
    mean_x, mean_y
        Means, shapes ``(neuron,)`` and ``(output,)``.
    subset
        Indices of the neurons, shape ``(subset neuron,)``.
    ridge
        Penalty relative to the mean variance of a neuron.

    Returns
    -------
    weight
        Shape ``(output, subset neuron)``, columns in the order of `subset`.
    intercept
        Shape ``(output,)``.

    Raises
    ------
    InvalidParameterError
        When shapes do not fit or the subset is not one.
    InvalidDataError
        When the co-moment is not finite, or singular on the subset and `ridge` is zero.

    References
    ----------
    The retrained linear probe of arXiv 2306.00183 (Nanda et al. 2023), here by least squares.

    Examples
    --------
    >>> x, labels = np.array([[0.0], [1.0], [2.0], [3.0]]), [0, 0, 1, 1]
    >>> moment = one_hot_cross_moment(x, labels, 2)
    >>> weight, intercept = refit_weights([[5.0]], moment.cross, moment.mean_x, moment.mean_y, [0])
    >>> (x @ weight.T + intercept).round(6)[:, 1]
    array([-0.1,  0.3,  0.7,  1.1])
    """
    matrix = as_comoment(comoment)
    cross = np.asarray(cross_moment, dtype=np.float64)
    centre_x, centre_y = np.asarray(mean_x, np.float64), np.asarray(mean_y, np.float64)
    if cross.shape != (len(matrix), *centre_y.shape) or centre_x.shape != (len(matrix),):
        raise InvalidParameterError(
            f"cross moment of shape {cross.shape}, means of {centre_x.shape} and "
            f"{centre_y.shape}, on {len(matrix)} neurons; give (neuron, output), (neuron,), "
            "(output,)"
        )
    chosen = as_subset(subset, len(matrix))
    factor = subset_factor(matrix, chosen, penalty(matrix, ridge))
    weight: Floats = cho_solve((factor, True), cross[chosen], check_finite=False).T
    return weight, centre_y - weight @ centre_x[chosen]
