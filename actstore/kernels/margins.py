"""By how much every other output beats that of the label: the inner loop of subset errors.

Samples are sorted by label and cut into blocks that stay in cache. Within a block every sample
has the same label y, so that the *margins* ``X (A − A_y)ᵀ + b − b_y`` say all: a sample is wrong
if one is positive, and its cross-entropy is ``log(1 + Σ exp margins)``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Samples in a block, and margins (numbers) held at once: both sized to stay in a cache of 1 MB.
_BLOCK = 2048
_MARGINS = 2**17
# Samples a label, on average, below which blocks mix labels.
_FEW = 64
# exp() of a margin beyond this would overflow float32 when summed over outputs
_LARGE = 60.0

Label = int | NDArray[np.int64]  # of all samples of a block, or of each


def nested_margins(
    samples: NDArray[Any],
    relative: NDArray[Any],
    offset: NDArray[Any],
    orders: NDArray[np.int64],
    sizes: NDArray[np.int64],
    rescaled: Sequence[bool],
) -> Iterator[tuple[int, slice, int, NDArray[Any]]]:
    """Yield the margins of a few permutations at a time, at one size after the other.

    Where labels differ within the block these are the logits; :func:`judge` takes either.

    ``samples`` is ``(neuron, sample)``, ``relative`` is ``(neuron, output)``, ``offset`` is
    ``(output,)``. Each item is the number of an entry of ``rescaled``, a slice of permutations,
    the number of the size, and margins ``(output, subset, sample)`` that the receiver may
    overwrite.
    """
    outputs, width, count = len(offset), *samples.shape
    step = min(len(orders), margins_step(outputs, count))
    widest = int(np.diff(sizes, prepend=0).max(initial=0))
    gathered = np.empty((widest, count), samples.dtype)
    total = np.empty((outputs, step, count), samples.dtype)
    margins = np.empty_like(total)
    for first in range(0, len(orders), step):
        part = slice(first, min(first + step, len(orders)))
        summed, view = (array[:, : part.stop - first] for array in (total, margins))
        summed[:] = 0
        start = 0
        for k, stop in enumerate(sizes):
            for t, order in enumerate(orders[part]):
                new = order[start:stop]
                # "clip" lets take write into `out` without a copy
                rows = np.take(samples, new, axis=0, out=gathered[: len(new)], mode="clip")
                np.matmul(relative[new].T, rows, out=view[:, t])
            summed += view
            for r, rescale in enumerate(rescaled):
                if rescale:
                    np.multiply(summed, summed.dtype.type(width / stop), out=view)
                    view += offset[:, None, None]
                else:
                    np.add(summed, offset[:, None, None], out=view)
                yield r, part, k, view
            start = stop


def margins_step(outputs: int, samples: int) -> int:
    """Return how many subsets or readouts to hold the margins of at once."""
    return max(1, _MARGINS // (outputs * min(samples, _BLOCK)))


def judge(margins: NDArray[Any], label: Label) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which samples are wrong, and the summed loss; overwrites the margins.

    ``margins``: shape ``(output, subset, sample)``. Of equal logits the first output wins.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if isinstance(label, int):
            before = np.maximum.reduce(margins[:label], axis=0, initial=-np.inf)
            after = np.maximum.reduce(margins[label + 1 :], axis=0, initial=-np.inf)
            missed = (before >= 0) | (after > 0)
            worst = np.maximum(before, after, out=before)
        else:
            missed, worst = _subtract_own(margins, label)
        if worst.max() <= _LARGE:
            total = np.exp(margins, out=margins).sum(axis=0)
            losses = np.log1p(total, out=total)
        else:
            np.maximum(worst, 0, out=worst)
            margins -= worst
            total = np.exp(margins, out=margins).sum(axis=0) + np.exp(-worst)
            losses = np.log(total, out=total) + worst
    return missed, losses.sum(axis=-1, dtype=np.float64)


def _subtract_own(
    logits: NDArray[Any], labels: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Turn logits into margins, in place; return which are wrong and the largest margin."""
    own = np.broadcast_to(labels, (1, *logits.shape[1:]))
    logits -= np.take_along_axis(logits, own, axis=0)
    np.put_along_axis(logits, own, -np.inf, axis=0)
    worst = logits.max(axis=0)
    missed = worst > 0
    tied = worst == 0
    if tied.any():
        missed[tied] = (logits[:, tied] == 0).argmax(axis=0) < own[0][tied]
    return missed, worst


def label_blocks(
    target: NDArray[np.int64], outputs: int
) -> Iterator[tuple[Label, NDArray[np.int64]]]:
    """Yield blocks of samples: the label that they share, or their labels, and their indices.

    With few samples a label (a thousand classes) blocks of one label would be too small for a
    matrix product: their samples are then taken as they come, and the logit of the label is
    subtracted from the others sample by sample.
    """
    order = np.argsort(target, kind="stable")
    edges = np.flatnonzero(np.diff(target[order])) + 1
    if len(target) < _FEW * (len(edges) + 1):
        step = max(1, min(_BLOCK, _MARGINS // outputs))
        for start in range(0, len(target), step):
            rows = np.arange(start, min(start + step, len(target)))
            yield target[rows], rows
        return
    for rows in np.split(order, edges):
        for start in range(0, len(rows), _BLOCK):
            yield int(target[rows[0]]), rows[start : start + _BLOCK]


def relative_slopes(slopes: NDArray[np.float64], label: Label) -> NDArray[np.float64]:
    """Return ``A − A_y``, or A where labels differ; outputs are the first axis."""
    if not isinstance(label, int):
        return slopes
    relative: NDArray[np.float64] = slopes - slopes[label]
    return relative


def relative_offset(intercept: NDArray[np.float64], label: Label) -> NDArray[np.float64]:
    """Return ``b − b_y``, −inf for the label itself, or b where labels differ."""
    if not isinstance(label, int):
        return intercept
    offset: NDArray[np.float64] = intercept - intercept[label]
    offset[label] = -np.inf  # the label is no rival of itself
    return offset
