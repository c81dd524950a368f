"""The paper's claims, each judged on one setting of the hyper-parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from actstore import schema
from actstore.report.answers import Answers, Setting, on
from actstore.report.words import number, span, widths_in_words

Answer: TypeAlias = Literal["holds", "does not hold", "cannot be told"]
HOLDS: Answer = "holds"
NOT: Answer = "does not hold"
UNTOLD: Answer = "cannot be told"

#: below this many there are no clones
FEWEST = 2.0
#: widths with clones that an exponent needs
FEWEST_WIDTHS = 3
#: an interval of single seeds rules the exponent 1 out only from this far: it knows of no seeds
SEED_MARGIN = 0.1
#: hyper-parameters that regularise where they are not zero
REGULARISERS = ("weight_decay", "dropout", "label_smoothing", "l1", "l2")
RULES = ("gap", "bic")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim holds for a setting.

    Attributes
    ----------
    claim : str
        In a few words.
    answer : str
        "holds", "does not hold" or "cannot be told".
    because : str
        The numbers and thresholds that it rests on.
    missing : str
        What would have to be recorded to know, or to know better; may be empty.
    """

    claim: str
    answer: Answer
    because: str
    missing: str = ""


Found: TypeAlias = tuple[Answer, str, str]


def verdicts(answers: Answers, setting: int) -> list[Verdict]:
    """Judge every claim on the setting of this number.

    Parameters
    ----------
    answers : Answers
    setting : int
        Its place in ``answers.settings``.

    Returns
    -------
    list of Verdict
        In the order of :data:`CLAIMS`.
    """
    return [Verdict(claim, *judge(answers, setting)) for claim, judge in CLAIMS.items()]


def clones_exist(answers: Answers, setting: int) -> Found:
    """Judge by the interval of alive neurons / critical size at the widest width."""
    if "scaling" not in answers.found:
        return UNTOLD, "", answers.failed["scaling"]
    width, ratio, low, high = _at_widest(answers, setting)
    said = (
        f"width {width}: {number(ratio)} = alive neurons / critical size ({number(low)}…"
        f"{number(high)}, 90 %) at {_threshold(answers)}; clones from {FEWEST:g} on"
    )
    certified = _certified(answers, answers.settings[setting])
    said += f"; {certified}" if certified and high >= FEWEST else ""
    if not np.isfinite([ratio, low, high]).all():
        return UNTOLD, said, "all neurons of the layer are dead, or it has too few samples"
    if low >= FEWEST:
        return HOLDS, said, ""
    if high < FEWEST:
        return NOT, said, ""
    return UNTOLD, said, f"the interval holds {FEWEST:g}: record more seeds or a wider network"


def growth_is_linear(answers: Answers, setting: int) -> Found:
    """Judge by whether the interval of the exponent of n_clones against width holds 1."""
    if "scaling" not in answers.found:
        return UNTOLD, "", answers.failed["scaling"]
    one = answers.found["scaling"].isel(setting=setting).sel(threshold=answers.threshold)
    recorded = sorted(answers.settings[setting].runs)
    if not bool(one["has_clones"].any()):
        said = f"no clones at {widths_in_words(recorded)}, {_threshold(answers)}"
        if len(recorded) < FEWEST_WIDTHS:
            return UNTOLD, said, f"record {FEWEST_WIDTHS} widths or more"
        if _reaches_two(answers, setting, "_high"):
            return UNTOLD, said, f"an interval holds {FEWEST:g}: more seeds, or wider networks"
        return NOT, f"{said}: if there is a critical width, it is above {recorded[-1]}", ""
    slope, low, high = (float(one[f"exponent{end}"]) for end in ("", "_low", "_high"))
    first, last = float(one["window_low"]), float(one["window_high"])
    inside = [w for w in recorded if first <= w <= last]
    if not np.isfinite([slope, low, high]).all() or len(inside) < FEWEST_WIDTHS:
        having = int(one["has_clones"].sum())
        said = f"clones at {having} of {widths_in_words(recorded)}, {_threshold(answers)}"
        return (
            UNTOLD,
            said,
            f"an exponent needs clones at {FEWEST_WIDTHS} widths: record wider ones",
        )
    bend = float(one["critical_width"])
    said = (
        f"n_clones ~ width^{slope:.2f} ({low:.2f}…{high:.2f}, 90 %) over "
        f"{widths_in_words(inside)} at {_threshold(answers)}"
        + (f"; critical width {number(bend)}" if bend == bend else "")
        + _other_slopes(answers, setting)
    )  # fmt: skip
    if low <= 1 <= high:
        return HOLDS, said, ""
    single = min(int(one["seeds"].sel(width=w)) for w in inside) < 2
    if single and low - SEED_MARGIN < 1 < high + SEED_MARGIN:
        return UNTOLD, said, (
            "1 is close by, and the interval of one seed a width covers the draw of subsets alone: "
            "record more seeds"
        )  # fmt: skip
    return NOT, said, ""


