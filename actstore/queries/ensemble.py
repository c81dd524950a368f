"""Whether a wide network beats an ensemble of narrow ones, and what averaging its clones does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import softmax

from actstore import schema
from actstore.errors import InvalidDataError
from actstore.kernels.ensembles import bias_variance, mcnemar
from actstore.queries.apply import describe
from actstore.queries.logits import MEMBER, clone_logits, logits_of, same_labels
from actstore.queries.settings import SETTING, WIDTH, Settings
from actstore.queries.sources import Data, Source, compared_epochs, last_epoch
from actstore.queries.subset_errors import readable

Array: TypeAlias = npt.NDArray[Any]

CONTEST = "contest"
AVERAGE = "average"
RIVAL = "rival"
AVERAGES = ("logits", "probabilities")
RIVALS = ("narrow ensemble", "clones", "wide ensemble")

COUNTED = {
    "error_wide": ("error of the wide network", (CONTEST,)),
    "error_narrow": ("error of one narrow network, mean over its seeds", (CONTEST,)),
    "error_rival": ("error of the rival", (CONTEST, RIVAL, AVERAGE)),
    "only_wide": ("samples that the wide network alone has right", (CONTEST, RIVAL, AVERAGE)),
    "only_rival": ("samples that the rival alone has right", (CONTEST, RIVAL, AVERAGE)),
    "difference": ("error of the wide network - error of the rival", (CONTEST, RIVAL, AVERAGE)),
    "difference_low": ("difference, low end of its 95 % interval", (CONTEST, RIVAL, AVERAGE)),
    "difference_high": ("difference, high end of its 95 % interval", (CONTEST, RIVAL, AVERAGE)),
    "p_value": ("McNemar's test that both err equally often", (CONTEST, RIVAL, AVERAGE)),
}


@dataclasses.dataclass(frozen=True)
class Contest:
    """One wide network against K narrow ones of the same number of neurons in all."""

    setting: int
    narrow: int
    wide: int
    narrow_runs: tuple[int, ...]
    wide_runs: tuple[int, ...]

    @property
    def members(self) -> int:
        """K."""
        return self.wide // self.narrow


def ensemble(
    data: Data,
    *,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    rng_seed: int = 0,
) -> xr.Dataset:
    r"""Compare one network of width K·w with K networks of width w, with its clones, with K like it.

    Every pair of widths (w, K·w) of which the store holds K ≥ 2 seeds of w and a seed of K·w is a
    contest, for each setting of the hyper-parameters. The wide network is that of its first seed.
    Its rivals, on the same samples:

    - ``narrow ensemble``: the first K seeds of width w, averaged;
    - ``clones``: K disjoint random subsets of w of its own neurons, each with the trained readout
      rescaled by K, averaged. Their logits average to those of the wide network exactly, their
      probabilities do not;
    - ``wide ensemble``: the first K seeds of width K·w, averaged, if there are as many.

    Members are averaged as logits (the paper) and as probabilities.

    Parameters
    ----------
    data : Store
        A store or a selection of it, recorded with its readout. Each run counts at the last of
        its selected epochs.
    split : str
        Where errors are counted.
    layer : str
        The input of the readout.
    rng_seed : int
        Seed of the partition into clones.

    Returns
    -------
    Dataset
        With dims ``(contest, rival, average)``: ``error_rival``, the discordant counts
        ``only_wide`` and ``only_rival``, ``difference`` (error of the wide network − error of the
        rival) with ``difference_low`` and ``difference_high`` (95 %, Agresti & Min), ``p_value``
        (exact McNemar), ``winner`` in words; with ``(contest,)``: ``error_wide``,
        ``error_narrow``; over seeds, with dims ``(setting, width)``: ``bias2``, ``variance`` and
        ``squared_error`` of the class probabilities (NaN with fewer than two seeds). NaN where a
        rival does not exist. Lazy: nothing but labels is read until values are asked for.

    Raises
    ------
    InvalidDataError
        If no width has two seeds and a multiple of it in the store, or the samples of the runs
        differ.
    NotInStoreError
        If a run holds no readout, split or layer.

    Notes
    -----
    Bias² and variance are those of :math:`E_s \|p_s - y\|^2 = \|\bar p - y\|^2 + E_s \|p_s -
    \bar p\|^2`, averaged over samples, with the class probabilities :math:`p_s` of seed s and the
    one-hot label y, corrected for the number of seeds. The clones here are random subsets of w
    neurons, whatever their R²: whether they are clones, ``clones`` says.

    The paper claims that the wide network wins in one task; the answer says who wins here. A
    difference whose interval holds zero is a draw. Runs that stopped at different epochs are
    compared with a warning, and ``epochs`` in the attributes names them.

    References
    ----------
    arXiv 2106.03485, abstract of v1: a wide network against an ensemble of networks whose last
    layer has the size of a clone. The interval and the test are not in the paper: on the same
    samples a difference of a few errors may be chance. McNemar (1947); Agresti & Min (2005) for
    the interval; arXiv 2002.11328 for bias² and variance, arXiv 2305.18411 for both by width.
    """  # noqa: E501 - the first sentence names all three
    found = readable(last_epoch(data), layer=layer, splits=[split])
    epochs = compared_epochs(found)
    settings = Settings(found)
    label = same_labels(found, split)
    contests = _contests(settings)
    if not contests and not any(len(runs) > 1 for runs in settings.members.values()):
        raise InvalidDataError(_too_few(settings))
    logits = [logits_of(source, split, layer) for source in found]
    parts = [_contest(c, logits, found, split, layer, label, rng_seed) for c in contests]
    answer = _bias_variance(settings, logits, label)
    if parts:
        answer = answer.merge(xr.concat(parts, dim=CONTEST))
        names = [settings.names()[c.setting] for c in contests]
        answer = answer.assign_coords(
            {
                CONTEST: [
                    f"{n}: {c.members} x {c.narrow} against {c.wide}"
                    for n, c in zip(names, contests, strict=True)
                ],
                RIVAL: list(RIVALS),
                AVERAGE: list(AVERAGES),
                "narrow_width": (CONTEST, [c.narrow for c in contests]),
                "wide_width": (CONTEST, [c.wide for c in contests]),
                "members": (CONTEST, [c.members for c in contests]),
            }
        )
        answer = answer.assign(winner=_winner(answer))
    return describe(answer, "ensemble", epochs=epochs, split=split, layer=layer, rng_seed=rng_seed)


def _contests(settings: Settings) -> list[Contest]:
    contests = []
    for (setting, w), runs in sorted(settings.members.items()):
        narrow = settings.widths[w]
        for (other, v), wide_runs in sorted(settings.members.items()):
            wide = settings.widths[v]
            if other == setting and wide % narrow == 0 and 2 <= wide // narrow <= len(runs):
                contests.append(Contest(setting, narrow, wide, tuple(runs), tuple(wide_runs)))
    return contests


def _too_few(settings: Settings) -> str:
    seeds = {settings.widths[w]: len(runs) for (_, w), runs in settings.members.items()}
    held = ", ".join(f"{n} of width {w}" for w, n in sorted(seeds.items()))
    return (
        "an ensemble needs two seeds of a width, better K seeds of a width w and a run of width "
        f"K·w; the selection holds {held} in each setting; record more with --seed 0,1,2,3"
    )


def _contest(
    contest: Contest,
    logits: Sequence[xr.DataArray],
    found: Sequence[Source],
    split: str,
    layer: str,
    label: xr.DataArray,
    rng_seed: int,
) -> xr.Dataset:
    def stacked(runs: Sequence[int]) -> xr.DataArray:
        return xr.concat([logits[r] for r in runs], dim=MEMBER).chunk({MEMBER: -1})

    k = contest.members
    wide_source = found[contest.wide_runs[0]]
    y = label.values

    def kernel(narrow: Array, clones: Array, wide: Array) -> tuple[Array, ...]:
        right = wide[0].argmax(-1) == y
        shape = (len(RIVALS), len(AVERAGES))
        columns = np.full((7, *shape), np.nan)
        rivals = (narrow[:k], clones, wide[:k] if len(wide) >= k else None)
        for r, members in enumerate(rivals):
            for a, average in enumerate(AVERAGES):
                if members is not None:
                    columns[:, r, a] = _against(right, members, average, y)  # type: ignore[arg-type]
        errors = [float(np.mean(group.argmax(-1) != y)) for group in (wide[0], narrow)]
        return (np.asarray(errors[0]), np.asarray(errors[1]), *columns)

    dims = [schema.SAMPLE, schema.OUTPUT]
    results = xr.apply_ufunc(
        kernel,
        stacked(contest.narrow_runs).rename({MEMBER: "narrow"}),
        clone_logits(wide_source, split, layer, contest.narrow, rng_seed),
        stacked(contest.wide_runs).rename({MEMBER: "wide"}),
        input_core_dims=[["narrow", *dims], [MEMBER, *dims], ["wide", *dims]],
        output_core_dims=[[d for d in ds if d != CONTEST] for _, ds in COUNTED.values()],
        dask="parallelized",
        output_dtypes=["float64"] * len(COUNTED),
        dask_gufunc_kwargs={
            "output_sizes": {RIVAL: len(RIVALS), AVERAGE: len(AVERAGES)},
            "allow_rechunk": True,
        },
    )
    return xr.Dataset(
        {
            name: array.assign_attrs(long_name=text, units="1")
            for (name, (text, _)), array in zip(COUNTED.items(), results, strict=True)
        }
    )


def _against(
    right: Array, members: Array, average: Literal["logits", "probabilities"], y: Array
) -> list[float]:
    mean = members.mean(0) if average == "logits" else softmax(members, axis=-1).mean(0)
    rival = mean.argmax(-1) == y
    test = mcnemar(right, rival)
    return [
        float(np.mean(~rival)),
        test.only_a,
        test.only_b,
        test.difference,
        test.low,
        test.high,
        test.p_value,
    ]


def _winner(answer: xr.Dataset) -> xr.DataArray:
    def words(low: Array, high: Array) -> Array:
        text = np.full(low.shape, "", dtype="<U8")
        text[low > 0] = "rival"
        text[high < 0] = "wide"
        text[(low <= 0) & (high >= 0)] = "draw"
        return text

    winner: xr.DataArray = xr.apply_ufunc(
        words,
        answer["difference_low"],
        answer["difference_high"],
        dask="parallelized",
        output_dtypes=["<U8"],
    )
    return winner.assign_attrs(long_name="who errs less often, beyond the 95 % interval")


def _bias_variance(
    settings: Settings, logits: Sequence[xr.DataArray], label: xr.DataArray
) -> xr.Dataset:
    # what a task carries to wherever it runs: plain values, and no sources
    y, shape = label.values, settings.shape
    places = list(settings.members.items())

    def kernel(*by_run: Array) -> tuple[Array, Array, Array]:
        out = np.full((3, *shape), np.nan)
        for place, runs in places:
            if len(runs) > 1:
                members = softmax(np.stack([by_run[r] for r in runs]), axis=-1)
                split = bias_variance(members, y)
                out[(slice(None), *place)] = *split, sum(split)
        return out[0], out[1], out[2]

    results = xr.apply_ufunc(
        kernel,
        *logits,
        input_core_dims=[[schema.SAMPLE, schema.OUTPUT]] * len(logits),
        output_core_dims=[[SETTING, WIDTH]] * 3,
        dask="parallelized",
        output_dtypes=["float64"] * 3,
        dask_gufunc_kwargs={
            "output_sizes": dict(zip((SETTING, WIDTH), shape, strict=True)),
            "allow_rechunk": True,
        },
    )
    texts = {
        "bias2": "squared bias of the class probabilities over seeds",
        "variance": "variance of the class probabilities over seeds",
        "squared_error": "squared error of the class probabilities, bias2 + variance",
    }
    values = {
        name: array.assign_attrs(long_name=text, units="1")
        for (name, text), array in zip(texts.items(), results, strict=True)
    }
    return xr.Dataset({**values, "seeds": settings.seeds()}).assign_coords(settings.coords())
