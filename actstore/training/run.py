"""One run of a sweep: its data, its model, its recorder, its training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from actstore import schema
from actstore.recording import Recorder
from actstore.recording.state import same_random_state
from actstore.storage.location import StorePath, files_at
from actstore.training.checkpoint import Checkpoint
from actstore.training.hardware import channels_last, set_up
from actstore.training.loop import Listener, Training, train
from actstore.training.plan import RunPlan
from actstore.training.progress import Progress, RecordedEpoch
from actstore.training.recipes import Recipe
from actstore.training.splits import Split


@dataclass
class Data:
    """Loads the data of each choice of keywords once.

    Parameters
    ----------
    device
        Where tensors are held if they fit.
    data_dir, download
        See :meth:`Recipe.splits`.
    """

    device: torch.device
    data_dir: str | os.PathLike[str] | None = None
    download: bool = False
    _held: dict[str, dict[str, Split]] = field(default_factory=dict)

    def splits(self, recipe: Recipe) -> dict[str, Split]:
        """Return the splits of a recipe."""
        key = repr((recipe.variant, sorted(recipe.data_keywords.items()), _noise(recipe)))
        if key not in self._held:
            splits = recipe.splits(data_dir=self.data_dir, download=self.download)
            self._held[key] = {name: split.to(self.device) for name, split in splits.items()}
        return self._held[key]


@dataclass(frozen=True)
class RunOptions:
    """What the runs of a sweep have in common, and what no result depends on but by rounding.

    Parameters
    ----------
    store
        Path of the store.
    resume, overwrite, durable
        See :func:`record_sweep`.
    compiled
        Use ``torch.compile``.
    count_clones
        Count clones for the progress.
    threads
        Threads of a training on a CPU, unless its recipe says.
    facts
        Provenance of all runs.
    """

    store: StorePath
    resume: bool = False
    overwrite: bool = False
    durable: bool = False
    compiled: bool = False
    count_clones: bool = False
    threads: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def record_run(plan: RunPlan, data: Data, options: RunOptions, progress: Progress) -> None:
    """Train one run and record it."""
    checkpoint = Checkpoint.of(options.store, plan.name)
    if not options.resume:
        checkpoint.remove()
    recipe, device = plan.recipe, data.device
    splits = data.splits(recipe)
    threads = recipe.threads if recipe.threads is not None else options.threads
    with same_random_state(), set_up(device, threads):
        torch.manual_seed(plan.seed)
        model = recipe.model(plan.width, **recipe.model_keywords).to(device)
        for parameter in model.parameters():
            parameter.data = channels_last(parameter.data)
        training = Training(
            model, splits, recipe.settings, plan.seed, device, compiled=options.compiled
        )
        with Recorder(
            options.store,
            model,
            epochs=plan.epochs,
            width=plan.width,
            seed=plan.seed,
            schedule=plan.schedule,
            readout=recipe.readout,
            run=plan.name,
            model_name=recipe.variant,
            dataset=recipe.name,
            hyper_parameters=plan.hyper_parameters,
            provenance={**options.facts, "configuration": plan.configuration()},
            keep="activations" if schema.ACTIVATIONS in plan.keep else "moments",
            moments=schema.MOMENTS in plan.keep,
            keep_bits=plan.keep_bits,
            resume=options.resume,
            overwrite=options.overwrite,
            durable=options.durable,
        ) as recorder:

            def recorded(epoch: int, metrics: Mapping[str, float], clones: float | None) -> None:
                told = RecordedEpoch(epoch, metrics, bytes_of(options.store, plan.name), clones)
                progress.epoch_recorded(plan, told)

            train(
                training,
                recorder,
                checkpoint=checkpoint,
                listener=Listener(
                    started=partial(progress.run_started, plan),
                    ended=partial(progress.epoch_ended, plan),
                    recorded=recorded,
                ),
                count_clones=options.count_clones,
            )
    checkpoint.remove()
    progress.run_ended(plan, bytes_of(options.store, plan.name))


def bytes_of(store: StorePath, run: str) -> int:
    """Return the bytes of the files of a run, as far as they are still there."""
    return sum(files_at(store, read_only=True).sizes(run).values())


def _noise(recipe: Recipe) -> float:
    return recipe.settings.label_noise