def noise_is_independent(answers: Answers, setting: int) -> Found:
    """Judge by both matched nulls, at all sizes from that of a clone to half of the neurons."""
    if "noise" not in answers.found:
        return UNTOLD, "", answers.failed["noise"]
    run = answers.settings[setting].widest
    one = on(answers.found["noise"], run)
    if one is None or "scaling" not in answers.found:
        return UNTOLD, "", "no residual correlations of the widest network"
    width, ratio, _, _ = _at_widest(answers, setting)
    if not ratio >= FEWEST:
        return UNTOLD, f"no clones at width {width}, {_threshold(answers)}", (
            "clones whose differences could be tested"
        )  # fmt: skip
    size = float(_scaling(answers, setting)["critical_size"].sel(width=width))
    one = one.isel(epoch=-1) if schema.EPOCH in one.dims else one
    one = one.mean("subset") if "subset" in one["residual_correlation_heldout"].dims else one
    measured = np.isfinite(one["excess"].values).all(
        one["excess"].dims.index("factors"),
    ) & (one["subset_size"].values >= size)
    one = one.isel(subset_size=np.flatnonzero(measured))
    if not one.sizes["subset_size"]:
        return UNTOLD, f"critical size {number(size)} of {width}", "a wider network"
    consistent = {rule: one["consistent"].sel(factors=rule).values for rule in RULES}
    sizes = one["subset_size"].values
    samples = int(one["count"])
    said = (
        f"subsets of {span(sizes)} of {width} neurons (critical size {number(size)}), measured / "
        "matched null: "
        + "; ".join(
            f"{rule} {span(one['excess'].sel(factors=rule).values, 2)} with "
            f"{int(one['n_factors'].sel(factors=rule))} factors"
            for rule in RULES
        )
        + f"; mean |r| {span(one['residual_correlation_heldout'].values, 3)}, sampling floor "
        f"{span(one['sampling_floor'].values, 3)}, {samples} samples"
    )
    few = f"{samples} samples are fewer than twice the {width} neurons" * (samples < 2 * width)
    failed = [rule for rule in RULES if not bool(one["factors_converged"].sel(factors=rule))]
    caution = "; ".join(
        filter(None, [few, f"the fit of {' and '.join(failed)} did not converge" * bool(failed)])
    )
    neither = ~consistent["gap"] & ~consistent["bic"]
    if neither.any():
        at = f"; above both nulls at {span(sizes[neither])} neurons"
        return NOT, said + at, caution
    if consistent["gap"].all() and consistent["bic"].all():
        return HOLDS, said, caution
    missing = "the answer depends on the number of factors; more samples would narrow it"
    return UNTOLD, said, "; ".join(filter(None, [missing, caution]))


def clones_follow_interpolation(answers: Answers, setting: int) -> Found:
    """Judge by the first epochs of zero train error and of two clones in the widest network.

    Two clones count once the whole 90 % interval of alive neurons / critical size is above 2, and
    there were none before once it is below.
    """
    if "dynamics" not in answers.found:
        return UNTOLD, "", answers.failed["dynamics"]
    run = answers.settings[setting].widest
    one = on(answers.found["dynamics"], run)
    if one is None:
        return UNTOLD, "", "no dynamics of the widest network"
    one = one.sel(threshold=answers.threshold) if "threshold" in one.dims else one
    tested = [int(e) for e in one[schema.EPOCH].values if int(e) in set(run.epochs.tolist())]
    held = one.sel(epoch=tested)
    where = f"width {run.width}, seed {run.seed}, {len(tested)} epochs {tested[0]}…{tested[-1]}"
    firm = (held["alive"] / held["critical_size_high"] >= FEWEST).values
    if not bool(held["has_clones"].isel(epoch=-1)) or not firm.any():
        return UNTOLD, f"{where}: no clones at the last, {_threshold(answers)}", "a run with clones"
    begun = float(tested[int(np.argmax(firm))])
    if "train_error" not in one or not bool(held["train_error"].notnull().any()):
        return UNTOLD, f"{where}: first clones at epoch {begun:g}", "train_error was not logged"
    zero = float(one["interpolation_epoch"])
    place = tested.index(int(begun))
    ratio, then = (float(held[k].isel(epoch=place)) for k in ("width_ratio", "train_error"))
    said = f"{where}: two clones or more first at epoch {begun:g} ({number(ratio)}, train error "
    said += f"{number(then)}), {_threshold(answers)} with its 90 % interval; "
    if zero != zero:
        least = float(held["train_error"].min())
        return NOT, f"{said}train error never zero, least {number(least)}", ""
    said += f"first zero train error at epoch {zero:g}"
    if begun < zero:
        return NOT, said, ""
    early = (held["alive"] / held["critical_size_low"] >= FEWEST).values & (
        np.array(tested) <= zero
    )
    if begun > zero and early.any():
        at = tested[int(np.argmax(early))]
        return UNTOLD, said, f"the interval at epoch {at} holds {FEWEST:g} too: a wider network"
    if begun > zero:
        return HOLDS, said, ""
    before = [e for e in tested if e < begun]
    since = f"after epoch {before[-1]}" if before else "before the first recorded epoch"
    return UNTOLD, said, f"both happened {since}: record more epochs there"


