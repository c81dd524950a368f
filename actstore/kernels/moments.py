"""Count, mean and centred co-moment of a layer: all that the other kernels need of it.

Arrays are ``(sample, neuron)`` or ``(neuron, neuron)``; sums are kept in float64, whatever the
type of the activations, because a float32 covariance has had negative eigenvalues.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from actstore.errors import InvalidDataError
from actstore.kernels.unlocked import add_gram

# Samples are converted to float64 a few at a time: the copy then stays in the cache between the
# mean, the subtraction and the product (1024 rows gave 0.89 to 0.97 of the dsyrk rate at 128 to
# 2048 neurons), and never takes more than 32 MB.
_BUFFER_ROWS = 1024
_BUFFER_VALUES = 2**22
_MIRROR_ROWS = 128


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """First and second moments of a layer over its samples.

    Attributes
    ----------
    count
        Number of samples n.
    mean
        ``(neuron,)``, μ = Σ x / n; zeros where there is no sample.
    comoment
        ``(neuron, neuron)``, C = Σ (x − μ)(x − μ)ᵀ; the covariance is C / (n − 1).
    """

    count: int
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]


def moments(x: NDArray[Any]) -> Moments:
    """Return the moments of one block of activations.

    Parameters
    ----------
    x
        ``(sample, neuron)``, any real type, any memory order; it is not changed.

    Raises
    ------
    InvalidDataError
        If ``x`` has not two dimensions, or holds NaN or infinite values.

    Examples
    --------
    >>> m = moments(np.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> m.count, m.mean.tolist(), m.comoment.tolist()
    (2, [1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """
    return accumulate([x])


def accumulate(blocks: Iterable[NDArray[Any]]) -> Moments:
    """Return the moments of blocks of samples that are seen one after another.

    The same numbers as :func:`moments` of all samples at once, to round-off, with one
    ``(neuron, neuron)`` matrix and a buffer of a few MB beside the block at hand.

    Parameters
    ----------
    blocks
        Arrays ``(sample, neuron)`` of one width.

    Raises
    ------
    InvalidDataError
        If there is no block, if widths differ, or if a value is NaN or infinite.
    """
    total: _Sum | None = None
    for block in blocks:
        if block.ndim != 2:
            raise InvalidDataError(
                f"activations must be (sample, neuron), not {block.ndim}-dimensional "
                f"{block.shape}; flatten each sample to one row"
            )
        if total is None:
            total = _Sum(block.shape[1])
        if block.shape[1] != total.mean.size:
            raise InvalidDataError(
                f"a block is {block.shape[1]} neurons wide and the blocks before it "
                f"{total.mean.size}; accumulate one layer at a time"
            )
        total.add(block)
    if total is None:
        raise InvalidDataError("no block of activations was given; pass at least one")
    return total.moments()


def merge(a: Moments, b: Moments) -> Moments:
    r"""Return the moments of two disjoint sets of samples taken together.

    .. math:: C = C_a + C_b + \frac{n_a n_b}{n_a + n_b} δδᵀ, \quad δ = μ_b - μ_a

    Raises
    ------
    InvalidDataError
        If the two are of layers of different widths.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", Am. Stat. 37.
    """
    if a.mean.size != b.mean.size:
        raise InvalidDataError(
            f"moments of {a.mean.size} and of {b.mean.size} neurons cannot be merged; "
            "merge one layer at a time"
        )
    count = a.count + b.count
    if count == 0:
        return a
    delta = b.mean - a.mean
    comoment = np.outer(delta, delta * (a.count * b.count / count))
    comoment += a.comoment
    comoment += b.comoment
    return Moments(count, a.mean + delta * (b.count / count), comoment)


def alive(comoment: NDArray[np.float64], *, tolerance: float = 1e-12) -> NDArray[np.bool_]:
    """Tell which neurons vary: variance above ``tolerance`` times the largest variance.

    Parameters
    ----------
    comoment
        ``(neuron, neuron)``.

    Returns
    -------
    ``(neuron,)``; all False where no neuron varies.

    References
    ----------
    arXiv 2106.03485; a dead neuron would put 0/0 into every correlation.
    """
    variance = np.diagonal(comoment)
    return np.asarray(variance > tolerance * variance.max(initial=0.0), dtype=np.bool_)


class _Sum:
    """The running moments; only the lower triangle of ``comoment`` (Fortran order) is kept."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.comoment = np.zeros((width, width), order="F")

    def add(self, block: NDArray[Any]) -> None:
        """Add samples, a buffer at a time; each buffer is centred on its own mean first.

        Centring before the product is what keeps the digits: Σ xxᵀ − n μμᵀ would lose them for a
        neuron whose mean is large against its spread.
        """
        first = self.count
        buffer = np.empty((min(len(block), _rows(self.mean.size)), self.mean.size))
        for rows in _blocks(block, buffer.shape[0]):
            centred = buffer[: len(rows)]
            np.copyto(centred, rows, casting="same_kind")
            with np.errstate(invalid="ignore", over="ignore"):  # reported in a sentence below
                mean = np.full(len(rows), 1 / len(rows)) @ centred
                centred -= mean
            if not np.isfinite(mean).all():
                raise _not_finite(block, first)
            total = self.count + len(rows)
            delta = mean - self.mean
            # In place: the matrices are in Fortran order, which BLAS takes without a copy.
            if self.mean.size:
                add_gram(self.comoment, centred.T)
                weight = self.count * len(rows) / total
                blas.dsyr(weight, delta, lower=1, a=self.comoment, overwrite_a=1)
            self.mean += delta * (len(rows) / total)
            self.count = total

    def moments(self) -> Moments:
        """Fill the upper triangle and return what was summed."""
        comoment = self.comoment.T
        for start in range(0, len(comoment), _MIRROR_ROWS):
            stop = start + _MIRROR_ROWS
            comoment[stop:, start:stop] = comoment[start:stop, stop:].T
            corner = comoment[start:stop, start:stop]
            corner[:] = np.triu(corner) + np.triu(corner, 1).T
        if not np.isfinite(np.diagonal(comoment)).all():
            raise InvalidDataError(
                "the squares of the activations overflow float64; scale the layer down"
            )
        return Moments(self.count, self.mean, comoment)


def _rows(width: int) -> int:
    return max(1, min(_BUFFER_ROWS, _BUFFER_VALUES // max(width, 1)))


def _blocks(x: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(x), max(rows, 1)):
        yield x[start : start + rows]


def _not_finite(block: NDArray[Any], first: int) -> InvalidDataError:
    bad = ~np.isfinite(block)
    if not bad.any():
        return InvalidDataError(
            "the sum of the activations overflows float64; scale the layer down"
        )
    sample, neuron = np.argwhere(bad)[0]
    return InvalidDataError(
        f"{bad.sum()} of {bad.size} activations are NaN or infinite, the first at sample "
        f"{first + sample}, neuron {neuron}; record the layer again or leave those samples out"
    )
