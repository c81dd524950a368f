"""Fewer bits a value: rounding float32 before it is stored, and what that does to the answers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from actstore.kernels.independence import residual_correlations
from actstore.kernels.moments import accumulate, alive, merge
from actstore.kernels.reconstruction import prefix_r2, random_subsets
from actstore.schema import MANTISSA_BITS

Array: TypeAlias = npt.NDArray[Any]

#: attribute of an activations array, and of a run whose recorder is to round
KEEP_BITS = "keep_bits"

#: attribute of a run with the measured changes
PRECISION = "precision"

SUBSETS = 3


def round_mantissa(x: Array, keep_bits: int) -> npt.NDArray[np.float32]:
    """Round float32 values to ``keep_bits`` bits of mantissa, ties to even.

    The rest of the bits become zero, which is what compresses. The relative error is at most
    2^-(keep_bits + 1). Values that would become infinite are cut instead.

    Examples
    --------
    >>> round_mantissa(np.float32([1.0, 1.26, 3.3]), 2).tolist()
    [1.0, 1.25, 3.5]
    """
    values = np.ascontiguousarray(x, "float32")
    drop = MANTISSA_BITS - keep_bits
    if drop == 0:
        return values
    bits = values.view("uint32")
    mask = np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    odd = (bits >> np.uint32(drop)) & np.uint32(1)
    # Adding just under half, and one more if the last kept bit is odd, carries exactly where
    # round-half-to-even goes up; a carry out of the mantissa raises the exponent, as it should.
    rounded = ((bits + np.uint32((1 << (drop - 1)) - 1) + odd) & mask).view("float32")
    beyond = ~np.isfinite(rounded)
    if beyond.any():  # next to the largest float32, or not finite before
        rounded[beyond] = np.where(
            np.isfinite(values[beyond]), (bits[beyond] & mask).view("float32"), values[beyond]
        )
    return rounded


@dataclasses.dataclass(frozen=True)
class Change:
    """The largest change that rounding makes to the answers about some layers.

    Attributes
    ----------
    r2 : float
        Of R² of all neurons, over every subset size and some random subsets.
    residual_correlation : float
        Of the mean absolute residual correlation (held-out), over subset sizes 1, 4, 16, ….
    """

    r2: float = 0.0
    residual_correlation: float = 0.0

    def __or__(self, other: Change) -> Change:
        """Return the larger of both."""
        return Change(
            max(self.r2, other.r2), max(self.residual_correlation, other.residual_correlation)
        )

    def __add__(self, other: Change) -> Change:
        """Return a bound on both together."""
        return Change(self.r2 + other.r2, self.residual_correlation + other.residual_correlation)


def measure(blocks: Iterable[Array], keep_bits: int) -> Change:
    """Return what rounding does to the answers about one layer at one epoch.

    Parameters
    ----------
    blocks : iterable of array
        Samples of the layer, each ``(sample, neuron)`` float32; gone through once.
    keep_bits : int

    Returns
    -------
    Change
        Nothing for a layer of dead neurons, about which there are no answers.
    """
    exact, rounded = [], []
    for block in blocks:
        exact.append(accumulate([block]))
        rounded.append(accumulate([round_mantissa(block, keep_bits)]))
    layers = [functools.reduce(merge, several) for several in (exact, rounded)]
    kept = np.logical_and(*map(alive, layers))
    n = int(kept.sum())
    if n < 2:
        return Change()
    before, after = (layer.comoment[np.ix_(kept, kept)] for layer in layers)
    sizes = [4**k for k in range(12) if 4**k <= n - 2]
    change = Change()
    for order in random_subsets(n, subsets=SUBSETS, seed=0):
        r2 = np.abs(prefix_r2(before, order)[0] - prefix_r2(after, order)[0])
        change |= Change(float(r2.max()))
        if sizes:
            one, two = (residual_correlations(c, order, sizes=sizes) for c in (before, after))
            apart = np.abs(one.heldout - two.heldout)
            change |= Change(0.0, float(np.nanmax(apart, initial=0.0)))
    return change


def as_attribute(keep_bits: int, epoch: int, change: Change) -> dict[str, Any]:
    """Return the attribute ``precision`` of a run."""
    return {
        "keep_bits": keep_bits,
        "measured_at_epoch": int(epoch),
        "r2_change": change.r2,
        "residual_correlation_change": change.residual_correlation,
    }


def from_attribute(attribute: dict[str, Any]) -> Change:
    """Return the change that a run's attribute ``precision`` names."""
    return Change(
        float(attribute.get("r2_change", 0.0)),
        float(attribute.get("residual_correlation_change", 0.0)),
    )
