"""Choosing epochs by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from actstore.errors import InvalidParameterError, NotInStoreError

Array: TypeAlias = npt.NDArray[Any]
Epochs: TypeAlias = int | Sequence[int] | slice | None


def places_of(held: Array, wanted: Epochs, run: str) -> Array:
    """Places of the wanted epochs; negative numbers count from the last one, as in xarray.isel."""
    if wanted is None:
        return np.arange(len(held))
    if isinstance(wanted, slice):
        if wanted.step is not None:
            raise InvalidParameterError(f"epochs {wanted} were asked for; a slice takes no step")
        low = wanted.start if wanted.start is not None else 0
        high = wanted.stop if wanted.stop is not None else np.inf
        found = np.flatnonzero((held >= low) & (held <= high))
        if not len(found):
            raise _no_epoch(f"from {low} to {high}", held, run)
        return found
    places: Mapping[int, int] = {int(epoch): place for place, epoch in enumerate(held)}
    chosen = []
    for epoch in np.atleast_1d(np.asarray(wanted)).tolist():
        place = len(held) + epoch if epoch < 0 else places.get(epoch, -1)
        if not 0 <= place < len(held):
            raise _no_epoch(str(epoch), held, run)
        chosen.append(place)
    return np.asarray(chosen, "int64")


def _no_epoch(wanted: str, held: Array, run: str) -> NotInStoreError:
    numbers = ", ".join(map(str, held)) or "none"
    return NotInStoreError(f"no epoch {wanted} in run {run!r}; it holds {numbers}")
