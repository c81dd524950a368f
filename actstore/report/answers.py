"""What a report asks of a store: every question once, bounded, and what could not be answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import xarray as xr

from actstore import queries, schema
from actstore.errors import ActstoreError, InvalidDataError
from actstore.queries.settings import Settings
from actstore.queries.sources import last_epoch, sources
from actstore.storage.run import Run
from actstore.store import Store

#: asked beside the threshold of the verdicts: the slope depends on it
OTHER_THRESHOLDS = (0.9, 0.95, 0.98, 0.99)
#: epochs of a run at which clones are counted, at most
MOST_EPOCHS = 12
#: random subsets of each size whose errors are counted
ERROR_SUBSETS = 40


class Progress(Protocol):
    """Is told of each question before it is asked."""

    def __call__(self, question: str, done: int, of: int) -> None:
        """Say that ``question`` is asked now, as number ``done`` + 1 of ``of``."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of the hyper-parameters.

    Attributes
    ----------
    name : str
    values : dict
        The hyper-parameters.
    runs : dict of int to list of Run
        Width, and its runs in the order of their seeds.
    """

    name: str
    values: Mapping[str, Any]
    runs: Mapping[int, Sequence[Run]]

    @property
    def widest(self) -> Run:
        """The first seed of the widest width."""
        return self.runs[max(self.runs)][0]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the questions of a report found.

    Attributes
    ----------
    settings : list of Setting
        In the order of the dim ``setting`` of the answers.
    found : dict of str to Dataset
        Computed answers by question.
    failed : dict of str to str
        Why a question has no answer.
    left_out : dict of str to str
        Runs that were not asked, and why.
    parameters : dict
        Threshold, criterion, split, layer, subsets, rng_seed.
    """

    settings: Sequence[Setting]
    found: Mapping[str, xr.Dataset]
    failed: Mapping[str, str]
    left_out: Mapping[str, str]
    parameters: Mapping[str, Any]

    @property
    def threshold(self) -> float:
        """R² that makes a subset a clone."""
        return float(self.parameters["threshold"])


def ask(
    store: Store,
    *,
    threshold: float,
    criterion: str,
    split: str,
    layer: str,
    subsets: int,
    rng_seed: int,
    progress: Progress | None = None,
) -> Answers:
    """Ask every question of a report; one that fails is noted, and the others are asked.

    Counting clones and errors of whole networks takes all runs at their last epoch; noise,
    certificates and errors of subsets the widest run of each setting; its dynamics at most
    ``MOST_EPOCHS`` epochs.

    Raises
    ------
    InvalidDataError
        If no run holds the split and the layer at any epoch.
    """
    left_out = _left_out(store, split, layer)
    names = [name for name in store if name not in left_out]
    if not names:
        why = "; ".join(dict.fromkeys(left_out.values())) or "it holds no run"
        raise InvalidDataError(f"{store.path!r} holds nothing to report on: {why}")
    runs = store.sel(run=names)
    settings = _settings(runs, layer, split)
    last = last_epoch(runs)
    widest = runs.sel(run=[s.widest.name for s in settings])
    widest_last = last_epoch(widest)
    trained = widest.narrow(lambda run: run.select(_some(run)))
    thresholds = sorted({*OTHER_THRESHOLDS, threshold})
    drawn: dict[str, Any] = {"split": split, "layer": layer, "rng_seed": rng_seed}
    drawn["subsets"] = subsets
    counted: dict[str, Any] = {**drawn, "criterion": criterion}
    questions: dict[str, Callable[[], xr.Dataset]] = {
        "scaling": lambda: queries.scaling(last, threshold=thresholds, **counted),
        "reconstruction": lambda: queries.reconstruction(last, **drawn),
        "noise": lambda: queries.noise(widest_last, factors=["gap", "bic"], **drawn),
        "dynamics": lambda: queries.dynamics(trained, threshold=threshold, **counted),
        "clones": lambda: queries.clones(widest_last, threshold=threshold, **counted),
        "error": lambda: queries.error(
            widest_last, splits=[split], layer=layer, subsets=ERROR_SUBSETS, rng_seed=rng_seed
        ),
        "ensemble": lambda: queries.ensemble(last, split=split, layer=layer, rng_seed=rng_seed),
        "spectrum": lambda: queries.spectrum(last, split=split, layer=layer),
    }  # fmt: skip
    found: dict[str, xr.Dataset] = {}
    failed: dict[str, str] = {}
    for done, (question, answer) in enumerate(questions.items()):
        if progress is not None:
            progress(question, done, len(questions))
        try:
            found[question] = answer().compute()
        except ActstoreError as error:
            failed[question] = str(error)
    parameters = {"threshold": threshold, "criterion": criterion, **drawn}
    return Answers(settings, found, failed, left_out, parameters)


def _left_out(store: Store, split: str, layer: str) -> dict[str, str]:
    """Return the runs that cannot be asked, and why."""
    found = {}
    for run in store.values():
        if not len(run.committed):
            found[run.name] = "no epoch is committed yet"
        elif split not in run.splits:
            found[run.name] = f"it has no split {split!r}, but {', '.join(run.splits)}"
        elif layer not in run.layers(split):
            found[run.name] = f"it has no layer {layer!r}, but {', '.join(run.layers(split))}"
    return found


def _settings(runs: Store, layer: str, split: str) -> list[Setting]:
    arranged = Settings(sources(last_epoch(runs), split=split, layer=layer))
    found = []
    for place, name in enumerate(arranged.names()):
        held = {
            arranged.widths[w]: [runs[arranged.found[number].name] for number in numbers]
            for (setting, w), numbers in sorted(arranged.members.items())
            if setting == place
        }
        first = next(iter(held.values()))[0]
        found.append(Setting(name, first.hyper_parameters, held))
    return found


def _some(run: Run) -> list[int]:
    """Return the epochs at which clones are counted: few, and those about zero train error."""
    epochs = [int(epoch) for epoch in run.epochs]
    metrics = run.metrics()
    wanted: set[int] = set()
    if "train_error" in metrics:
        zero = np.flatnonzero(metrics["train_error"].values == 0)
        if zero.size:
            wanted |= {epochs[zero[0]], epochs[max(zero[0] - 1, 0)]}
    room = min(MOST_EPOCHS - len(wanted), len(epochs)) if len(epochs) > MOST_EPOCHS else len(epochs)
    spread = np.linspace(0, len(epochs) - 1, room).round().astype(int)
    return sorted(wanted | {epochs[place] for place in spread})


def on(result: xr.Dataset, run: Run) -> xr.Dataset | None:
    """Return the part of an answer that is about a run, if it is there."""
    names = [str(name) for name in np.atleast_1d(result[schema.RUN].values)]
    return result.isel({schema.RUN: names.index(run.name)}) if run.name in names else None
