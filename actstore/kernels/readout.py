"""Error and loss of the trained readout when it sees only a subset of the neurons.

The readout is ``logits = X Aᵀ + b`` with A of shape ``(output, neuron)``; a subset S keeps the
columns ``A_S`` and the bias as they were trained: no refit. The products and the counting are in
:mod:`actstore.kernels.margins`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.margins import (
    Label,
    judge,
    label_blocks,
    margins_step,
    nested_margins,
    relative_offset,
    relative_slopes,
)


class ReadoutErrors(NamedTuple):
    """What a set of readouts gets wrong.

    Attributes
    ----------
    wrong
        Number of wrong samples, int64.
    loss
        Mean cross-entropy, float64, same shape.
    correct
        Whether each sample is right, bool, one more dimension ``sample`` at the end; None
        unless asked for.
    """

    wrong: NDArray[np.int64]
    loss: NDArray[np.float64]
    correct: NDArray[np.bool_] | None


def subset_errors(
    x: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    *,
    orders: ArrayLike,
    sizes: Sequence[int],
    rescale: bool = False,
    keep_correct: bool = False,
    threads: int = 1,
) -> ReadoutErrors:
    """Return wrong answers and loss of nested random subsets.

    The subset t of size w is ``S = orders[t, :w]``; its logits are ``s · X_S A_Sᵀ + b``, with
    s = 1, or s = neurons / w when `rescale`. Every neuron is multiplied once a permutation: the
    next size adds only its new neurons.

    Parameters
    ----------
    x
        Activations, shape ``(sample, neuron)``.
    labels
        Index of the right output, shape ``(sample,)``.
    weight, bias
        Trained readout, shapes ``(output, neuron)`` and ``(output,)``.
    orders
        Permutations of the neurons, shape ``(subset, neuron)``.
    sizes
        Subset sizes, ascending, in 1…neurons.
    rescale
        Multiply what the subset contributes by neurons / w before the bias is added.
    keep_correct
        Also return which samples are right; ``subsets · sizes · samples`` bytes.
    threads
        Threads over blocks of samples. Set BLAS to one thread where this is above 1.

    Returns
    -------
    wrong, loss, correct
        :class:`ReadoutErrors`; the first two of shape ``(subset, size)``.

    Raises
    ------
    InvalidParameterError
        When shapes do not fit, sizes are not ascending, or an order repeats a neuron.
    InvalidDataError
        When a label is not an output, or activations or readout are not finite.

    Notes
    -----
    float32 activations are multiplied in float32 and losses summed in float64; against
    float64 throughout, the loss agrees to about 1e-6 and a sample changes sides only when its
    two largest logits agree to about 1e-6 of their terms. float64 activations are multiplied
    in float64. Of equal logits the first output wins, as in ``argmax``. The subset of all
    neurons is computed once and is the same for every permutation.

    References
    ----------
    arXiv 2106.03485, "error of a chunk": trained readout, no refit, no rescaling.

    Examples
    --------
    >>> x = np.array([[1.0, 0, 1], [0, 1, 0], [0, 1, 1]])
    >>> answer = subset_errors(
    ...     x, [0, 1, 1], np.array([[1.0, 0, 1], [0, 1, 0]]), [0.0, 0.0],
    ...     orders=[[0, 1, 2]], sizes=[1, 2, 3],
    ... )
    >>> answer.wrong
    array([[2, 0, 1]])
    """
    options: dict[str, Any] = {
        "orders": orders, "sizes": sizes, "keep_correct": keep_correct, "threads": threads
    }  # fmt: skip
    return _nested(x, labels, weight, bias, rescaled=[rescale], **options)[0]


def plain_and_rescaled_errors(
    x: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    *,
    orders: ArrayLike,
    sizes: Sequence[int],
    threads: int = 1,
) -> tuple[ReadoutErrors, ReadoutErrors]:
    """Return what :func:`subset_errors` does without and with `rescale`, of the same products.

    Examples
    --------
    >>> x = np.array([[1.0, 0, 1], [0, 1, 0], [0, 1, 1]])
    >>> plain, rescaled = plain_and_rescaled_errors(
    ...     x, [0, 1, 1], np.array([[1.0, 0, 1], [0, 1, 0]]), [0.0, 1.5],
    ...     orders=[[0, 1, 2]], sizes=[1, 3],
    ... )
    >>> plain.wrong, rescaled.wrong
    (array([[1, 0]]), array([[0, 0]]))
    """
    plain, rescaled = _nested(
        x, labels, weight, bias, orders=orders, sizes=sizes, rescaled=[False, True],
        keep_correct=False, threads=threads,
    )  # fmt: skip
    return plain, rescaled


def readout_errors(
    x: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    biases: ArrayLike,
    *,
    keep_correct: bool = False,
) -> ReadoutErrors:
    """Return wrong answers and loss of several readouts of the same samples.

    Parameters
    ----------
    x, labels
        As in :func:`subset_errors`.
    weights, biases
        Readouts, shapes ``(readout, output, neuron)`` and ``(readout, output)``; zeros for the
        neurons that a readout does not use.
    keep_correct
        Also return which samples are right.

    Returns
    -------
    wrong, loss, correct
        :class:`ReadoutErrors`; the first two of shape ``(readout,)``.

    Raises
    ------
    InvalidParameterError
        When shapes do not fit.
    InvalidDataError
        When a label is not an output, or activations or readout are not finite.

    Examples
    --------
    >>> weights = np.array([[[1.0], [-1.0]], [[-1.0], [1.0]]])
    >>> readout_errors([[2.0], [3.0]], [0, 0], weights, np.zeros((2, 2))).wrong
    array([0, 2])
    """
    stack = np.asarray(weights)
    offsets = np.asarray(biases)
    if stack.ndim != 3 or offsets.shape != stack.shape[:2]:
        raise InvalidParameterError(
            f"readouts of shapes {stack.shape} and {offsets.shape}; "
            "give (readout, output, neuron) and (readout, output)"
        )
    # the block loop wants outputs first, so that one margin is one contiguous stretch
    stack, offsets = stack.transpose(1, 0, 2), offsets.T
    data, target, slopes, intercept = _checked(x, labels, stack, offsets)
    count, width = slopes.shape[1:]
    wrong, loss = np.zeros(count, np.int64), np.zeros(count)
    correct = np.empty((count, len(data)), np.bool_) if keep_correct else None
    step = margins_step(len(slopes), len(data))
    for label, rows in label_blocks(target, len(slopes)):
        samples = data[rows].T
        for start in range(0, count, step):
            part = slice(start, start + step)
            relative = relative_slopes(slopes[:, part], label).astype(data.dtype)
            offset = relative_offset(intercept[:, part], label).astype(data.dtype)
            margins = (relative.reshape(-1, width) @ samples).reshape(
                *relative.shape[:2], len(rows)
            )
            missed, losses = judge(margins + offset[:, :, None], label)
            wrong[part] += missed.sum(axis=-1)
            loss[part] += losses
            if correct is not None:
                correct[part, rows] = ~missed
    return ReadoutErrors(wrong, loss / len(data), correct)


def logits(x: ArrayLike, weight: ArrayLike, bias: ArrayLike) -> NDArray[Any]:
    """Return ``X Aᵀ + b``, shape ``(sample, output)``.

    Examples
    --------
    >>> logits([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.0])
    array([[1.5, 2. ]])
    """
    result: NDArray[Any] = np.asarray(x) @ np.asarray(weight).T + np.asarray(bias)
    return result


def error(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of samples whose largest logit is not the label's; in [0, 1].

    Examples
    --------
    >>> error([[2.0, 1.0], [0.0, 3.0]], [0, 0])
    0.5
    """
    return float(np.mean(np.argmax(logits, axis=-1) != np.asarray(labels)))


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of ``logsumexp(z) − z_label``, in nats, accumulated in float64.

    Examples
    --------
    >>> round(cross_entropy([[0.0, 0.0], [1000.0, 0.0]], [0, 0]), 6)
    0.346574
    """
    z = np.asarray(logits, dtype=np.float64)
    own = np.take_along_axis(z, np.asarray(labels)[:, None], axis=-1)
    return float(np.mean(logsumexp(z - own, axis=-1)))


def _nested(
    x: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    *,
    orders: ArrayLike,
    sizes: Sequence[int],
    rescaled: Sequence[bool],
    keep_correct: bool,
    threads: int,
) -> list[ReadoutErrors]:
    """Count over all blocks of samples once, on one or several threads; one answer a rescaling."""
    data, target, slopes, intercept = _checked(x, labels, weight, bias)
    order, steps = _checked_orders(orders, sizes, data.shape[1])
    # all neurons are the same set for every permutation, and rescaled by one
    whole = bool(steps[-1] == data.shape[1])
    partial = steps[:-1] if whole else steps
    shape = len(rescaled), len(order), len(steps)
    correct = np.empty((*shape, len(data)), np.bool_) if keep_correct else None

    def count(block: tuple[Label, NDArray[np.int64]]) -> tuple[Any, Any]:
        label, rows = block
        wrong, loss = np.zeros(shape, np.int64), np.zeros(shape)

        def put(place: tuple[Any, ...], margins: NDArray[Any]) -> None:
            missed, losses = judge(margins, label)
            wrong[place] = missed.sum(axis=-1)
            loss[place] = losses
            if correct is not None:
                correct[place][..., rows] = ~missed  # the place is a view

        relative = np.ascontiguousarray(relative_slopes(slopes, label).T, dtype=data.dtype)
        offset = relative_offset(intercept, label).astype(data.dtype)
        samples = np.ascontiguousarray(data[rows].T)  # neurons first: a subset is whole rows
        for r, part, k, margins in nested_margins(
            samples, relative, offset, order, partial, rescaled
        ):
            put((r, part, k), margins)
        if whole:
            put((slice(None), slice(None), -1), (relative.T @ samples + offset[:, None])[:, None])
        return wrong, loss

    blocks = label_blocks(target, len(slopes))
    if threads == 1:
        counts = [count(block) for block in blocks]
    else:
        with ThreadPoolExecutor(threads) as pool:
            counts = list(pool.map(count, blocks))
    # summed in the order of the blocks, so that threads do not change the last digit
    wrong, loss = (sum(parts[1:], start=parts[0]) for parts in zip(*counts, strict=True))
    return [
        ReadoutErrors(wrong[r], loss[r] / len(data), None if correct is None else correct[r])
        for r in range(len(rescaled))
    ]


def _checked(
    x: ArrayLike, labels: ArrayLike, weight: ArrayLike, bias: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the arguments as arrays that fit each other; outputs are the first axis."""
    data = np.asarray(x)
    data = data.astype(np.result_type(data.dtype, np.float32), copy=False)
    target = np.asarray(labels)
    # before any product: a matrix product of NaN warns, and a margin of NaN is never positive
    if not np.isfinite(data).all():
        raise InvalidDataError("the activations hold NaN or infinite values")
    slopes = np.asarray(weight, dtype=np.float64)
    intercept = np.asarray(bias, dtype=np.float64)
    if data.ndim != 2 or target.shape != data.shape[:1] or not len(target):
        raise InvalidParameterError(
            f"activations of shape {data.shape} and labels of shape {target.shape}; "
            "give (sample, neuron) and (sample,)"
        )
    if slopes.shape[-1] != data.shape[1] or intercept.shape != slopes.shape[:-1]:
        raise InvalidParameterError(
            f"a readout of shapes {slopes.shape} and {intercept.shape} on {data.shape[1]} "
            "neurons; give (output, neuron) and (output,)"
        )
    if not (np.isfinite(slopes).all() and np.isfinite(intercept).all()):
        raise InvalidDataError("the readout holds NaN or infinite values")
    if target.dtype.kind not in "iu" or target.min() < 0 or target.max() >= len(slopes):
        raise InvalidDataError(
            f"labels from {target.min()} to {target.max()} ({target.dtype}) for {len(slopes)} "
            "outputs; give integers from 0"
        )
    return data, target.astype(np.int64, copy=False), slopes, intercept


def _checked_orders(
    orders: ArrayLike, sizes: Sequence[int], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.asarray(orders, dtype=np.int64)
    steps = np.asarray(sizes, dtype=np.int64)
    if order.ndim != 2 or not np.array_equal(
        np.sort(order, axis=1), np.broadcast_to(np.arange(width), (len(order), width))
    ):
        raise InvalidParameterError(
            f"orders of shape {order.shape}; give permutations of 0…{width - 1}, one a row"
        )
    if not steps.size or (np.diff(steps, prepend=0) <= 0).any() or steps[-1] > width:
        raise InvalidParameterError(
            f"subset sizes {list(sizes)}; give ascending sizes between 1 and {width}"
        )
    return order, steps
