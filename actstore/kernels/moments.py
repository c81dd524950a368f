"""Count, mean and centred co-moment of a layer: all that the other kernels need of it.

Arrays are ``(sample, neuron)`` or ``(neuron, neuron)``; sums are kept in float64, whatever the
type of the activations, because a float32 covariance has had negative eigenvalues.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actstore.errors import InvalidDataError
from actstore.kernels.unlocked import add_gram

# Samples are converted to float64 a few at a time: the copy then stays in the cache between the
# mean, the subtraction and the product (1024 rows gave 0.89 to 0.97 of the dsyrk rate at 128 to
# 2048 neurons), and takes no more than 8 MB.
_PIECE_ROWS = 1024
_PIECE_VALUES = 2**20
_MEANS = 256
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
    ``(neuron, neuron)`` matrix and a copy of a few MB beside the block at hand.

    Parameters
    ----------
    blocks
        Arrays ``(sample, neuron)`` of one width.

    Raises
    ------
    InvalidDataError
        If there is no block, if widths differ, or if a value is NaN or infinite.
    """
    return total(centred(blocks))


class Centred(NamedTuple):
    """Some samples as float64 around their own mean, ready to be multiplied.

    Attributes
    ----------
    mean
        ``(neuron,)``.
    values
        ``(sample, neuron)``, x − μ.
    """

    mean: NDArray[np.float64]
    values: NDArray[np.float64]


def centred(blocks: Iterable[NDArray[Any]], *, ahead: int = 0) -> Iterator[Centred]:
    """Yield blocks of samples a few MB at a time, each around its own mean.

    Centring before the product is what keeps the digits: Σ xxᵀ − n μμᵀ would lose them for a
    neuron whose mean is large against its spread. It takes a tenth of the time of the product,
    and may run in another thread than :func:`total`, ahead of it.

    Parameters
    ----------
    blocks
        Arrays ``(sample, neuron)`` of one width.
    ahead
        What is yielded is overwritten after so many more: memory that is used again costs a
        third of new memory.

    Raises
    ------
    InvalidDataError
        If there is no block, if widths differ, or if a value is NaN or infinite.
    """
    width: int | None = None
    first = 0
    kept: deque[NDArray[np.float64]] = deque(maxlen=1 + ahead)
    for block in blocks:
        if block.ndim != 2:
            raise InvalidDataError(
                f"activations must be (sample, neuron), not {block.ndim}-dimensional "
                f"{block.shape}; flatten each sample to one row"
            )
        width = block.shape[1] if width is None else width
        if block.shape[1] != width:
            raise InvalidDataError(
                f"a block is {block.shape[1]} neurons wide and the blocks before it "
                f"{width}; accumulate one layer at a time"
            )
        if not len(block):
            yield Centred(np.zeros(width), np.empty((0, width)))
        for rows in _pieces(block):
            full = len(kept) == kept.maxlen and len(kept[0]) >= len(rows)
            kept.append(kept[0] if full else np.empty(rows.shape))
            values = kept[-1][: len(rows)]
            np.copyto(values, rows, casting="same_kind")
            with np.errstate(invalid="ignore", over="ignore"):  # reported in a sentence below
                mean = np.full(len(rows), 1 / len(rows)) @ values
                values -= mean
            if not np.isfinite(mean).all():
                raise _not_finite(block, first)
            yield Centred(mean, values)
        first += len(block)
    if width is None:
        raise InvalidDataError("no block of activations was given; pass at least one")


def total(pieces: Iterable[Centred]) -> Moments:
    """Return the moments of all samples of :func:`centred`.

    Raises
    ------
    InvalidDataError
        If a sum of squares overflows.
    """
    found: _Sum | None = None
    for piece in pieces:
        found = found or _Sum(piece.mean.size)
        found.add(piece)
    assert found is not None
    return found.moments()


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


def alive(layer: Moments, *, tolerance: float = 1e-12) -> NDArray[np.bool_]:
    """Tell which neurons vary: variance above ``tolerance`` times the largest variance.

    A neuron that is constant and not zero has the variance of the rounding of its mean, which is
    none.

    Parameters
    ----------
    layer
        Moments, or several along the first axes of all three arrays.

    Returns
    -------
    ``(neuron,)``; all False where no neuron varies.

    References
    ----------
    arXiv 2106.03485; a dead neuron would put 0/0 into every correlation.
    """
    variance = np.diagonal(layer.comoment, axis1=-2, axis2=-1)
    largest = variance.max(axis=-1, initial=0.0, keepdims=True)
    rounding = np.asarray(layer.count)[..., None] * np.square(1e-14 * layer.mean)
    return np.asarray(variance > np.maximum(tolerance * largest, rounding), dtype=np.bool_)


class _Sum:
    """The running moments; only the lower triangle of ``comoment`` (Fortran order) is kept."""

    def __init__(self, width: int) -> None:
        self.means = [(0, np.zeros(width))]
        # Fortran order, which BLAS takes without a copy
        self.comoment = np.zeros((width, width), order="F")

    def add(self, piece: Centred) -> None:
        """Add samples around their own mean; that the means differ is settled later."""
        self.means.append((len(piece.values), piece.mean))
        if piece.values.size:
            add_gram(self.comoment, piece.values.T)
        if len(self.means) > _MEANS:
            self.settle()

    def settle(self) -> None:
        """Add Σ nᵢ (μᵢ − μ)(μᵢ − μ)ᵀ, of what was summed before and each piece since."""
        counts = np.array([count for count, _ in self.means])
        means = np.stack([mean for _, mean in self.means])
        count = int(counts.sum())
        if not count:
            return
        mean = counts / count @ means
        means -= mean
        means *= np.sqrt(counts)[:, None]
        add_gram(self.comoment, means.T)
        self.means = [(count, mean)]

    def moments(self) -> Moments:
        """Fill the upper triangle and return what was summed."""
        self.settle()
        (count, mean), comoment = self.means[0], self.comoment.T
        for start in range(0, len(comoment), _MIRROR_ROWS):
            stop = start + _MIRROR_ROWS
            comoment[stop:, start:stop] = comoment[start:stop, stop:].T
            corner = comoment[start:stop, start:stop]
            corner[:] = np.triu(corner) + np.triu(corner, 1).T
        if not np.isfinite(np.diagonal(comoment)).all():
            raise InvalidDataError(
                "the squares of the activations overflow float64; scale the layer down"
            )
        return Moments(count, mean, comoment)


def _pieces(x: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, min(_PIECE_ROWS, _PIECE_VALUES // max(x.shape[1], 1)))
    for start in range(0, len(x), rows):
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
