"""What is kept of an epoch until it is written: rows and moments of each layer of each split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt
from torch import Tensor

from actstore import schema
from actstore.errors import CaptureError, InvalidParameterError
from actstore.kernels.moments import Moments
from actstore.recording.moments import MomentSum
from actstore.recording.rows import Rows

Array: TypeAlias = npt.NDArray[Any]


class Kept:
    """What is kept of one layer on one split at one epoch: its rows, its moments or both.

    Attributes
    ----------
    rows : Rows or None
    moments : MomentSum or None
    width : int
        Neurons; 0 before the first batch.
    """

    def __init__(self, rows: Rows | None, moments: MomentSum | None) -> None:
        self.rows = rows
        self.moments = moments
        self.width = 0

    def append(self, batch: Tensor) -> None:
        """Add a batch ``(sample, neuron)``."""
        if self.width not in (0, batch.shape[1]):
            raise CaptureError(
                f"batches of {self.width} and of {batch.shape[1]} neurons passed one layer; "
                "record a layer whose width does not depend on the input"
            )
        self.width = batch.shape[1]
        if self.rows is not None:
            self.rows.append(batch)
        if self.moments is not None:
            self.moments.add(batch)


@dataclass
class Recorded:
    """One epoch of this process, ready to be written.

    Attributes
    ----------
    layers : dict
        Split → layer → what is kept of it.
    labels, samples : dict
        Split → ``(sample,)``.
    readout : (weight, bias) or None
    """

    epoch: int
    layers: dict[str, dict[str, Kept]]
    labels: dict[str, Array]
    samples: dict[str, Array]
    metrics: dict[str, float]
    readout: tuple[Array, Array] | None

    def __post_init__(self) -> None:
        """Finish what is computed of the batches here, in the thread that trains."""
        for layers in self.layers.values():
            for kept in layers.values():
                if kept.moments is not None:
                    kept.moments.settle()

    def arrays(self) -> dict[str, dict[str, Array]]:
        """Return the rows that are kept; waits for the device."""
        return {
            split: {layer: k.rows.array() for layer, k in layers.items() if k.rows is not None}
            for split, layers in self.layers.items()
        }

    def moments(self) -> dict[str, dict[str, Moments]]:
        """Return the moments that are kept; waits for the device."""
        return {
            split: {n: k.moments.moments() for n, k in layers.items() if k.moments is not None}
            for split, layers in self.layers.items()
        }

    def widths(self) -> dict[str, dict[str, int]]:
        """Return the neurons of each layer of each split."""
        return {
            s: {n: kept.width for n, kept in layers.items()} for s, layers in self.layers.items()
        }


def what_is_kept(keep: str, *, moments: bool, keep_bits: int | None) -> tuple[str, ...]:
    """Return what is stored of a layer: activations, moments or both.

    Raises
    ------
    InvalidParameterError
        If ``keep`` is neither ``"activations"`` nor ``"moments"``, or activations are to be
        rounded after their moments were summed.
    """
    if keep not in (schema.ACTIVATIONS, schema.MOMENTS):
        raise InvalidParameterError(f"keep={keep!r} was given; expected 'activations' or 'moments'")
    if keep_bits is not None and (moments or keep == schema.MOMENTS):
        raise InvalidParameterError(
            f"keep_bits={keep_bits} and moments were asked for; moments are summed before "
            "activations are rounded, and would not be those of what is stored: give one of the two"
        )
    both = moments and keep == schema.ACTIVATIONS
    return (schema.ACTIVATIONS, schema.MOMENTS) if both else (keep,)
