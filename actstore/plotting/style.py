"""How figures look: colours that survive grey and colour blindness, plain ticks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from actstore import schema

#: Okabe and Ito (2008), without the yellow that white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
GREY = "0.45"
BAND = 0.18  # opacity of an interval

#: in force while a figure of ours is made and saved, never outside
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.family": "DejaVu Sans",  # which matplotlib ships: a figure is the same everywhere
    "font.size": 9,
    "grid.color": "0.92",
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.title_fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,  # text stays text in the file
    "savefig.dpi": 160,
    "svg.hashsalt": "actstore",  # the same figure gives the same bytes
}


def plain(value: float) -> str:
    """Return a number as a person writes it: 512, not 5.12e2 or 2⁹.

    Examples
    --------
    >>> plain(512.0), plain(0.005), plain(0.00001)
    ('512', '0.005', '0.00001')
    """
    return np.format_float_positional(value, precision=6, fractional=False, trim="-")


def by_category(number: int) -> dict[str, Any]:
    """Return colour, marker and line of the ``number``-th of things without an order."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        # one further for each round of colours, so that no two of 49 look the same
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def by_order(number: int, count: int) -> dict[str, Any]:
    """Return the look of the ``number``-th of ``count`` ordered things: dark to light."""
    # the last tenth of viridis is too light for a thin line on white
    place = 0.9 * number / max(count - 1, 1)
    return {
        "color": mpl.colormaps["viridis"](place),
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": "-",
    }


def doubling(axis: Axis, values: Iterable[float] = ()) -> None:
    """Make an axis logarithmic with ticks 1, 2, 4, 8, … or at ``values`` where they are few."""
    ticks = np.unique(np.asarray(list(values), float))
    axis._set_axes_scale("log", base=2)  # type: ignore[attr-defined]
    few = 0 < ticks.size <= 10 and (np.diff(np.log2(ticks)) > 0.7).all()
    axis.set_major_locator(FixedLocator(ticks.tolist()) if few else LogLocator(base=2, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def decades(axis: Axis) -> None:
    """Make an axis with data logarithmic with ticks 0.1, 0.2, 0.5, 1, … in plain numbers."""
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    low, high = axis.get_view_interval()
    # a short range holds too few of these ticks
    span = high / low
    locator = LogLocator(subs=(1, 2, 5) if span < 1e3 else (1,)) if span > 5 else MaxNLocator(5)
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def error_axis(axis: Axis, values: Iterable[float]) -> None:
    """Make an axis one of errors: zero is on it, and small ones are stretched if there are any."""
    found = np.asarray(list(values), float)
    positive = found[np.isfinite(found) & (found > 0)]
    if not positive.size or positive.max() <= 20 * positive.min():
        axis._set_axes_scale("linear")  # type: ignore[attr-defined]
        from_zero(axis.axes)
        return
    least = 10.0 ** np.floor(np.log10(positive.min()))
    axis._set_axes_scale(  # type: ignore[attr-defined]
        "symlog", linthresh=least, linscale=0.4, base=10
    )
    powers = 10.0 ** np.arange(np.log10(least), 1)
    axis.set_major_locator(FixedLocator([0.0, *powers.tolist()]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.axes.set_ylim(-0.1 * least, 1.5 * positive.max())


def from_zero(ax: Axes, top: float | None = None) -> None:
    """Let the vertical axis begin just below zero, so that marks at zero are whole."""
    highest = float(ax.get_ylim()[1]) if top is None else top
    highest = highest or 1.0  # where nothing is wrong there is an axis still
    ax.set_ylim(-0.02 * highest, highest)


def width_axis(ax: Axes, widths: Iterable[float]) -> None:
    """Make the horizontal axis one of widths."""
    doubling(ax.xaxis, widths)
    ax.set_xlabel("width: neurons in the layer")


def epoch_axis(ax: Axes, epochs: Iterable[float]) -> None:
    """Make the horizontal axis one of epochs, early ones stretched if recorded more densely."""
    ax.set_xlabel("epoch")
    recorded = np.unique(np.asarray(list(epochs), float))
    steps = np.diff(recorded)
    if len(steps) < 2 or steps.max() <= 4 * steps.min():
        return
    first, last = recorded[0], recorded[-1]
    ax.set_xscale("symlog", linthresh=1, linscale=0.4, base=10)
    ticks = [0.0, *(m * 10.0**k for k in range(7) for m in (1, 2, 5))]
    ax.set_xticks([tick for tick in ticks if first <= tick <= last])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    ax.set_xlim(first - 0.15, last * 1.2)


def legend_right(ax: Axes, title: str = "") -> Legend | None:
    """Put the legend right of the axes, off the curves; none if nothing has a label."""
    if not ax.get_legend_handles_labels()[1]:
        return None
    return ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.0,
        frameon=False,
        title=title or None,
        alignment="left",
    )


def legend_of(figure: Figure | SubFigure, axes: Sequence[Axes], title: str = "") -> None:
    """Put one legend for all axes right of the figure, each label once."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        labels = sorted(found, key=_place)
        figure.legend(
            [found[label] for label in labels],
            labels,
            loc="outside right upper",
            title=title or None,
            alignment="left",
        )


def made_from(figure: Figure, title: str, result: xr.Dataset) -> None:
    """Write the title, and below the panels what was measured, so that the file explains itself."""
    known = result.attrs
    parts = [f"{k} {known[k]}" for k in ("split", "layer") if known.get(k)]
    if "split" in known and known.get("fit_split", known["split"]) != known["split"]:
        parts[0] = f"fitted on {known['fit_split']}, scored on {known['split']}"
    parts += _trainings(result)
    if known.get("subsets"):
        # not "seed 0": that would be taken for the seed of the training
        parts.append(f"{known['subsets']} random subsets (rng_seed {known.get('rng_seed', 0)})")
    if known.get("actstore_version"):
        parts.append(f"actstore {known['actstore_version']}")
    figure.suptitle(title, x=0.01, ha="left")
    figure.supxlabel(", ".join(parts), x=0.01, ha="left", fontsize=7.5, color=GREY)


def _trainings(result: xr.Dataset) -> list[str]:
    """Say at which epoch the networks are shown, where it is one, and of how many seeds."""
    found = []
    at = (
        result[schema.EPOCH].values if schema.EPOCH in result.coords else result.attrs.get("epochs")
    )
    epochs = [] if at is None else np.unique(np.ravel(at)).tolist()
    if len(epochs) == 1:
        found.append(f"epoch {epochs[0]}")
    if "seed" in result.coords:
        seeds = np.unique(np.ravel(result["seed"].values)).tolist()
        found.append(f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds")
    elif "seeds" in result:
        counts = np.unique(result["seeds"].values)
        several = counts[counts > 0].astype(int).tolist()
        if several:
            many = "…".join(map(str, sorted({several[0], several[-1]})))
            found.append(f"{many} {'seed' if several == [1] else 'seeds'}")
    return found


def _place(label: str) -> float:
    """Order widths and epochs that only some panels have; all else follows as it came."""
    found = re.match(r"(?:W =|epoch) (\d+)", label)
    return float(found[1]) if found else float("inf")