def regularisation_is_needed(answers: Answers, setting: int) -> Found:
    """Judge by the setting that differs in regularisation alone."""
    if "scaling" not in answers.found:
        return UNTOLD, "", answers.failed["scaling"]
    mine = answers.settings[setting]
    keys = [key for key in REGULARISERS if key in mine.values]
    if not keys:
        return UNTOLD, "", (
            "no hyper-parameter of the runs tells of regularisation "
            f"({', '.join(REGULARISERS)}): record runs with --set weight_decay=0 and another value"
        )  # fmt: skip
    free = not any(_on(mine.values[key]) for key in keys)
    partners = [
        place
        for place, other in enumerate(answers.settings)
        if _rest(other) == _rest(mine) and _regularised(other) == free
    ]
    said = _counted(answers, setting)
    if free and _reaches_two(answers, setting, "_low"):
        return NOT, f"without regularisation {said}", ""
    if not partners:
        runs = f"the same runs {'with' if free else 'without'} regularisation"
        return UNTOLD, said, f"{runs}, such as {_example(keys, free)}"
    other = max(partners, key=lambda place: _at_widest(answers, place)[1])
    bare, kept = (setting, other) if free else (other, setting)
    said = f"{answers.settings[bare].name}: {_counted(answers, bare)}; "
    said += f"{answers.settings[kept].name}: {_counted(answers, kept)}; {_threshold(answers)}"
    if _reaches_two(answers, bare, "_low"):
        return NOT, said, ""
    if _reaches_two(answers, bare, "_high"):
        return UNTOLD, said, f"without regularisation an interval holds {FEWEST:g}: more seeds"
    if not _reaches_two(answers, kept, "_low"):
        return UNTOLD, said, "a regularised setting that has clones, with its whole interval"
    if _at_widest(answers, bare)[0] < _at_widest(answers, kept)[0]:
        return UNTOLD, said, "the wider networks without regularisation"
    trained = _last_error(answers, bare)
    if trained != trained or trained > 0:
        why = "is not known" if trained != trained else f"is {number(trained)}, not zero"
        return UNTOLD, said, f"without regularisation the train error {why}: train on"
    return HOLDS, f"{said}; train error 0 without it too", ""


def wide_beats_ensemble(answers: Answers, setting: int) -> Found:
    """Judge by the contest whose narrow networks are about as wide as a clone."""
    if "ensemble" not in answers.found or "contest" not in answers.found["ensemble"].dims:
        return UNTOLD, "", answers.failed.get("ensemble", "K seeds of a width w and one of K·w")
    result = answers.found["ensemble"]
    name = answers.settings[setting].name
    places = [
        place
        for place, contest in enumerate(result["contest"].values)
        if str(contest).rpartition(": ")[0] == name
    ]
    if not places:
        return UNTOLD, "", "no contest in this setting: K seeds of a width w and a run of width K·w"
    one = result.isel(contest=places).sel(rival="narrow ensemble", average="logits")
    widest = one["wide_width"].max()
    one = one.isel(contest=np.flatnonzero(one["wide_width"].values == int(widest)))
    chosen = one.isel(contest=_like_clones(answers, setting, one["narrow_width"].values))
    difference, low, high = (float(chosen[f"difference{end}"]) for end in ("", "_low", "_high"))
    said = (
        f"one of width {int(chosen['wide_width'])} against {int(chosen['members'])} of width "
        f"{int(chosen['narrow_width'])}, logits averaged: error "
        f"{number(float(chosen['error_wide']))} against {number(float(chosen['error_rival']))}, "
        f"difference {difference:+.4f} "
        f"({low:+.4f}…{high:+.4f}, 95 %), McNemar p = {number(float(chosen['p_value']))}"
    )
    if not np.isfinite([difference, low, high]).all():
        return UNTOLD, said, "the narrow ensemble"
    if high < 0:
        return HOLDS, said, ""
    if low > 0:
        return NOT, f"{said}: the ensemble wins", ""
    return UNTOLD, said, "a draw on these samples: more test samples, or more seeds"


