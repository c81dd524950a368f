"""A run that several ranks of a distributed training write together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from actstore import schema
from actstore.errors import ActstoreError, InvalidDataError
from actstore.kernels.moments import Moments
from actstore.recording.kept import Recorded
from actstore.recording.ranks import Ranks, block_edges, sample_order
from actstore.storage import layout
from actstore.storage.cleaning import files_of_group
from actstore.storage.location import StorePath, open_root
from actstore.storage.shards import Blocks, write_epoch
from actstore.storage.snapshot import check_finite
from actstore.storage.writer import RunWriter

Array: TypeAlias = npt.NDArray[Any]


@dataclass
class Header:
    """What the ranks must know of each other before rows are sent."""

    epoch: int
    widths: dict[str, dict[str, int]]
    labels: dict[str, Array]
    samples: dict[str, Array]
    sparse: dict[tuple[str, str], bool] = field(default_factory=dict)
    problem: Exception | None = None


class SharedSink:
    """A run that several ranks write: each its block of the samples, rank 0 the rest.

    The epoch is committed by rank 0 after every rank has said that its block is written.

    Parameters
    ----------
    writer
        On rank 0, unless the run is complete.
    planned
        Epochs of a complete run.
    durable
        Whether every rank brings its block to the disk before the epoch is committed.
    """

    def __init__(
        self,
        writer: RunWriter | None,
        ranks: Ranks,
        store: StorePath,
        run: str,
        planned: tuple[int, ...],
        *,
        durable: bool = False,
    ) -> None:
        self._writer = writer
        self._ranks = ranks
        self._store, self._run, self._durable = store, run, durable
        mine = (True, writer.committed) if writer is not None else (False, planned)
        self.open: bool
        self.committed: tuple[int, ...]
        self.open, self.committed = ranks.share(mine)[0]

    def write(self, recorded: Recorded) -> None:
        """Write this rank's part of an epoch; return when it is committed.

        Raises
        ------
        ActstoreError
            On every rank, if one of them fails; the epoch is then not committed.
        """
        arrays: dict[str, dict[str, Array]] = {}
        moments: dict[str, dict[str, Moments]] = {}
        header = Header(recorded.epoch, recorded.widths(), recorded.labels, recorded.samples)
        try:
            arrays, moments = recorded.arrays(), recorded.moments()
            for split, layers in arrays.items():
                for layer, x in layers.items():
                    check_finite(x, f"layer {layer!r} of split {split!r}")
                    header.sparse[split, layer] = layout.is_sparse(x)
        except ActstoreError as error:
            header.problem = error
        headers: list[Header] = self._ranks.share(header)
        raise_first([h.problem for h in headers])
        _check_same(headers)
        order = {s: sample_order([h.samples[s] for h in headers]) for s in header.widths}
        merged = {
            split: {layer: self._ranks.merge(m) for layer, m in sorted(layers.items())}
            for split, layers in sorted(moments.items())
        }
        fill = functools.partial(self._fill, arrays, order)
        if self._ranks.rank == 0:
            self._commit(recorded, headers, order, merged, fill)
        else:
            self._follow(fill)

    def close(self, *, complete: bool) -> None:
        """End the writing."""
        if self._writer is not None:
            self._writer.close(complete=complete)

    def update_provenance(self, **facts: Any) -> None:
        """Add facts to the run's provenance; those of rank 0 count."""
        if self._writer is not None:
            self._writer.update_provenance(**facts)

    def _commit(
        self,
        recorded: Recorded,
        headers: list[Header],
        order: Mapping[str, tuple[Array, list[Array]]],
        moments: Mapping[str, Mapping[str, Moments]],
        fill: Callable[[int], None],
    ) -> None:
        """Rank 0: open the epoch, write with the others, commit, and tell them."""
        told = False

        def write(slot: int) -> None:
            nonlocal told
            told = True
            self._ranks.share(slot)
            fill(slot)

        labels = {}
        for split, (samples, places) in order.items():
            together = np.empty(len(samples), recorded.labels[split].dtype)
            for header, places_of in zip(headers, places, strict=True):
                together[places_of] = header.labels[split]
            labels[split] = together
        outcome: Any
        try:
            assert self._writer is not None
            self._writer.write(
                recorded.epoch,
                recorded.widths(),
                labels=labels,
                samples={split: samples for split, (samples, _) in order.items()},
                readout=recorded.readout,
                metrics=recorded.metrics,
                moments=moments,
                blocks=Blocks(self._ranks.size, headers[0].sparse, write),
            )
            outcome = self._writer.committed
        except Exception as error:
            outcome = error
        if not told and not isinstance(outcome, Exception):
            self._ranks.share(None)  # moments only: there is nothing to write together
        self._ranks.share(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        self.committed = outcome

    def _follow(self, fill: Callable[[int], None]) -> None:
        """Any other rank: write when rank 0 has opened the epoch, and hear how it ended."""
        told = self._ranks.share(None)[0]
        if not isinstance(told, Exception):
            if told is not None:
                with contextlib.suppress(Exception):  # rank 0 hears of it, and says so below
                    fill(told)
            told = self._ranks.share(None)[0]
        if isinstance(told, Exception):
            raise told
        self.committed = told

    def _fill(
        self,
        arrays: Mapping[str, Mapping[str, Array]],
        order: Mapping[str, tuple[Array, list[Array]]],
        slot: int,
    ) -> None:
        """Write this rank's blocks; return when every rank has written its own."""
        problem: Exception | None = None
        try:
            run: Any = open_root(self._store, mode="r+", durable=self._durable)[self._run]
            for split, layers in sorted(arrays.items()):
                samples, places = order[split]
                for layer, x in sorted(layers.items()):
                    array = layout.array_of(run, f"{split}/{layer}/{schema.ACTIVATIONS}")
                    shard = (array.shards or array.chunks)[1]
                    edges = block_edges(len(samples), shard, self._ranks.size)
                    block = self._ranks.send_rows(x, places, edges)
                    if len(block):
                        write_epoch(array, slot, block, first=edges[self._ranks.rank])
            files_of_group(run).sync()
        except Exception as error:
            problem = error
        raise_first(self._ranks.share(problem))


def raise_first(problems: Iterable[Exception | None]) -> None:
    """Raise the first of what went wrong, if anything did."""
    for problem in problems:
        if problem is not None:
            raise problem


def _check_same(headers: list[Header]) -> None:
    first = headers[0]
    for rank, header in enumerate(headers):
        if (header.epoch, header.widths) != (first.epoch, first.widths):
            raise InvalidDataError(
                f"rank 0 recorded epoch {first.epoch} with {first.widths}, and rank {rank} epoch "
                f"{header.epoch} with {header.widths}; record the same on every rank"
            )
