"""Drawings on one pair of axes: of the caller, or of a figure of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from actstore.errors import InvalidParameterError
from actstore.plotting.style import STYLE, legend_right

#: draws one panel on the axes it is given, without a legend
Piece: TypeAlias = Callable[[Axes], None]


def entitle(ax: Axes, *parts: str, below: str = "") -> None:
    """Set the title: the parts that say anything, and smaller below them what was found."""
    title = ", ".join(filter(None, parts))
    if below:
        ax.set_title(f"{title}\n{below}", fontsize=9)
    else:
        ax.set_title(title)


def draw_one(pieces: Sequence[Piece], question: str, ax: Axes | None) -> Axes:
    """Draw the one panel of a result on ``ax``, or on a new figure that belongs to no window.

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
    if ax is not None:
        pieces[0](ax)
        legend_right(ax)
        return ax
    with mpl.rc_context(STYLE):
        return draw_one(pieces, question, Figure((7.2, 4.0), layout="constrained").subplots())
