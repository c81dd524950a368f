"""Putting drawings side by side: a piece draws one pair of axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from matplotlib.axes import Axes

from actstore.errors import InvalidParameterError

#: draws one panel on the axes it is given
Piece: TypeAlias = Callable[[Axes], None]


def the_only(pieces: Sequence[Piece], question: str) -> Piece:
    """Return the one piece of a result.

    Raises
    ------
    InvalidParameterError
        If the result needs several panels.
    """
    if len(pieces) != 1:
        raise InvalidParameterError(
            f"one Axes was to show a result that needs {len(pieces)} panels; select one setting "
            f"or threshold with .sel(), or draw them all with plotting.figure({question!r}, result)"
        )
    return pieces[0]
