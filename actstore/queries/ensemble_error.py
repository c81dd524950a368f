"""The error at infinite size as that of an ensemble: all seeds of the widest width, averaged."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.queries.graph import Output, over_epochs
from actstore.queries.logits import same_labels
from actstore.queries.refit import Counts
from actstore.queries.settings import Settings
from actstore.queries.sources import Source, compared_epochs
from actstore.queries.subset_errors import SPLIT, shares_of

Array: TypeAlias = npt.NDArray[Any]

LOGITS = {"logits": Output((schema.SAMPLE, schema.OUTPUT), "logits, summed over the networks")}
WRONG = {"wrong": Output((), "samples that the networks have wrong together")}
ERROR = {"error_inf": Output((SPLIT,), "error of all seeds of the widest width together")}


def check_error_inf(error_inf: float | str | None) -> None:
    """Raise InvalidParameterError unless it is in [0, 1], "ensemble" or None."""
    if error_inf is None or error_inf == "ensemble":
        return
    if isinstance(error_inf, str) or not 0 <= error_inf <= 1:
        raise InvalidParameterError(
            f"error_inf={error_inf!r} was asked for; give a number in [0, 1], 'ensemble' "
            "or nothing to fit it"
        )


def errors_of_widest(
    found: Sequence[Source], splits: Sequence[str], layer: str
) -> list[xr.DataArray]:
    """Return, for each source, the error of the ensemble of its setting ``(epoch, split)``.

    It is that of the same epoch, or where one epoch of each run is selected, of whichever that is.
    Errors are those of :func:`error_of_widest`.
    """
    settings = Settings(found)
    one_each = all(len(source.epochs) == 1 for source in found)
    if one_each:
        compared_epochs(found)
    limits: dict[int, xr.DataArray] = {}
    for setting in range(settings.shape[0]):
        runs = [run for (s, _), runs in settings.members.items() if s == setting for run in runs]
        epochs = np.unique(np.concatenate([found[run].epochs for run in runs]))
        whole = error_of_widest(settings, setting, splits, layer, None if one_each else epochs)
        for run in runs:
            places = [0] if one_each else np.searchsorted(epochs, found[run].epochs)
            limits[run] = whole.isel({schema.EPOCH: places}).chunk({schema.EPOCH: 1})
    return [limits[run] for run in range(len(found))]


def error_of_widest(
    settings: Settings,
    setting: int,
    splits: Sequence[str],
    layer: str,
    epochs: Array | None = None,
) -> xr.DataArray:
    """Return the error of all seeds of the widest width of a setting, logits averaged.

    Parameters
    ----------
    settings : Settings
    setting : int
        Its number.
    splits : sequence of str
    layer : str
        The input of the readout.
    epochs : (epoch,), optional
        Where to count; by default at the one epoch that is selected of each network.

    Returns
    -------
    DataArray
        ``(epoch, split)``, one chunk an epoch. Lazy.

    Raises
    ------
    InvalidParameterError
        If the widest width has one seed, or a network no readout.
    InvalidDataError
        If the networks differ in samples or labels.
    NotInStoreError
        If a network does not hold an epoch.
    """
    members = _widest(settings, setting)
    runs = [source.run for source in members if source.run is not None]
    if epochs is None:
        epochs = runs[0].epochs
    else:  # what is selected of a run anyway is then read once for all who ask
        runs = [r if np.array_equal(r.epochs, epochs) else r.select(epochs.tolist()) for r in runs]
    readouts = [list(run.readout().data_vars.values()) for run in runs]
    counts = []
    for split in splits:
        label = same_labels(members, split)
        held = [run.dataset(split, layer)[schema.ACTIVATIONS] for run in runs]
        rows = {schema.SAMPLE: held[0].chunksizes[schema.SAMPLE]}
        blocks = [slice(*pair) for pair in itertools.pairwise(np.cumsum([0, *rows[schema.SAMPLE]]))]
        parts = []
        for block in blocks:
            lengths = {
                schema.SAMPLE: block.stop - block.start,
                schema.OUTPUT: readouts[0][1].sizes[schema.OUTPUT],
            }
            over = functools.partial(over_epochs, epochs=epochs, sizes=lengths)
            # one network after another: no task holds the activations of two
            logits: list[xr.DataArray] = []
            for x, readout in zip(held, readouts, strict=True):
                x = x.chunk(rows).isel({schema.SAMPLE: block})
                logits = [over(_add_logits, [x, *readout, *logits], LOGITS)["logits"]]
            own = label.isel({schema.SAMPLE: block})
            parts.append(over(_wrong, [*logits, own], WRONG)["wrong"])
        counts.append(Counts(parts, label.sizes[schema.SAMPLE]))
    return shares_of(epochs, counts, ERROR, {SPLIT: len(splits)})["error_inf"]


def _widest(settings: Settings, setting: int) -> list[Source]:
    """Return the networks of the widest width of a setting, which make an ensemble."""
    widest = max(w for s, w in settings.members if s == setting)
    members = [settings.found[run] for run in settings.members[setting, widest]]
    if not all(member.run is not None and member.run.has_readout for member in members):
        raise InvalidParameterError(
            "error_inf='ensemble' was asked for, and the runs hold no readout; give a number"
        )
    if len(members) < 2:
        raise InvalidParameterError(
            f"error_inf='ensemble' was asked for, and width {settings.widths[widest]}, the "
            f"widest of {settings.names()[setting]}, has one seed; record more, or give a number"
        )
    return members


def _add_logits(_epoch: int, x: Array, weight: Array, bias: Array, *before: Array) -> tuple[Array]:
    logits: Array = x.astype(np.float64) @ weight.T + bias
    return (sum(before, start=logits),)


def _wrong(_epoch: int, logits: Array, label: Array) -> tuple[Array]:
    return (np.asarray((logits.argmax(-1) != label).sum()),)
