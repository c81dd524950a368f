"""Whole figures: every panel of an answer, and saving it as a file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib as mpl
import xarray as xr
from matplotlib.figure import Figure

from actstore.errors import ActstoreError, InvalidParameterError
from actstore.plotting.clones import columns as clones_beside
from actstore.plotting.clones import pieces as clones
from actstore.plotting.dynamics import columns as dynamics_beside
from actstore.plotting.dynamics import pieces as dynamics
from actstore.plotting.ensemble import height as ensemble_height
from actstore.plotting.ensemble import pieces as ensemble
from actstore.plotting.error import columns as errors_beside
from actstore.plotting.error import pieces as error
from actstore.plotting.moments import columns as moments_beside
from actstore.plotting.moments import pieces as moments
from actstore.plotting.noise import columns as noise_beside
from actstore.plotting.noise import pieces as noise
from actstore.plotting.panels import Piece
from actstore.plotting.paper import paper
from actstore.plotting.reconstruction import pieces as reconstruction
from actstore.plotting.scaling import pieces as scaling
from actstore.plotting.spectrum import pieces as spectrum
from actstore.plotting.style import STYLE, legend_of, legend_right, made_from

KINDS = (".png", ".svg", ".pdf")


class Drawing(NamedTuple):
    """How the answer to a question becomes a figure.

    Attributes
    ----------
    pieces : callable
        Returns the panels of a result.
    title : str
    size : (float, float)
        Inches of a panel.
    columns : callable
        Returns how many panels stand side by side, at most.
    shared_legend : bool
        Whether one legend serves all panels.
    shared_y : bool
        Whether one vertical axis serves a row.
    height : callable, optional
        Returns the inches of a panel of this result, where they differ.
    """

    pieces: Callable[[xr.Dataset], list[Piece]]
    title: str
    size: tuple[float, float]
    columns: Callable[[xr.Dataset], int]
    shared_legend: bool = True
    shared_y: bool = False
    height: Callable[[xr.Dataset], float] | None = None


def _three(result: xr.Dataset) -> int:
    return 3


def _one(result: xr.Dataset) -> int:
    return 1


DRAWINGS = {
    "reconstruction": Drawing(
        reconstruction, "R² of the layer from random subsets", (4.2, 3.7), _three, shared_y=True
    ),
    "clones": Drawing(clones, "Clones of the layer", (4.4, 3.7), clones_beside),
    "noise": Drawing(
        noise, "Correlation of what subsets miss", (4.2, 3.7), noise_beside, shared_y=True
    ),
    "scaling": Drawing(
        scaling, "Number of clones against width", (7.6, 3.7), _one, shared_legend=False
    ),
    "error": Drawing(error, "Error of subsets", (4.4, 3.6), errors_beside),
    "dynamics": Drawing(dynamics, "Clones in training", (4.4, 3.2), dynamics_beside),
    "ensemble": Drawing(
        ensemble, "Wide networks and ensembles", (7.6, 3.6), _one, shared_legend=False,
        height=ensemble_height,
    ),
    "spectrum": Drawing(
        spectrum, "Spectrum of the layer", (7.6, 3.7), _one, shared_legend=False
    ),
    "moments": Drawing(moments, "Neurons of the layer", (4.4, 3.7), moments_beside),
}  # fmt: skip


class Shown(Figure):
    """A figure that a notebook shows although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.savefig(drawn, format="png", dpi=80)
        return drawn.getvalue()


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
        columns = min(drawing.columns(result), len(pieces))
        rows = -(-len(pieces) // columns)
        wide, high = drawing.size
        high = drawing.height(result) if drawing.height else high
        legend = 2.3 if drawing.shared_legend else 0.0
        whole = Shown(figsize=(wide * columns + legend, high * rows + 0.3), layout="constrained")
        share: Literal["row", "none"] = "row" if drawing.shared_y else "none"
        grid = whole.subplots(rows, columns, squeeze=False, sharey=share).ravel().tolist()
        for piece, ax in zip(pieces, grid, strict=False):
            piece(ax)
        for ax in grid[len(pieces) :]:
            ax.remove()
        if drawing.shared_y:
            for place, ax in enumerate(grid):
                ax.yaxis.label.set_visible(place % columns == 0)
        made_from(whole, drawing.title, result)
        if drawing.shared_legend:
            legend_of(whole, grid[: len(pieces)])
        else:
            for ax in grid[: len(pieces)]:
                legend_right(ax)
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
    where = checked(path)
    write(figure(question, result), where)


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


def save_paper(answers: Mapping[str, xr.Dataset], path: str | os.PathLike[str]) -> None:
    """Draw the panels of the paper's main figure into a file; see :func:`paper`."""
    write(paper(answers), checked(path))


def checked(path: str | os.PathLike[str]) -> Path:
    """Return the path if its name ends in a kind of file that can be written."""
    if Path(path).suffix.lower() not in KINDS:
        raise InvalidParameterError(
            f"a figure {os.fspath(path)!r} was asked for; it ends in .png, .svg or .pdf"
        )
    return Path(path)
