"""Search for the largest number of disjoint clones in a layer.

Forward selection builds one clone after another out of the neurons that are still free; a
local search then makes clones smaller and builds more of them out of what that frees. Both are
exact updates of the regression on a clone's neurons (pivoted Cholesky, and removing or swapping
one neuron), so that no step refactors a matrix of the whole layer.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular

from actstore.errors import InvalidParameterError
from actstore.kernels.partition import (
    partition_r2,
    random_partition,
)
from actstore.kernels.spectrum import component_bound, components_needed, spectrum
from actstore.kernels.subsets import Floats, Integers, as_comoment, check_threshold, penalty

Criterion = Literal["heldout", "paper"]

# A swap must gain more than rounding, or two equal clones would trade neurons for ever.
_TOLERANCE = 1e-9
# Multiply-adds that the local search may spend: about a second of one core.
_EFFORT = 1e10


def greedy_partition(
    comoment: ArrayLike,
    threshold: float,
    *,
    criterion: Criterion = "heldout",
    ridge: float = 1e-8,
    max_clones: int | None = None,
    improve: bool = True,
    seed: int = 0,
) -> Integers:
    """Return a partition into as many clones as a greedy search finds.

    A clone takes, one after another, the free neuron that leaves least of the *whole* layer
    unexplained, until its R² reaches the threshold; then the next clone starts. With `improve`,
    clones are made smaller by swaps with each other and with the free neurons, and the freed
    neurons are completed to further clones, until neither succeeds.

    Parameters
    ----------
    comoment
        Centred co-moment without dead neurons, shape ``(neuron, neuron)``.
    threshold
        R² that makes a subset a clone, in (0, 1].
    criterion
        ``"heldout"``: R² of the neurons outside the subset; ``"paper"``: of all neurons.
    ridge
        Penalty of the regression relative to the mean variance of a neuron.
    max_clones
        Stop at this number.
    improve
        Run the local search.
    seed
        Order in which the local search visits clones of equal size.

    Returns
    -------
    labels
        Clone of each neuron, 0…clones−1, −1 for none; shape ``(neuron,)``. Every clone reaches
        the threshold by :func:`~actstore.kernels.partition.partition_r2`.

    Raises
    ------
    InvalidParameterError
        When the threshold is outside (0, 1], or the criterion is unknown.
    InvalidDataError
        When the co-moment is not square or not finite.

    Notes
    -----
    Clones selected and certified on the same samples flatter the layer: certify them on the
    co-moment of another split.

    References
    ----------
    Forward selection as pivoted Cholesky restricted to a subset of columns: Çivril and
    Magdon-Ismail, "Column subset selection via sparse approximation of SVD" (2012).

    Examples
    --------
    >>> signals = np.kron(np.ones((4, 1)), np.eye(3))
    >>> labels = greedy_partition(signals @ signals.T, 0.95)
    >>> np.bincount(labels)
    array([3, 3, 3, 3])
    """
    matrix = as_comoment(comoment)
    check_threshold(threshold)
    _check_criterion(criterion)
    eigenvalues = spectrum(matrix, 2)
    most = component_bound(eigenvalues, threshold)
    if max_clones is not None:
        if max_clones < 1:
            raise InvalidParameterError(f"max_clones is {max_clones}; give at least 1")
        most = min(most, max_clones)
    least = components_needed(eigenvalues, threshold)
    search = _Search(matrix, threshold, least, criterion == "heldout", penalty(matrix, ridge))
    while search.clones < most and search.grow():
        pass
    if improve and 0 < search.clones < most:
        search.improve(most, np.random.default_rng(seed))
    return _certified(matrix, search.labels, threshold, criterion, ridge)


def largest_random_partition(
    comoment: ArrayLike,
    threshold: float,
    *,
    criterion: Criterion = "heldout",
    repeats: int = 5,
    seed: int = 0,
    ridge: float = 1e-8,
) -> Integers:
    """Return the random partition with the most clones, over every number of parts.

    For each number of parts from 2 to :func:`~actstore.kernels.spectrum.component_bound`,
    `repeats` random partitions into parts of equal size are drawn, and the parts that reach the
    threshold counted; the partition with the most of them is kept, the first one of equals.

    Parameters
    ----------
    comoment, threshold, criterion, ridge
        As in :func:`greedy_partition`.
    repeats
        Random partitions for each number of parts.
    seed
        Seed of the partitions.

    Returns
    -------
    labels
        Clone of each neuron, shape ``(neuron,)``; −1 for neurons of parts that are not clones.

    Raises
    ------
    InvalidParameterError
        When the threshold is outside (0, 1], or the criterion is unknown.

    Examples
    --------
    >>> signals = np.kron(np.ones((16, 1)), np.eye(2)) + np.eye(32, 2) * 0.1
    >>> labels = largest_random_partition(signals @ signals.T, 0.95)
    >>> 2 <= int(labels.max()) + 1 <= 16
    True
    """
    matrix = as_comoment(comoment)
    check_threshold(threshold)
    _check_criterion(criterion)
    n = len(matrix)
    best = np.full(n, -1, dtype=np.int64)
    draws = np.random.default_rng(seed)
    tried = set()
    for parts in range(2, component_bound(spectrum(matrix, 2), threshold) + 1):
        # ⌊n / size⌋ parts: numbers of parts that share a size would repeat the same partition
        size = n // parts
        if size in tried:
            continue
        tried.add(size)
        for _ in range(repeats):
            labels = random_partition(n, size, seed=int(draws.integers(2**63)))
            labels = _certified(matrix, labels, threshold, criterion, ridge)
            if labels.max() > best.max():
                best = labels
    return best


@dataclass(frozen=True)
class _Table:
    """What one clone's R² becomes when a neuron is dropped, added or swapped."""

    value: float  # R² of the clone as it is
    drop: Floats  # (clone neuron,)
    add: Floats  # (neuron,)
    swap: Floats  # (clone neuron, neuron): the row's neuron replaced by the column's


