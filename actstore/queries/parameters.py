"""Checks of what a query was asked, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from actstore.errors import InvalidParameterError
from actstore.queries.sources import Source

Criterion: TypeAlias = Literal["heldout", "paper"]

#: what the criterion is measured by
R2_OF = {"heldout": "r2_heldout", "paper": "r2"}


def check_thresholds(threshold: float | Sequence[float]) -> tuple[float, ...]:
    """Return the thresholds, or raise InvalidParameterError if one is outside (0, 1]."""
    thresholds = (threshold,) if isinstance(threshold, int | float) else tuple(threshold)
    for one in thresholds:
        if not 0 < one <= 1:
            raise InvalidParameterError(
                f"threshold {one} was asked for; R² thresholds lie in (0, 1], such as 0.95"
            )
    if not thresholds:
        raise InvalidParameterError("no threshold was given; 0.95 is the usual one")
    return tuple(float(one) for one in thresholds)


def check_criterion(criterion: str) -> str:
    """Return the name of the variable that the criterion looks at."""
    if criterion not in R2_OF:
        raise InvalidParameterError(
            f"criterion {criterion!r} was asked for; it is 'heldout' or 'paper'"
        )
    return R2_OF[criterion]


def check_positive(**counts: int) -> None:
    """Raise InvalidParameterError if a count is below one."""
    for name, value in counts.items():
        if value < 1:
            raise InvalidParameterError(f"{name}={value} was asked for; it must be at least 1")


def check_seed_and_ridge(rng_seed: int, ridge: float = 0.0) -> None:
    """Raise InvalidParameterError if the seed is negative, or the ridge negative or infinite."""
    if rng_seed < 0:
        raise InvalidParameterError(f"rng_seed={rng_seed} was asked for; seeds count from 0")
    if not 0 <= ridge < np.inf:
        raise InvalidParameterError(
            f"ridge={ridge} was asked for; give a finite number from 0, such as 1e-8"
        )


def subset_sizes(sizes: int | Sequence[int] | str | None, found: Sequence[Source]) -> list[int]:
    """Return the subset sizes to answer for.

    Parameters
    ----------
    sizes : int, sequence of int, "all" or None
        None is the paper's choice: the width, its half, its quarter, … 1 (of each width).
    found : sequence of Source
        Their widths bound the sizes.

    Raises
    ------
    InvalidParameterError
        If a size is below one or above the largest width.
    """
    widest = max(source.width for source in found)
    if sizes is None:
        halves = {s.width >> k for s in found for k in range(s.width.bit_length())}
        return sorted(halves)
    if isinstance(sizes, str):
        if sizes != "all":
            raise InvalidParameterError(
                f"subset sizes {sizes!r} were asked for; give numbers or 'all'"
            )
        return list(range(1, widest + 1))
    wanted = sorted({int(s) for s in np.atleast_1d(np.asarray(sizes))})
    for size in wanted:
        if not 1 <= size <= widest:
            raise InvalidParameterError(
                f"subset size {size} was asked for; sizes lie between 1 and the width, "
                f"{widest} neurons"
            )
    return wanted
