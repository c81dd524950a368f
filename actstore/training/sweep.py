"""The product of widths, seeds and settings, trained one after another into a store."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actstore import schema
from actstore.errors import InvalidParameterError, RunExistsError, StoreNotFoundError
from actstore.recording import Recorder, Schedule, estimate_bytes
from actstore.recording.state import same_random_state
from actstore.storage.catalogue import Catalogue
from actstore.storage.location import StorePath
from actstore.training.checkpoint import Checkpoint
from actstore.training.datasets import Split
from actstore.training.loop import train
from actstore.training.progress import Progress, Silent
from actstore.training.provenance import provenance
from actstore.training.recipes import Recipe


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
    """

    recipe: Recipe
    width: int
    seed: int
    hyper_parameters: Mapping[str, Any]
    schedule: Schedule

    @property
    def name(self) -> str:
        """Name of the run in the store."""
        return schema.run_name(self.width, self.seed, self.hyper_parameters)

    @property
    def epochs(self) -> int:
        """Epochs of the training."""
        return self.recipe.settings.epochs

    def configuration(self) -> dict[str, Any]:
        """Return everything that the result depends on, for the run's provenance."""
        return {
            "recipe": self.recipe.name,
            "schedule": self.schedule.rule,
            **dataclasses.asdict(self.recipe.settings),
            **self.recipe.model_keywords,
            **self.recipe.data_keywords,
        }


