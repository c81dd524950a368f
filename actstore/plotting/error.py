"""Error of subsets under the trained readout, and how it decays with their size."""

from __future__ import annotations

from functools import partial

import xarray as xr
from matplotlib.axes import Axes

from actstore.plotting.law import determined, draw_law, in_words
from actstore.plotting.panels import Piece, draw_one, entitle
from actstore.plotting.series import (
    SIZE,
    Group,
    Series,
    curve,
    finish,
    groups,
    highest,
    opacity,
    size_axis,
)
from actstore.plotting.style import GREY, by_category, decades, from_zero

SPLIT = "split"


def error(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the error of random subsets against their size, on one split.

    A curve is the mean over subsets and seeds, its band holds 90 % of them. Its last point is
    the whole network; where widths are several, a black line joins the whole networks. A single
    curve has the rescaled subsets beside it and, where the result holds them, those whose
    readout was fitted anew.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.error` returned, of one setting and one split.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several splits or settings: select one, or use
        :func:`actstore.plotting.figure`.
    """
    return draw_one(_errors(result), "error", ax)


def error_decay(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    r"""Draw error − error_inf against subset size, with the fit :math:`a w^{-γ}` over its window.

    Parameters
    ----------
    result : Dataset
        What :func:`actstore.error` returned, of one run and one split; the last epoch is drawn.
    ax : Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InvalidParameterError
        If the result holds several runs or splits: select one.
    """
    return draw_one(_decays(result), "error", ax)


def pieces(result: xr.Dataset) -> list[Piece]:
    """Return one drawing a split and setting, and the decay where a setting is a single run."""
    found = _errors(result)
    decays = _decays(result)
    return [*found, *(decays if len(decays) == len(found) else [])]


def columns(result: xr.Dataset) -> int:
    """Return how many panels stand side by side: one a setting, or one a split."""
    settings = len(groups(_on_split(result, 0), "error"))
    return settings if settings > 1 else _splits(result)


def _errors(result: xr.Dataset) -> list[Piece]:
    panels = [
        (split, group)
        for split in range(_splits(result))
        for group in groups(_on_split(result, split), "error")
    ]
    top = 1.05 * max(highest(group, "error") for _, group in panels)
    return [partial(_draw, group=group, top=top) for _, group in panels]


def _decays(result: xr.Dataset) -> list[Piece]:
    return [
        partial(_draw_decay, group=group, one=one._replace(data=one.data.isel(run=[run])))
        for split in range(_splits(result))
        for group in groups(_on_split(result, split), "error")
        for one in group.series
        for run in range(one.data.sizes["run"])
    ]


def _splits(result: xr.Dataset) -> int:
    return int(result.sizes.get(SPLIT, 1))


def _on_split(result: xr.Dataset, number: int) -> xr.Dataset:
    return result.isel({SPLIT: number}) if SPLIT in result.dims else result


def on_split(result: xr.Dataset, split: str) -> xr.Dataset:
    """Return the answer on the split of this name, or on the last there is."""
    if SPLIT not in result.dims:
        return result
    names = [str(name) for name in result[SPLIT].values]
    return _on_split(result, names.index(split) if split in names else -1)


def _split_of(group: Group) -> str:
    data = group.series[0].data
    return f"{data[SPLIT].item()} error" if SPLIT in data.coords else "error"


def _draw(ax: Axes, group: Group, top: float) -> None:
    single = len(group.series) == 1
    for one in group.series:
        curve(ax, one, "error", label="as trained" if single else "", band=opacity(group))
    if single:
        one = group.series[0]
        for number, (name, label) in enumerate(
            (("error_rescaled", "logits rescaled by W / w"), ("error_refit", "readout fitted anew"))
        ):
            if name in one.data:
                curve(ax, one, name, label=label, band=0, **by_category(number + 1))
    else:
        _whole(ax, group)
    finish(ax, group, _split_of(group), axis=_split_of(group))
    from_zero(ax, top)


def _whole(ax: Axes, group: Group) -> None:
    """Join the whole networks: error against width."""
    means = [one.data["error"].mean(["run", "subset"]) for one in group.series]
    ends = [mean.dropna(SIZE).isel({SIZE: -1}) for mean in means]
    sizes = [float(end[SIZE]) for end in ends]
    if len(set(sizes)) > 1:
        errors = [float(end) for end in ends]
        ax.plot(sizes, errors, color="black", ls="--", lw=1.2, label="whole networks", zorder=4)


def _draw_decay(ax: Axes, group: Group, one: Series) -> None:
    last = one.data.isel(run=0)
    names = ("gamma", "gamma_low", "gamma_high", "error_inf", "window_low", "window_high")
    gamma, low, high, left, smallest, largest = (float(last[name]) for name in names)
    mean = last["error"].mean("subset")
    sizes, errors = mean[SIZE].values.astype(float), mean.values
    shown = errors > left
    inside = shown & (sizes >= smallest) & (sizes <= largest)
    size_axis(ax, group)
    ax.plot(sizes[shown], errors[shown] - left, color=by_category(0)["color"], marker="o", ls="",
            label="as trained")  # fmt: skip
    if determined(gamma, low, high):
        draw_law(ax, sizes[inside], errors[inside], gamma, left, excess=True, color=GREY, ls="--",
                 lw=1.2, label="fit a w^-γ")  # fmt: skip
    decades(ax.yaxis)
    ax.set_ylabel(f"error − {left:.4f}" if left else "error")
    found = in_words(gamma, low, high, (smallest, largest))
    entitle(ax, _split_of(group), group.title, one.label, below=found)
