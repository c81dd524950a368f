"""The figures of a report as SVG that stands inside a page."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import xarray as xr

from actstore import schema
from actstore.report.answers import Answers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn(NamedTuple):
    """A figure of the page.

    Attributes
    ----------
    key : str
        Its anchor.
    title, caption : str
    svg : str
        An ``svg`` element that needs nothing from outside.
    """

    key: str
    title: str
    caption: str
    svg: str


#: runs whose noise is drawn one by one
FEW_RUNS = 4

#: letters of a value in a figure
LONGEST = 29

CAPTIONS = {
    "scaling": (
        "Clones against width",
        "Both axes logarithmic. The dotted line is proportional to the width. Hollow marks: train "
        "error above zero.",
    ),
    "width_error": (
        "Error of whole networks",
        "Train and test error against width, with the fitted decay where the widths determine it.",
    ),
    "dynamics": (
        "Clones in training",
        "The first seed of the widest width of each setting. A triangle marks the first recorded "
        "epoch of zero train error.",
    ),
    "reconstruction": (
        "R² of the layer from random subsets",
        "All runs at their last epoch; several seeds are averaged.",
    ),
    "noise": (
        "Correlation of what subsets miss",
        "The first seed of the widest width of each setting, beside the sampling floor and the "
        "matched null; of few settings with both rules for its number of factors.",
    ),
    "clones": (
        "Partition of the widest network",
        "A random partition: the error of each part under the trained readout, and R² of each part "
        "from each other.",
    ),
    "error": (
        "Error of subsets",
        "The trained readout on random subsets, the widest network of each setting.",
    ),
    "ensemble": ("Wide networks and ensembles", "Counted on the same samples."),
    "spectrum": (
        "Spectrum of the layer",
        "Share of the variance by principal component, all runs at their last epoch.",
    ),
}


def draw(answers: Answers) -> list[Drawn]:
    """Draw every answer that there is."""
    import matplotlib as mpl

    found = {key: legible(result) for key, result in answers.found.items()}
    if "scaling" in found:
        found["width_error"] = found["scaling"]
        found["scaling"] = found["scaling"].sel(threshold=[answers.threshold])
    figures = []
    # names of settings are text of a stranger: a dollar in them is no formula
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        # a name that the font lacks, or that is too long, makes a poor figure and no poor report
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        for key, (title, caption) in CAPTIONS.items():
            if key not in found:
                continue
            wholes = _drawn(key, found[key])
            svg = "\n".join(inline(whole, f"{key}{n}", title) for n, whole in enumerate(wholes))
            figures.append(Drawn(key, title, caption, svg))
    return figures


def legible(result: xr.Dataset) -> xr.Dataset:
    """Return a result whose long names are cut, still different: a legend holds no paragraph.

    Examples
    --------
    >>> notes = ["a note of more than thirty letters", "a note of more than thirty words"]
    >>> legible(xr.Dataset(coords={"note": ("run", notes)}))["note"].values.tolist()
    ['a note of more than thirty l…', 'a note of more than thirty w…']
    >>> contest = ["a setting of more than thirty letters: 2 x 16 against 32"]
    >>> legible(xr.Dataset(coords={"contest": contest}))["contest"].values.tolist()
    ['a setting of more than thirt…: 2 x 16 against 32']
    """
    shorter: dict[str, Any] = {}
    for name, coord in result.coords.items():
        if coord.dtype.kind not in "UO" or coord.ndim != 1 or name == schema.RUN:
            continue
        known: dict[str, str] = {}
        parts = [
            _parts(v, name == "contest") if isinstance(v, str) else ("", "") for v in coord.values
        ]
        for value, _ in parts:
            if value not in known:
                short = " ".join(value.split())
                short = short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"
                known[value] = f"{short} ({len(known)})" if short in known.values() else short
        if any(len(value) > LONGEST for value in known):
            words = [
                known[part] + rest if isinstance(v, str) else v
                for v, (part, rest) in zip(coord.values, parts, strict=True)
            ]
            shorter[str(name)] = (coord.dims, words)
    return result.assign_coords(shorter)


def _parts(value: str, contest: bool) -> tuple[str, str]:
    """Return what may be cut, and what may not: who competes, which follows on the setting."""
    setting, colon, rest = value.rpartition(": ") if contest else (value, "", "")
    return setting, colon + rest


def _drawn(key: str, result: xr.Dataset) -> list[Figure]:
    """Return the figures of an answer: one, but for the noise of few runs."""
    from actstore import plotting

    if key == "width_error":
        return [_errors(result)]
    if key == "noise" and result.sizes["run"] <= FEW_RUNS:
        # alone, a run has its intervals and every null; together they have the first
        return [plotting.figure(key, result.isel(run=[k])) for k in range(result.sizes["run"])]
    return [plotting.figure(key, result)]


def _errors(result: xr.Dataset) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from actstore.plotting.panels import draw_one
    from actstore.plotting.style import STYLE
    from actstore.plotting.width_error import pieces as width_error

    with mpl.rc_context(STYLE):
        whole = Figure((7.6, 3.7), layout="constrained")
        draw_one(width_error(result), "scaling", whole.subplots())
    return whole


def inline(whole: Figure, key: str, title: str) -> str:
    """Return a figure as an ``svg`` element whose ids no other figure of the page has."""
    import matplotlib as mpl

    from actstore.plotting.style import STYLE

    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE):
        whole.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)  # the text that the paths draw
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'href="#', f'href="#{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    wide = float(re.search(r'width="([\d.]+)pt"', text[:600])[1])  # type: ignore[index]
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    # a wide figure scrolls in its own box where the page is narrow
    box = f"max-width:{wide:.0f}pt;min-width:{min(wide, 430):.0f}pt"
    return text.replace("<svg", f'<svg role="img" aria-label="{title}" style="{box}"', 1)
