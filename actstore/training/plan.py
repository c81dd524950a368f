"""The runs of a sweep: every width, with every seed, with every choice of values."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.recording import Schedule, estimate_bytes
from actstore.recording.kept import what_is_kept
from actstore.training.recipes import Recipe
from actstore.training.settings import Settings
from actstore.training.splits import Split


@dataclass(frozen=True)
class RunPlan:
    """One training of a sweep.

    Parameters
    ----------
    recipe
        With the values of this run set.
    width, seed
        Of the run.
    hyper_parameters
        Settings that tell it from the other runs.
    schedule
        Epochs to record.
    keep
        What is stored of a layer: its activations, its moments or both.
    keep_bits
        Bits of mantissa that activations are rounded to; None leaves them as they are.
    """

    recipe: Recipe
    width: int
    seed: int
    hyper_parameters: Mapping[str, Any]
    schedule: Schedule
    keep: tuple[str, ...] = (schema.ACTIVATIONS,)
    keep_bits: int | None = None

    @property
    def name(self) -> str:
        """Name of the run in the store."""
        return schema.run_name(self.width, self.seed, self.hyper_parameters)

    @property
    def epochs(self) -> int:
        """Epochs of the training."""
        return self.recipe.settings.epochs

    @property
    def kept(self) -> str:
        """What is stored of a layer, in words."""
        return schema.kept_in_words({"keep": self.keep, "keep_bits": self.keep_bits})

    def configuration(self) -> dict[str, Any]:
        """Return everything that the result depends on, for the run's provenance."""
        return {
            "recipe": self.recipe.name,
            **({"model": self.recipe.variant} if self.recipe.variant else {}),
            "schedule": self.schedule.rule,
            **dataclasses.asdict(self.recipe.settings),
            **self.recipe.model_keywords,
            **self.recipe.data_keywords,
        }

    def differences(self, then: Mapping[str, Any]) -> list[str]:
        """Return the settings that differ from those of a run that was recorded before."""
        # A setting that did not exist then had the effect of its default.
        known = {**dataclasses.asdict(Settings()), **then}
        now = self.configuration()
        return [key for key in {**known, **now} if known.get(key) != now.get(key)]

    def estimated_bytes(self, splits: Mapping[str, Split]) -> int:
        """Return the bytes that the run will write, before compression."""
        counts = {name: len(split) for name, split in splits.items()}
        recorded = self.recipe.settings.record_train
        if recorded:
            counts["train"] = min(counts["train"], recorded)
        return estimate_bytes(
            counts,
            widths={schema.DEFAULT_LAYER: self.width},
            slots=self.schedule.slots(self.epochs),
            keep=self.keep,
        )


def plan_sweep(
    recipe: Recipe,
    *,
    widths: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    values: Mapping[str, Sequence[Any]] | None = None,
    epochs: int | None = None,
    schedule: Schedule | str | None = None,
    amp: bool = False,
    until: str | None = None,
    keep: str = schema.ACTIVATIONS,
    moments: bool = False,
    keep_bits: int | None = None,
) -> list[RunPlan]:
    """Return the runs of a sweep: every width, with every seed, with every choice of values.

    Parameters
    ----------
    recipe
        What is trained on what.
    widths, epochs, schedule
        In place of the recipe's own.
    seeds
        Of the trainings.
    values
        Key → values to try, each taken by the settings, the model or the data.
    amp, until
        See :class:`Settings`.
    keep, moments, keep_bits
        See :class:`actstore.Recorder`.

    Raises
    ------
    InvalidParameterError
        If a value is not taken or out of range, or no width is given.

    Examples
    --------
    >>> from actstore.training import RECIPES
    >>> plans = plan_sweep(RECIPES["digits"], widths=[8, 16], values={"weight_decay": [0, 5e-3]})
    >>> [plan.name for plan in plans][:2]
    ['width=8,weight_decay=0.0,seed=0', 'width=16,weight_decay=0.0,seed=0']
    """
    kept = what_is_kept(keep, moments=moments, keep_bits=keep_bits)
    if keep_bits is not None:
        schema.check_keep_bits(keep_bits)
    widths = tuple(widths or ())
    if widths and min(widths) < 1:
        raise InvalidParameterError(f"width {min(widths)} was given; a layer has 1 neuron or more")
    common: dict[str, Any] = {"epochs": epochs, "until": until, "amp": amp or None}
    fixed = {key: value for key, value in common.items() if value is not None}
    values = values or {}
    plans = []
    for chosen in itertools.product(*values.values()):
        given = dict(zip(values, chosen, strict=True))
        changed = recipe.set({**given, **fixed})
        planned = Schedule.of(schedule if schedule is not None else changed.schedule)
        planned.epochs(changed.settings.epochs)  # raises here, before anything trains
        settings = dataclasses.asdict(changed.settings)
        told = {key: settings.get(key, value) for key, value in given.items()}
        told.setdefault("weight_decay", settings["weight_decay"])
        if not (widths or changed.widths):
            raise InvalidParameterError(
                f"{recipe.name!r} has no widths of its own; give one or more"
            )
        plans += [
            RunPlan(changed.at(width), width, seed, told, planned, kept, keep_bits)
            for seed, width in itertools.product(
                dict.fromkeys(seeds), dict.fromkeys(widths or changed.widths)
            )
        ]
    return plans
