"""The error of a linear readout that is fitted anew to a subset of the neurons."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.kernels.readout import readout_errors
from actstore.kernels.reconstruction import random_subsets
from actstore.kernels.refit import (
    CrossMoment,
    merge_cross_moments,
    one_hot_cross_moment,
    refit_weights,
)
from actstore.queries.graph import Output, over_epochs
from actstore.queries.reconstruction import SIZE
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]

REFIT_SUBSET = "refit_subset"
READOUT = "readout"

CROSS = {
    "count": Output((), "samples", dtype="int64"),
    "mean_x": Output((schema.NEURON,), "mean activation"),
    "mean_y": Output((schema.OUTPUT,), "share of the samples with the label"),
    "cross": Output((schema.NEURON, schema.OUTPUT), "co-moment with the one-hot labels"),
}
FITTED = {
    "weights": Output((READOUT, schema.OUTPUT, schema.NEURON), "readouts that were fitted"),
    "biases": Output((READOUT, schema.OUTPUT), "biases that were fitted"),
}
SCORED = {"wrong": Output((REFIT_SUBSET, SIZE), "wrong samples of the subset, fitted anew")}


class Counts(NamedTuple):
    """What was counted over each block of the samples of a split, and how many there are."""

    parts: list[xr.DataArray]
    samples: int


def refitted(
    source: Source,
    fit_split: str,
    score_splits: Sequence[str],
    layer: str,
    sizes: Sequence[int],
    subsets: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
) -> list[Counts]:
    """Return wrong samples ``(epoch, refit_subset, subset_size)`` of each split to score on.

    The fit needs the moments of ``fit_split`` and its co-moment with the one-hot labels, which is
    one pass over its samples; every subset's readout follows from them.
    """
    run = source.run
    assert run is not None
    moments = source.moments(fit_split, cache=cache)
    readout = run.readout()
    n_classes, width = int(readout.sizes[schema.OUTPUT]), source.width
    exist = [(k, size) for k, size in enumerate(sizes) if size <= width]
    orders = random_subsets(width, subsets=subsets, seed=rng_seed)
    lengths = {
        schema.NEURON: width,
        schema.OUTPUT: n_classes,
        READOUT: subsets * len(exist),
        REFIT_SUBSET: subsets,
        SIZE: len(sizes),
    }
    over = functools.partial(over_epochs, epochs=source.epochs, sizes=lengths)

    def cross(_epoch: int, x: Array, y: Array) -> tuple[Any, ...]:
        found = one_hot_cross_moment(x, y, n_classes)
        return found.count, found.mean_x, found.mean_y, found.cross

    def fit(_epoch: int, mean: Array, comoment: Array, *parts: Array) -> tuple[Array, Array]:
        moment = functools.reduce(
            merge_cross_moments,
            (CrossMoment(int(parts[i]), *parts[i + 1 : i + 4]) for i in range(0, len(parts), 4)),
        )
        weights = np.zeros((subsets, len(exist), n_classes, width))
        biases = np.zeros((subsets, len(exist), n_classes))
        for t, order in enumerate(orders):
            for j, (_, size) in enumerate(exist):
                subset = order[:size]
                weights[t, j][:, subset], biases[t, j] = refit_weights(
                    comoment, moment.cross, mean, moment.mean_y, subset, ridge=ridge
                )
        return weights.reshape(-1, n_classes, width), biases.reshape(-1, n_classes)

    def score(_epoch: int, x: Array, y: Array, weights: Array, biases: Array) -> tuple[Array]:
        out = np.full((subsets, len(sizes)), np.nan)
        wrong = readout_errors(x, y, weights, biases).wrong
        out[:, [k for k, _ in exist]] = wrong.reshape(subsets, len(exist))
        return (out,)

    crossed = [
        over(cross, [block[schema.ACTIVATIONS], block[schema.LABEL]], CROSS)
        for block in sample_blocks(run.dataset(fit_split, layer))
    ]
    arguments = [v for part in crossed for v in part.data_vars.values()]
    fitted = over(fit, [moments[schema.MEAN], moments[schema.COMOMENT], *arguments], FITTED)
    counted = []
    for split in score_splits:
        recorded = run.dataset(split, layer)
        parts = [
            over(score, [block[schema.ACTIVATIONS], block[schema.LABEL], *fitted.values()], SCORED)
            for block in sample_blocks(recorded)
        ]
        wrong = [part["wrong"] for part in parts]
        counted.append(Counts(wrong, recorded.sizes[schema.SAMPLE]))
    return counted


def sample_blocks(recorded: xr.Dataset) -> list[xr.Dataset]:
    """Return a recorded layer cut into the blocks of samples in which it is read."""
    edges = np.cumsum([0, *recorded[schema.ACTIVATIONS].chunksizes[schema.SAMPLE]])
    return [recorded.isel({schema.SAMPLE: slice(*pair)}) for pair in itertools.pairwise(edges)]
