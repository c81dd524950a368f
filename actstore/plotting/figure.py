"""Whole figures: every panel of an answer, and saving it as a file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import xarray as xr
from matplotlib.figure import Figure

from actstore.errors import ActstoreError, InvalidParameterError
from actstore.plotting.panels import Piece
from actstore.plotting.scaling import pieces as scaling
from actstore.plotting.style import STYLE, legend_of

KINDS = (".png", ".svg", ".pdf")


class Drawing(NamedTuple):
    """How the answer to a question becomes a figure.

    Attributes
    ----------
    pieces : callable
        Returns the panels of a result.
    title : str
    columns : int
        Panels side by side, at most.
    size : (float, float)
        Inches of a panel.
    shared_legend : bool
        Whether one legend serves all panels.
    """

    pieces: Callable[[xr.Dataset], list[Piece]]
    title: str
    columns: int
    size: tuple[float, float]
    shared_legend: bool


DRAWINGS = {
    "scaling": Drawing(
        scaling, "Number of clones against width", 1, (7.6, 3.7), shared_legend=False
    ),
}


def figure(question: str, result: xr.Dataset) -> Figure:
    """Draw all panels of the answer to a question.

    Parameters
    ----------
    question : str
        Name of the query that gave the result, such as ``"scaling"``.
    result : Dataset
        What it returned, or a selection of it with ``.sel()``.

    Returns
    -------
    Figure
        In no window and known to no global state; a notebook shows it.

    Raises
    ------
    InvalidParameterError
        If there is no figure of the question.
    """
    if question not in DRAWINGS:
        raise InvalidParameterError(
            f"a figure of {question!r} was asked for; there are figures of "
            f"{', '.join(sorted(DRAWINGS))}"
        )
    drawing = DRAWINGS[question]
    with mpl.rc_context(STYLE):
        pieces = drawing.pieces(result)
        columns = min(drawing.columns, len(pieces))
        rows = -(-len(pieces) // columns)
        wide, high = drawing.size
        legend = 1.9 if drawing.shared_legend else 0.0
        whole = Figure(figsize=(wide * columns + legend, high * rows + 0.3), layout="constrained")
        grid = whole.subplots(rows, columns, squeeze=False).ravel().tolist()
        for piece, ax in zip(pieces, grid, strict=False):
            piece(ax)
        for ax in grid[len(pieces) :]:
            ax.remove()
        whole.suptitle(f"{drawing.title} ({_where(result)})", x=0.01, ha="left")
        if drawing.shared_legend:
            legend_of(whole, grid[: len(pieces)])
    return whole


def save(question: str, result: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Draw the answer to a question into a file, which appears whole or not at all.

    Parameters
    ----------
    question : str
        Name of the query that gave the result.
    result : Dataset
        What it returned.
    path : path
        Ends in ``.png``, ``.svg`` or ``.pdf``. The same result gives the same bytes.

    Raises
    ------
    InvalidParameterError
        If the name ends in anything else, or there is no figure of the question.
    ActstoreError
        If the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise InvalidParameterError(
            f"a figure {str(path)!r} was asked for; it ends in .png, .svg or .pdf"
        )
    write(figure(question, result), path)


def write(whole: Figure, path: Path) -> None:
    """Write a figure under a name of its own, then give it the name that was asked for."""
    kind = path.suffix.lower()
    undated = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[kind]
    drawn = io.BytesIO()
    with mpl.rc_context(STYLE):
        whole.savefig(drawn, format=kind[1:], metadata=undated)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        aside.write_bytes(drawn.getvalue())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ActstoreError(
            f"{str(path)!r} cannot be written ({error.strerror or error}); give another place"
        ) from error


def _where(result: xr.Dataset) -> str:
    split, layer = result.attrs.get("split"), result.attrs.get("layer")
    return ", ".join(f"{k} {v}" for k, v in (("split", split), ("layer", layer)) if v)