def plan_sweep(
    recipe: Recipe,
    *,
    widths: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    values: Mapping[str, Sequence[Any]] | None = None,
    epochs: int | None = None,
    schedule: Schedule | str | None = None,
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
    widths = tuple(widths or recipe.widths)
    if not widths:
        raise InvalidParameterError(f"{recipe.name!r} has no widths of its own; give one or more")
    if min(widths) < 1:
        raise InvalidParameterError(f"width {min(widths)} was given; a layer has 1 neuron or more")
    if epochs is not None:
        recipe = recipe.set({"epochs": epochs})
    planned = Schedule.of(schedule if schedule is not None else recipe.schedule)
    values = values or {}
    plans = []
    for chosen in itertools.product(*values.values()):
        given = dict(zip(values, chosen, strict=True))
        changed = recipe.set(given)
        planned.epochs(changed.settings.epochs)  # raises here, before anything trains
        settings = dataclasses.asdict(changed.settings)
        told = {key: settings.get(key, value) for key, value in given.items()}
        told.setdefault("weight_decay", settings["weight_decay"])
        plans += [
            RunPlan(changed, width, seed, told, planned)
            for seed, width in itertools.product(dict.fromkeys(seeds), dict.fromkeys(widths))
        ]
    return plans


def record_sweep(
    store: StorePath,
    plans: Sequence[RunPlan],
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    command: str = "",
    progress: Progress | None = None,
) -> None:
    """Train the runs of a sweep, recording each into the store.

    Parameters
    ----------
    store
        Path of the store; made if there is none.
    plans
        See :func:`plan_sweep`.
    resume
        Leave complete runs as they are and continue interrupted ones from their checkpoints
        in ``<store>.checkpoints``, on a CPU to the same weights as without interruption.
    overwrite
        Train runs anew that the store already holds.
    device
        ``auto`` is ``cuda`` where there is one, otherwise ``cpu``.
    command
        Command line, for the provenance.
    progress
        Told what happens.

    Raises
    ------
    RunExistsError
        If the store holds a run and neither ``resume`` nor ``overwrite`` is given, or if it
        was recorded with other settings than it would be resumed with. Nothing is trained.
    InvalidParameterError
        If the device does not exist.
    """
    if resume and overwrite:
        raise InvalidParameterError(
            "resume and overwrite were both given; choose whether what is stored is continued or "
            "replaced"
        )
    progress = progress or Silent()
    where = _device(device)
    skipped = _complete(store, plans, resume=resume, overwrite=overwrite)
    rest = [plan for plan in plans if plan.name not in skipped]
    data = _Data(where)
    progress.sweep_started(
        rest,
        [plan for plan in plans if plan.name in skipped],
        sum(_bytes(plan, data) for plan in rest),
    )
    facts = provenance(where, command=command)
    for plan in rest:
        checkpoint = Checkpoint.of(store, plan.name)
        if not resume:
            checkpoint.remove()
        with same_random_state(), _threads(plan.recipe.threads, where):
            torch.manual_seed(plan.seed)
            model = plan.recipe.model(plan.width, **plan.recipe.model_keywords).to(where)
            with Recorder(
                store,
                model,
                epochs=plan.epochs,
                width=plan.width,
                seed=plan.seed,
                schedule=plan.schedule,
                run=plan.name,
                dataset=plan.recipe.name,
                hyper_parameters=plan.hyper_parameters,
                provenance={**facts, "configuration": plan.configuration()},
                resume=resume,
                overwrite=overwrite,
            ) as recorder:
                train(
                    model,
                    data.splits(plan.recipe),
                    recorder,
                    settings=plan.recipe.settings,
                    seed=plan.seed,
                    device=where,
                    checkpoint=checkpoint,
                    started=partial(progress.run_started, plan),
                    ended=partial(progress.epoch_ended, plan),
                    recorded=partial(progress.epoch_recorded, plan),
                )
        checkpoint.remove()
        progress.run_ended(plan)


class _Data:
    """Loads the data of each choice of keywords once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[str, dict[str, Split]] = {}

    def splits(self, recipe: Recipe) -> dict[str, Split]:
        key = repr(sorted(recipe.data_keywords.items()))
        if key not in self._held:
            self._held[key] = {
                name: split.to(self._device) for name, split in recipe.splits().items()
            }
        return self._held[key]


def _complete(
    store: StorePath, plans: Sequence[RunPlan], *, resume: bool, overwrite: bool
) -> set[str]:
    """Return the names of the runs that are done; raise if a run is in the way."""
    if overwrite or not Path(store).exists():
        return set()
    try:
        catalogue = Catalogue(store)
    except StoreNotFoundError:
        if any(Path(store).iterdir()):
            raise
        return set()
    done = set()
    for plan in plans:
        if plan.name not in catalogue:
            continue
        run = catalogue[plan.name]
        if not resume:
            raise RunExistsError(
                f"run {plan.name!r} is already in {os.fspath(store)!r}; resume to leave complete "
                "runs as they are and continue the others, or overwrite"
            )
        then = run.attrs.get("provenance", {}).get("configuration")
        now = plan.configuration()
        if then is not None and then != now:
            changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
            raise RunExistsError(
                f"run {plan.name!r} was recorded with "
                f"{', '.join(f'{key}={then.get(key)}' for key in changed)}, and "
                f"{', '.join(f'{key}={now.get(key)}' for key in changed)} is asked for now; "
                "overwrite it or choose another store"
            )
        if run.complete:
            done.add(plan.name)
        elif len(run.committed) and not Checkpoint.of(store, plan.name).exists():
            raise RunExistsError(
                f"run {plan.name!r} stopped after epoch {run.committed[-1]} and its checkpoint is "
                f"not in {Checkpoint.of(store, plan.name).path.parent.name!r} beside the store; "
                "put it there, or overwrite the run"
            )
    return done


def _bytes(plan: RunPlan, data: _Data) -> int:
    splits = data.splits(plan.recipe)
    return estimate_bytes(
        {name: len(split) for name, split in splits.items()},
        widths={schema.DEFAULT_LAYER: plan.width},
        slots=plan.schedule.slots(plan.epochs),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidParameterError(
            f"the device {name!r} cannot be used here; choose 'auto', 'cpu' or a GPU that PyTorch "
            "sees, such as 'cuda:0'"
        ) from error
    return device


@contextmanager
def _threads(count: int | None, device: torch.device) -> Iterator[None]:
    if count is None or device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
