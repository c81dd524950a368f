"""Recording in several processes: which rank keeps which sample, and rows sent to their blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from actstore.errors import InvalidDataError, StoreWriteError
from actstore.kernels.moments import Moments

Array: TypeAlias = npt.NDArray[Any]


class Ranks:
    """The processes of a distributed training, talking over the host's memory.

    A group of its own (gloo, whatever the training uses) for each thread that talks: two
    threads of one group would take each other's messages.

    Attributes
    ----------
    rank, size : int
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(backend="gloo")

    @classmethod
    def find(cls) -> Self | None:
        """Return the ranks of this training; None if it is one process alone."""
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return cls() if together else None

    def share(self, mine: Any) -> list[Any]:
        """Return what each rank gave, by rank.

        Raises
        ------
        StoreWriteError
            If a rank is lost.
        """
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, mine, group=self._group)
        except RuntimeError as error:
            raise _lost(error) from error
        return found

    def owned(self, samples: Array) -> npt.NDArray[np.bool_]:
        """Return which of this rank's samples ``(sample,)`` it is to keep.

        A sample that several ranks have, as ``DistributedSampler`` pads the last batch, is kept
        by the first of them, once.
        """
        everyone = self.share(np.asarray(samples, "int64"))
        before = np.concatenate([np.empty(0, "int64"), *everyone[: self.rank]])
        first = np.zeros(len(samples), bool)
        first[np.unique(everyone[self.rank], return_index=True)[1]] = True
        return np.asarray(first & ~np.isin(samples, before))

    def send_rows(
        self, x: npt.NDArray[np.float32], places: Sequence[Array], edges: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Send rows to the ranks whose blocks they lie in; return this rank's block, in order.

        Parameters
        ----------
        x : array
            ``(sample, neuron)``, this rank's rows.
        places : sequence of arrays
            Of each rank's rows, their places on the sample axis.
        edges : sequence of int
            Rank r's block is ``edges[r]`` to ``edges[r + 1]``.

        Raises
        ------
        StoreWriteError
            If a rank is lost.
        """
        low, high = edges[self.rank], edges[self.rank + 1]
        block = np.empty((high - low, x.shape[1]), "float32")
        pending, arrived = [], {}
        try:
            for rank, theirs in enumerate(places):
                wanted = _between(theirs, low, high)
                given = _between(places[self.rank], edges[rank], edges[rank + 1])
                if rank == self.rank:
                    block[theirs[wanted] - low] = x[wanted]
                    continue
                if wanted.any():
                    arrived[rank] = torch.empty(int(wanted.sum()), x.shape[1])
                    pending.append(dist.irecv(arrived[rank], rank, group=self._group))
                if given.any():
                    rows = torch.from_numpy(x[given])
                    pending.append(dist.isend(rows, rank, group=self._group))
            for work in pending:
                if work is not None:
                    work.wait()
        except RuntimeError as error:
            raise _lost(error) from error
        for rank, rows in arrived.items():
            theirs = places[rank]
            block[theirs[_between(theirs, low, high)] - low] = rows.numpy()
        return block

    def merge(self, mine: Moments) -> Moments:
        r"""Return the moments of the samples of all ranks, in full on rank 0 only.

        .. math:: C = \sum_r C_r + n_r (μ_r - μ)(μ_r - μ)^T

        Raises
        ------
        StoreWriteError
            If a rank is lost.
        """
        first = self.share((mine.count, mine.mean))
        counts = np.asarray([count for count, _ in first])
        mean = counts @ np.stack([one for _, one in first]) / counts.sum()
        delta = mine.mean - mean
        total = torch.from_numpy(mine.comoment + mine.count * np.outer(delta, delta))
        try:
            dist.reduce(total, 0, group=self._group)
        except RuntimeError as error:
            raise _lost(error) from error
        return Moments(int(counts.sum()), mean, total.numpy())


def sample_order(samples: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Return all samples in ascending order, and the places of each rank's among them.

    Raises
    ------
    InvalidDataError
        If a sample was kept twice.

    Examples
    --------
    >>> sample_order([np.array([0, 2, 4]), np.array([1, 3])])[1]
    [array([0, 2, 4]), array([1, 3])]
    """
    everything = np.concatenate(samples)
    ordered = np.unique(everything)
    if len(ordered) != len(everything):
        raise InvalidDataError(
            f"{len(everything) - len(ordered)} samples were recorded by two ranks; give each rank "
            "the indices of its own samples"
        )
    return ordered, [np.searchsorted(ordered, mine) for mine in samples]


def block_edges(samples: int, shard: int, ranks: int) -> list[int]:
    """Return where each rank's block of samples begins, and the end: whole shards each.

    Examples
    --------
    >>> block_edges(10, 4, 2)
    [0, 4, 10]
    """
    shards = -(-samples // shard)
    return [min(samples, shards * rank // ranks * shard) for rank in range(ranks)] + [samples]


def loader_samples(loader: Iterable[Any], split: str) -> Array:
    """Return the indices of the samples that a loader gives this rank, in its order.

    Raises
    ------
    InvalidDataError
        If the loader does not tell.
    """
    found: Iterable[Any] | None = None
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        if loader.batch_sampler is None:
            found = loader.sampler
        else:
            found = itertools.chain.from_iterable(loader.batch_sampler)
    if found is None:
        raise InvalidDataError(
            f"the loader of split {split!r} does not tell which samples each of several processes "
            "sees; use a DataLoader with a DistributedSampler, or pass samples=, their indices"
        )
    return np.fromiter(found, "int64")


def _between(places: Array, low: int, high: int) -> npt.NDArray[np.bool_]:
    return np.asarray((places >= low) & (places < high))


def _lost(error: RuntimeError) -> StoreWriteError:
    return StoreWriteError(
        f"a process of the training was lost ({str(error).splitlines()[0][:200]}); the epoch that "
        "was being recorded is not committed, those before it are: start again with resume=True"
    )
