"""Errors of random subsets under the trained readout, counted over blocks of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError
from actstore.kernels.readout import plain_and_rescaled_errors
from actstore.kernels.reconstruction import random_subsets
from actstore.queries.graph import SUBSET, Output, over_epochs
from actstore.queries.reconstruction import SIZE, size_coords
from actstore.queries.refit import Counts, sample_blocks
from actstore.queries.sources import Data, Source, sources
from actstore.storage.catalogue import Catalogue

Array: TypeAlias = npt.NDArray[Any]

SPLIT = "split"
#: where errors are counted if nobody says where
USUAL = ("train", "test")

ERRORS = {
    name: Output(
        (SPLIT, SUBSET, SIZE),
        f"{name.split('_')[0]} of the subset"
        + (", its part of the logits rescaled by width / size" if "_" in name else ""),
    )
    for name in ("error", "loss", "error_rescaled", "loss_rescaled")
}


def usual_splits(data: Data) -> tuple[str, ...]:
    """Return those of "train" and "test" that every run holds, or both for the error to name."""
    if not isinstance(data, Catalogue):
        return USUAL
    runs = [run for run in data.values() if len(run.committed)]
    return tuple(s for s in USUAL if all(s in run.splits for run in runs)) or USUAL


def readable(data: Data, *, layer: str, splits: Sequence[str]) -> list[Source]:
    """Return the sources whose samples, labels and readout can be read.

    Raises
    ------
    InvalidDataError
        If the data are not a store, or the layer is not the input of the readout.
    NotInStoreError
        If a run lacks its readout or a split.
    InvalidParameterError
        If there is no split.
    """
    if not splits:
        raise InvalidParameterError("no split was given; 'train' and 'test' are the usual ones")
    found = sources(data, split=splits[0], layer=layer)
    for source in found:
        if source.run is None:
            raise InvalidDataError(
                "errors were asked of a dataset, which has no readout; ask them of a store"
            )
        if not source.run.has_readout:
            raise NotInStoreError(
                f"run {source.name!r} was recorded without its readout, so errors of subsets "
                "cannot be counted; record it with the readout"
            )
        taken = source.run.array(f"{schema.READOUT}/{schema.WEIGHT}").shape[-1]
        if taken != source.width:
            raise InvalidDataError(
                f"layer {layer!r} of run {source.name!r} has {source.width} neurons and its "
                f"readout takes {taken}; name the layer that the readout reads"
            )
        for split in splits:
            source.run.check(split, layer)
    return found


def errors_of(
    source: Source,
    splits: Sequence[str],
    layer: str,
    sizes: Sequence[int],
    *,
    subsets: int,
    rng_seed: int,
    blocks: int,
) -> xr.Dataset:
    """Return the variables of ``ERRORS`` ``(epoch, split, subset, subset_size)`` of one source."""
    counts = [_counted(source, split, layer, sizes, subsets, rng_seed, blocks) for split in splits]
    shares = shares_of(
        source.epochs,
        counts,
        ERRORS,
        {SPLIT: len(splits), SUBSET: subsets, SIZE: len(sizes)},
    )
    return shares.assign_coords(
        {SPLIT: list(splits), SUBSET: np.arange(subsets), **size_coords(sizes)}
    )


def shares_of(
    epochs: Array, counts: Sequence[Counts], outputs: dict[str, Output], lengths: dict[str, int]
) -> xr.Dataset:
    """Return what was counted as shares of the samples, blocks and splits put together.

    Each part of ``counts`` is ``(epoch, subset, output, subset_size)``, without ``output`` where
    there is one.
    """
    samples = [one.samples for one in counts]
    numbers = [len(one.parts) for one in counts]

    def kernel(_epoch: int, *parts: Array) -> tuple[Array, ...]:
        left = iter(parts)
        shares = np.stack([
            np.sum([next(left) for _ in range(n)], axis=0) / count
            for n, count in zip(numbers, samples, strict=True)
        ])  # fmt: skip
        return tuple(np.moveaxis(shares, 2, 0)) if len(outputs) > 1 else (shares,)

    return over_epochs(
        kernel, [part for one in counts for part in one.parts], outputs, epochs=epochs,
        sizes=lengths,
    )  # fmt: skip


def _counted(
    source: Source,
    split: str,
    layer: str,
    sizes: Sequence[int],
    subsets: int,
    rng_seed: int,
    blocks: int,
) -> Counts:
    """Return wrong samples and summed losses of each block of samples."""
    assert source.run is not None
    recorded = source.run.dataset(split, layer)
    readout = source.run.readout()
    width = source.width  # a closure over the source would carry its data
    exist = np.flatnonzero(np.asarray(sizes) <= width)
    wanted = np.asarray(sizes)[exist].tolist()

    def kernel(
        _epoch: int, x: Array, label: Array, weight: Array, bias: Array, numbers: Array
    ) -> tuple[Array]:
        orders = random_subsets(width, subsets=subsets, seed=rng_seed)[numbers]
        out = np.full((len(numbers), len(ERRORS), len(sizes)), np.nan)
        if wanted:  # a run narrower than every size that was asked for has nothing to count
            both = plain_and_rescaled_errors(x, label, weight, bias, orders=orders, sizes=wanted)
            for k, found in zip((0, 2), both, strict=True):
                out[:, k, exist] = found.wrong
                out[:, k + 1, exist] = found.loss * len(label)
        return (out,)

    parts = [
        over_epochs(
            kernel,
            [block[schema.ACTIVATIONS], block[schema.LABEL], *readout.data_vars.values()],
            {"counts": Output(("kind", SIZE), "wrong samples and summed losses")},
            epochs=source.epochs,
            sizes={SIZE: len(sizes), "kind": len(ERRORS)},
            subsets=subsets,
            blocks=blocks,
        )
        for block in sample_blocks(recorded)
    ]
    return Counts([part["counts"] for part in parts], recorded.sizes[schema.SAMPLE])
