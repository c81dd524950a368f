"""Numbers as a report writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def number(value: float) -> str:
    """Return a number to three digits, as a person writes it.

    Examples
    --------
    >>> number(512.0), number(0.00948), number(21.333)
    ('512', '0.00948', '21.3')
    """
    if not np.isfinite(value):
        return "unknown"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def widths_in_words(widths: Sequence[int]) -> str:
    """Return one width, or how many from where to where."""
    if len(widths) == 1:
        return f"width {widths[0]}"
    return f"{len(widths)} widths {widths[0]}…{widths[-1]}"


def span(values: Any, digits: int = 0) -> str:
    """Return the least and the largest, once if they read the same."""
    if digits:
        words = [f"{float(end):.{digits}g}" for end in (np.min(values), np.max(values))]
    else:
        words = [number(float(end)) for end in (np.min(values), np.max(values))]
    return "…".join(dict.fromkeys(words))
