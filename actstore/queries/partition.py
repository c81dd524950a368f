"""Partitions of a layer into clones: each with its R², its error and what it misses."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.greedy import greedy_partition
from actstore.kernels.partition import (
    clone_to_clone_r2,
    partition_r2,
    partition_residual_correlation,
    random_partition,
)
from actstore.kernels.spectrum import component_bound, spectrum
from actstore.queries.apply import Layer, per_epoch
from actstore.queries.graph import Output, over_epochs
from actstore.queries.parameters import check_positive
from actstore.queries.refit import sample_blocks
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]

THRESHOLD = "threshold"
CLONE = "clone"
OTHER_CLONE = "other_clone"

PARTITION = {
    "clone_size": Output((THRESHOLD, CLONE), "neurons in the part"),
    "clone_r2": Output((THRESHOLD, CLONE), "R² of all neurons from the part"),
    "clone_r2_heldout": Output((THRESHOLD, CLONE), "R² of the neurons outside from the part"),
    "clone_residual_correlation": Output(
        (THRESHOLD, CLONE), "mean absolute correlation of the residuals outside the part"
    ),
    "is_clone": Output((THRESHOLD, CLONE), "whether the part is a clone", dtype="bool"),
    "clone_label": Output(
        (THRESHOLD, schema.NEURON), "part of the neuron, -1 for none", dtype="int64"
    ),
    "clone_to_clone_r2": Output((THRESHOLD, CLONE, OTHER_CLONE), "R² of a part from another"),
    "certified_clones": Output(
        (THRESHOLD,), "disjoint parts that are clones by the criterion", dtype="int64"
    ),
}
BOUND = {
    "component_bound": Output(
        (THRESHOLD,), "most clones that can exist, by principal components", dtype="int64"
    )
}


def partitioned(
    source: Source,
    splits: tuple[str, str],
    critical: xr.DataArray,
    thresholds: Sequence[float],
    *,
    criterion: Literal["heldout", "paper"],
    select_threshold: float | None,
    strategy: str,
    parts: int | None,
    max_clones: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
) -> xr.Dataset:
    """Return a partition of one source by threshold, chosen on the first split, certified on the last.

    The variables are those of ``PARTITION`` and ``BOUND``.
    """  # noqa: E501
    room = min(max_clones, source.width)

    def cut(layer: Layer, threshold: float, size: float) -> Array:
        n = len(layer.alive)
        if parts is not None:
            labels = random_partition(n, max(1, n // parts), seed=rng_seed)
            labels[labels >= parts] = -1  # dead neurons can leave enough over for another part
            return labels
        if strategy == "random":
            return random_partition(n, int(size), seed=rng_seed)
        upto = threshold if select_threshold is None else select_threshold
        return greedy_partition(
            layer.comoment, upto, criterion=criterion, ridge=ridge, seed=rng_seed
        )

    def kernel(layer: Layer, sizes: Array) -> tuple[Any, ...]:
        rows = []
        certify = layer.moments[-1].comoment
        for threshold, size in zip(thresholds, sizes, strict=True):
            labels = cut(layer, threshold, size)
            r2, heldout = partition_r2(certify, labels, ridge=ridge)
            # the whole layer is the one part of a layer without clones: nothing is outside it
            reached = (heldout if criterion == "heldout" else r2) >= threshold
            rows.append(
                (
                    _padded(np.bincount(labels[labels >= 0]), room),
                    _padded(r2, room),
                    _padded(heldout, room),
                    _padded(partition_residual_correlation(certify, labels, ridge=ridge), room)
                    if len(r2)
                    else np.full(room, np.nan),
                    _padded(reached, room) == 1,
                    layer.spread(labels, fill=-1),
                    _square(clone_to_clone_r2(certify, labels, ridge=ridge), room)
                    if len(r2)
                    else np.full((room, room), np.nan),
                    int(reached.sum()),
                )
            )
        return tuple(np.stack([row[k] for row in rows]) for k in range(len(PARTITION)))

    used = splits if splits[0] != splits[1] else splits[:1]
    lengths = {
        THRESHOLD: len(thresholds),
        CLONE: room,
        OTHER_CLONE: room,
        schema.NEURON: source.width,
    }
    partition = per_epoch(
        kernel, source, used, PARTITION, sizes=lengths, cache=cache, extra=[critical]
    )

    def most(layer: Layer) -> tuple[list[int]]:
        eigenvalues = spectrum(layer.comoment, layer.samples)
        return ([component_bound(eigenvalues, threshold) for threshold in thresholds],)

    bound = per_epoch(most, source, splits[:1], BOUND, sizes=lengths, cache=cache)
    return partition.assign(bound.data_vars)


def clone_errors(source: Source, layer: str, label: xr.DataArray, room: int) -> xr.Dataset:
    """Return ``clone_error_<split> (epoch, threshold, clone)``: no refit, no rescaling.

    Empty for a source without readout or without samples.
    """
    run = source.run
    if run is None or not (run.has_readout and run.keeps_samples):
        return xr.Dataset()
    readout = run.readout()
    parts = label.drop_attrs().rename({schema.NEURON: "part_of"})

    def kernel(_: int, labels: Array, x: Array, y: Array, weight: Array, bias: Array) -> Any:
        wrong = np.full((len(labels), room), np.nan)
        for t, row in enumerate(labels):
            for part in range(min(room, int(row.max()) + 1)):
                chosen = row == part
                logits = x[:, chosen] @ weight[:, chosen].T.astype(x.dtype) + bias
                wrong[t, part] = (logits.argmax(1) != y).sum()
        return (wrong,)

    found = {}
    for split in run.splits:
        if layer not in run.layers(split):
            continue
        recorded = run.dataset(split, layer)
        samples = recorded.sizes[schema.SAMPLE]
        name = f"clone_error_{split}"
        output = Output((THRESHOLD, CLONE), f"error of the part on {split}, trained readout")
        over = functools.partial(
            over_epochs,
            outputs={name: output},
            epochs=source.epochs,
            sizes={THRESHOLD: label.sizes[THRESHOLD], CLONE: room},
        )
        counted = [
            over(
                kernel,
                [
                    parts,
                    block[schema.ACTIVATIONS],
                    block[schema.LABEL],
                    *readout.data_vars.values(),
                ],
            )[name]
            for block in sample_blocks(recorded)
        ]
        share = functools.partial(_share, samples)
        found[name] = over(share, counted)[name]
    return xr.Dataset(found)


def _share(samples: int, _epoch: int, *counts: Array) -> tuple[Array]:
    return (np.sum(counts, axis=0) / samples,)


def _padded(values: Array, room: int) -> Array:
    row = np.full(room, np.nan)
    row[: len(values)] = values[:room]
    return row


def _square(values: Array, room: int) -> Array:
    whole = np.full((room, room), np.nan)
    kept = min(len(values), room)
    whole[:kept, :kept] = values[:kept, :kept]
    return whole


def check_parts(parts: int | None, found: Sequence[Source]) -> None:
    """Raise InvalidParameterError unless ``parts`` divides the width of every source."""
    if parts is None:
        return
    check_positive(parts=parts)
    for source in found:
        if source.width % parts:
            divisors = [d for d in range(1, source.width + 1) if source.width % d == 0]
            raise InvalidParameterError(
                f"{parts} parts of run {source.name!r} were asked for, and its width "
                f"{source.width} does not divide by {parts}; it divides by "
                f"{', '.join(map(str, divisors))}"
            )