CLAIMS: dict[str, Callable[[Answers, int], Found]] = {
    "Clones exist at the widest width": clones_exist,
    "Their number grows linearly with width, above a critical width": growth_is_linear,
    "They differ by independent noise": noise_is_independent,
    "They appear only after zero train error": clones_follow_interpolation,
    "Regularisation is needed": regularisation_is_needed,
    "A wide network beats an ensemble": wide_beats_ensemble,
}


def _threshold(answers: Answers) -> str:
    held = answers.parameters["criterion"] == "heldout"
    return f"{'held-out R²' if held else 'R² of all neurons'} ≥ {answers.threshold:g}"


def _scaling(answers: Answers, setting: int) -> xr.Dataset:
    return answers.found["scaling"].isel(setting=setting).sel(threshold=answers.threshold)


def _at_widest(answers: Answers, setting: int) -> tuple[int, float, float, float]:
    width = max(answers.settings[setting].runs)
    one = _scaling(answers, setting).sel(width=width)
    ratio, low, high = (float(one[f"width_ratio{end}"]) for end in ("", "_low", "_high"))
    return width, ratio, low, high


def _reaches_two(answers: Answers, setting: int, end: str) -> bool:
    """Whether this end of the 90 % interval is two clones or more at any width."""
    return bool((_scaling(answers, setting)[f"width_ratio{end}"] >= FEWEST).any())


def _counted(answers: Answers, setting: int) -> str:
    one = _scaling(answers, setting)
    widths = [int(w) for w in one["width"].values[one["has_clones"].values.astype(bool)]]
    if not widths:
        return f"no clones at {widths_in_words(sorted(answers.settings[setting].runs))}"
    most = float(one["n_clones"].sel(width=widths[-1]))
    return f"{number(most)} clones at width {widths[-1]}"


def _last_error(answers: Answers, setting: int) -> float:
    width = max(answers.settings[setting].runs)
    one = _scaling(answers, setting)
    return float(one["train_error"].sel(width=width)) if "train_error" in one else float("nan")


def _certified(answers: Answers, setting: Setting) -> str:
    one = on(answers.found["clones"], setting.widest) if "clones" in answers.found else None
    if one is None:
        return ""
    certified, bound = int(one["certified_clones"].max()), int(one["component_bound"].max())
    return (
        f"a random partition of seed {setting.widest.seed} certifies {certified}, "
        f"its principal components allow {bound}"
    )


def _other_slopes(answers: Answers, setting: int) -> str:
    one = answers.found["scaling"].isel(setting=setting)
    parts = [
        f"{float(slope):.2f} at {float(threshold):g}"
        for threshold, slope in zip(one["threshold"].values, one["exponent"].values, strict=True)
        if np.isfinite(slope) and float(threshold) != answers.threshold
    ]
    return f"; exponent {', '.join(parts)}" if parts else ""


def _like_clones(answers: Answers, setting: int, widths: Any) -> int:
    """Return the place of the narrowest width that a clone fits into, else of the widest."""
    size = float("nan")
    if "scaling" in answers.found:
        size = float(_scaling(answers, setting)["critical_size"].sel(
            width=max(answers.settings[setting].runs)))  # fmt: skip
    fitting = np.flatnonzero(widths >= size)
    return int(fitting[np.argmin(widths[fitting])]) if fitting.size else int(np.argmax(widths))


def _on(value: Any) -> bool:
    return value not in (0, 0.0, False, None, "", "none")


def _regularised(setting: Setting) -> bool:
    return any(_on(setting.values.get(key)) for key in REGULARISERS)


def _rest(setting: Setting) -> dict[str, Any]:
    return {k: v for k, v in setting.values.items() if k not in REGULARISERS}


def _example(keys: Sequence[str], free: bool) -> str:
    return f"--set {keys[0]}={'0.005' if free else '0'}"