class _Search:
    """A partition under construction: labels, and which swaps each clone can afford."""

    def __init__(
        self, matrix: Floats, threshold: float, least: int, heldout: bool, jitter: float
    ) -> None:
        self.matrix = matrix
        self.threshold = threshold + _TOLERANCE
        self.least = least  # no clone can have fewer neurons
        self.heldout = heldout
        self.jitter = jitter
        self.variance = np.diagonal(matrix).copy()
        self.total = float(self.variance.sum())
        self.squares = np.einsum("ij,ij->j", matrix, matrix)
        self.labels = np.full(len(matrix), -1, dtype=np.int64)
        self.clones = 0
        # affordable[j, f]: the clone of j stays a clone when f takes the place of j
        self.affordable = np.zeros(matrix.shape, dtype=np.bool_)
        self.effort = 0.0

    # -- forward selection ---------------------------------------------------------------

    def grow(self) -> bool:
        """Build one more clone out of the free neurons; False if they cannot make one."""
        part = self.forward(self.labels < 0)
        if part is None:
            return False
        self.labels[part] = self.clones
        self.clones += 1
        return True

    def forward(self, free: NDArray[np.bool_]) -> list[int] | None:
        """Return the neurons of a clone, chosen among `free` one by one, or None."""
        available = free.copy()
        part: list[int] = []
        rows = np.empty((8, len(self.matrix)))  # Zᵀ Z is what the part explains
        # of the unexplained co-moment R: squared norm of each column, and the diagonal
        norms, left = self.squares.copy(), self.variance.copy()
        unexplained, outside = self.total, self.total
        while available.any():
            gain = norms / (left + self.jitter)
            shares = self.share(unexplained - gain, outside - self.variance)
            chosen = int(np.argmax(np.where(available, shares, -np.inf)))
            if gain[chosen] <= self.jitter:
                return None
            known = rows[: len(part)]
            row = self.matrix[chosen] - known[:, chosen] @ known
            row /= np.sqrt(left[chosen] + self.jitter)
            length = float(row @ row)
            # R ← R − row rowᵀ; the norms follow from R row, without R
            norms += row * (row * length - 2 * (self.matrix @ row - (known @ row) @ known))
            left -= row * row
            np.maximum(norms, 0, out=norms)
            np.maximum(left, 0, out=left)
            if len(part) == len(rows):
                rows = np.concatenate([rows, np.empty_like(rows)])
            rows[len(part)] = row
            part.append(chosen)
            available[chosen] = False
            unexplained -= length
            outside -= self.variance[chosen]
            if self.share(unexplained, outside) >= self.threshold:
                return part
        return None

    def share(self, unexplained: Floats | float, outside: Floats | float) -> Floats:
        """Return R² by the criterion."""
        whole = np.maximum(outside, self.jitter) if self.heldout else self.total
        return np.asarray(1 - unexplained / whole)

    # -- local search --------------------------------------------------------------------

    def improve(self, most: int, random: np.random.Generator) -> None:
        """Make clones smaller and build new ones until neither succeeds."""
        for clone in range(self.clones):
            self.trim(clone)
        progress = True
        while progress and self.clones < most and self.effort < _EFFORT:
            progress = self.build()
            sizes = np.bincount(self.labels[self.labels >= 0])
            for clone in np.lexsort((random.random(len(sizes)), -sizes)):
                if sizes[clone] == self.least or self.effort >= _EFFORT:
                    break
                progress |= self.shrink(int(clone))

    def trim(self, clone: int) -> None:
        """Drop the neurons that the clone can do without."""
        while True:
            part = np.flatnonzero(self.labels == clone)
            table = self.table(part)
            worst = int(np.argmax(table.drop))
            if len(part) == self.least or table.drop[worst] < self.threshold:
                self.affordable[part] = table.swap >= self.threshold
                return
            self.labels[part[worst]] = -1

    def build(self) -> bool:
        """Complete a new clone out of the free neurons; False and no change if it fails."""
        spare = len(self.labels) - self.clones * self.least
        if spare < self.least or not (self.labels < 0).any():
            return False
        seed = self.forward_start()
        return self.attempt(self.clones, seed, grow=True)

    def forward_start(self) -> Integers:
        """Return the best single free neuron to start a clone with."""
        free = np.flatnonzero(self.labels < 0)
        gain = self.squares[free] / (self.variance[free] + self.jitter)
        return free[[int(np.argmax(gain))]]

    def shrink(self, clone: int) -> bool:
        """Make the clone one neuron smaller; False and no change if it fails."""
        part = np.flatnonzero(self.labels == clone)
        worst = int(np.argmax(self.table(part).drop))
        return self.attempt(clone, np.delete(part, worst), grow=False)

    def attempt(self, clone: int, part: Integers, *, grow: bool) -> bool:
        """Bring `part` to the threshold by swaps, as the given clone, or undo everything."""
        before = self.labels.copy(), self.affordable.copy()
        self.labels[self.labels == clone] = -1
        self.labels[part] = clone
        if self.complete(clone, grow=grow):
            self.clones = max(self.clones, clone + 1)
            return True
        self.labels, self.affordable = before
        return False

    def complete(self, clone: int, *, grow: bool) -> bool:
        """Add free neurons and swap with them and with other clones, up to the threshold."""
        while True:
            part = np.flatnonzero(self.labels == clone)
            table = self.table(part)
            if table.value >= self.threshold:
                self.affordable[part] = table.swap >= self.threshold
                return True
            free = self.labels < 0
            allowed = free | self.affordable[:, part].T
            allowed[:, part] = False
            values = np.where(allowed, table.swap, -np.inf)
            out, into = np.unravel_index(int(np.argmax(values)), values.shape)
            if values[out, into] > table.value + _TOLERANCE:
                self.exchange(int(part[out]), int(into))
            elif grow and free.any():
                self.labels[np.argmax(np.where(free, table.add, -np.inf))] = clone
            else:
                return False

    def exchange(self, out: int, into: int) -> None:
        """Swap two neurons between a clone and a clone or the free neurons."""
        self.labels[[out, into]] = self.labels[[into, out]]
        giver = int(self.labels[out])
        self.affordable[into] = False
        if giver >= 0:
            part = np.flatnonzero(self.labels == giver)
            self.affordable[part] = self.table(part).swap >= self.threshold

    def table(self, part: Integers) -> _Table:
        """Return the R² of every set that differs from `part` by one neuron.

        With M = (C_PP + λI)⁻¹ and B = M C_P:, removing neuron f adds u_f u_fᵀ to the unexplained
        co-moment R, where u_f = B_f / √M_ff; adding neuron j takes R_:j R_:jᵀ / (R_jj + λ) away.
        """
        self.effort += len(part) * len(self.matrix) * (len(self.matrix) + 4.0 * len(part))
        block = self.matrix[np.ix_(part, part)]
        block[np.diag_indices_from(block)] += self.jitter
        factor = cholesky(block, lower=True, check_finite=False)
        rows = solve_triangular(factor, self.matrix[part], lower=True, check_finite=False)
        inverse = solve_triangular(factor, np.eye(len(part)), lower=True, check_finite=False)
        removal = inverse.T @ rows / np.sqrt(np.square(inverse).sum(axis=0))[:, None]
        through = rows @ self.matrix
        left = np.maximum(self.variance - np.square(rows).sum(axis=0), 0)
        norms = self.squares + (rows * ((rows @ rows.T) @ rows - 2 * through)).sum(axis=0)
        np.maximum(norms, 0, out=norms)
        unexplained = self.total - float(np.square(rows).sum())
        outside = self.total - float(self.variance[part].sum())
        loss = np.square(removal).sum(axis=1)
        # R u_f for every f, by the same product of Z with C
        across = (removal @ rows.T) @ -rows
        across += (inverse.T @ through) / np.sqrt(np.square(inverse).sum(axis=0))[:, None]
        gain = (norms + removal * (2 * across + removal * loss[:, None])) / (
            left + np.square(removal) + self.jitter
        )
        wider = outside + self.variance[part]
        return _Table(
            value=float(self.share(unexplained, outside)),
            drop=self.share(unexplained + loss, wider),
            add=self.share(unexplained - norms / (left + self.jitter), outside - self.variance),
            swap=self.share(unexplained + loss[:, None] - gain, wider[:, None] - self.variance),
        )


def _certified(
    matrix: Floats, labels: Integers, threshold: float, criterion: Criterion, ridge: float
) -> Integers:
    """Return the labels renumbered, −1 for the parts that miss the threshold."""
    values = partition_r2(matrix, labels, ridge=ridge)[criterion == "heldout"]
    passed = values >= threshold
    numbers = np.append(np.where(passed, np.cumsum(passed) - 1, -1), -1)
    return np.asarray(numbers[labels], dtype=np.int64)


def _check_criterion(criterion: str) -> None:
    if criterion not in ("heldout", "paper"):
        raise InvalidParameterError(f"criterion is {criterion!r}; give 'heldout' or 'paper'")
