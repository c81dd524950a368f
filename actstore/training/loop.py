"""One training, recorded as it goes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from actstore.recording import EpochSnapshot, Recorder
from actstore.training.checkpoint import Checkpoint
from actstore.training.clones_so_far import CloneCount
from actstore.training.hardware import channels_last, half_precision
from actstore.training.losses import loss_of
from actstore.training.settings import Settings, learning_rate
from actstore.training.splits import Split

_EVALUATION_BATCH = 1000  # samples: the activations of a batch stay within a core's cache
# Input values of a batch: 1000 images at full resolution take gigabytes in a wide convolution.
_EVALUATION_VALUES: Final = {"cpu": 2**18, "cuda": 2**21}


@dataclass(frozen=True)
class Listener:
    """Functions that a training calls as it goes.

    Parameters
    ----------
    started
        With the first epoch that will be trained.
    ended
        With every epoch.
    recorded
        With every recorded epoch, its metrics, and the number of clones if it is counted.
    """

    started: Callable[[int], None] = lambda epoch: None
    ended: Callable[[int], None] = lambda epoch: None
    recorded: Callable[[int, Mapping[str, float], float | None], None] = (
        lambda epoch, metrics, clones: None
    )


@dataclass
class Training:
    """A model that is trained by its settings.

    Parameters
    ----------
    model
        On ``device``.
    splits
        By name, their tensors on ``device`` where they fit; ``train`` is trained on.
    settings, seed
        The order and the augmentation of the samples at an epoch are drawn from
        (``seed``, epoch).
    compiled
        Whether steps go through ``torch.compile``.
    """

    model: nn.Module
    splits: Mapping[str, Split]
    settings: Settings
    seed: int
    device: torch.device
    compiled: bool = False
    optimizer: Optimizer = field(init=False)

    def __post_init__(self) -> None:
        fused = self.device.type in ("cpu", "cuda")  # a third less time a step for small networks
        settings = self.settings
        if settings.optimizer == "adam":
            self.optimizer = Adam(
                self.model.parameters(),
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                fused=fused,
            )
        else:
            self.optimizer = SGD(
                self.model.parameters(),
                lr=settings.learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
                fused=fused,
            )
        half = half_precision(self.device)
        # bfloat16 has the range of float32 and needs no scaling.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.amp and half is torch.float16
        )
        self._precision = torch.autocast(self.device.type, dtype=half, enabled=settings.amp)
        # The recorder's hooks see the model itself: torch.compile would leave them out.
        self._step = torch.compile(self.model) if self.compiled else self.model
        self._loss = loss_of(settings, training=True)
        #: what is evaluated and recorded of each split
        self.evaluated = {
            name: split.first(settings.record_train) if name == "train" else split
            for name, split in self.splits.items()
        }

    def train_epoch(self, epoch: int) -> None:
        """Make one pass over the training set."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, epoch)
        self.model.train()
        split = self.splits["train"]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(split))
        # Another stream than the order's, from the same two numbers.
        seed = int(np.random.SeedSequence([self.seed, epoch, 1]).generate_state(1)[0])
        batches = split.training_batches(
            self.settings.batch_size, device=self.device, order=order, seed=seed
        )
        for inputs, labels in batches:
            if len(labels) == 1:
                continue  # batch norm has no variance over one sample; another epoch will draw it
            with self._precision:
                logits = self._step(channels_last(inputs))
            # Logits of half precision would make a loss of half precision.
            loss = self._loss(logits.float() if self.settings.amp else logits, labels)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def evaluate(self, snapshot: EpochSnapshot) -> dict[str, float]:
        """Watch every split; return ``<split>_loss`` and ``<split>_error``, means over samples."""
        metrics = {}
        loss_sum = loss_of(self.settings, training=False)
        for name, split in self.evaluated.items():
            loss = torch.zeros((), dtype=torch.float64, device=self.device)
            wrong = torch.zeros((), dtype=torch.int64, device=self.device)
            batches = split.batches(self._batch(split), device=self.device)
            for inputs, labels in snapshot.watch(batches, name, samples=split.samples):
                # In single precision, also where steps are in half: its 8 bits change residual
                # correlations of a layer of low rank by 4e-4. (By cuDNN's default the products of
                # convolutions have 10 bits where a GPU has TF32.)
                logits = self.model(channels_last(inputs))
                loss += loss_sum(logits, labels)
                wrong += (logits.argmax(1) != labels).sum()
            metrics[f"{name}_loss"] = float(loss) / len(split)
            metrics[f"{name}_error"] = int(wrong) / len(split)
        return metrics

    @torch.no_grad()
    def has_no_errors(self) -> bool:
        """Return whether the train error is zero; stops at the first batch with an error."""
        self.model.eval()
        split = self.evaluated["train"]
        batches = split.batches(self._batch(split), device=self.device)
        return all(bool((self.model(channels_last(x)).argmax(1) == y).all()) for x, y in batches)

    def _batch(self, split: Split) -> int:
        values = max(torch.as_tensor(split.examples[0][0]).numel(), 1)
        fits: int = _EVALUATION_VALUES.get(self.device.type, 2**18) // values
        return max(1, min(_EVALUATION_BATCH, fits))


def train(
    training: Training,
    recorder: Recorder,
    *,
    checkpoint: Checkpoint,
    listener: Listener = Listener(),
    count_clones: bool = False,
) -> None:
    """Train to the end and record every split at the epochs that are due.

    The state is saved before each recorded epoch is committed, and a training that finds
    a checkpoint continues from it.

    Parameters
    ----------
    training
        Not begun.
    recorder
        Of the run.
    checkpoint
        Where the state is kept.
    listener
        Told what happens.
    count_clones
        Count the clones of recorded epochs for the listener.
    """
    settings = training.settings
    first, before, interpolated = _restored(training, recorder, checkpoint)
    begin = time.monotonic()
    listener.started(first + 1)
    for epoch in itertools.count(first):
        if epoch > first:
            training.train_epoch(epoch)
            listener.ended(epoch)
        event = False
        if interpolated is None and (settings.until or recorder.schedule.at_zero_train_error):
            event = training.has_no_errors()
        if event:
            interpolated = epoch
            _end_after(interpolated, recorder, settings)
        if recorder.due(epoch, train_error=0.0 if event else None):
            count = _clone_count(training, recorder) if count_clones else None
            with recorder.epoch(epoch) as snapshot:
                with count or nullcontext():
                    metrics = training.evaluate(snapshot)
                snapshot.log(**metrics, learning_rate=learning_rate(settings, epoch))
                # A checkpoint must not run ahead of an epoch that is still being written: killed
                # then, the training would continue behind an epoch that nothing can record again.
                recorder.flush()
                checkpoint.save(
                    training.model,
                    training.optimizer,
                    epoch=epoch,
                    seconds=before + time.monotonic() - begin,
                    interpolated=interpolated,
                    scaler=training.scaler.state_dict(),
                )
            listener.recorded(epoch, metrics, None if count is None else count.value())
        if epoch >= recorder.planned[-1]:
            break
    recorder.update_provenance(seconds=round(before + time.monotonic() - begin, 3))


def _restored(
    training: Training, recorder: Recorder, checkpoint: Checkpoint
) -> tuple[int, float, int | None]:
    """Return epoch and seconds to continue from, and the first epoch without train errors."""
    if not checkpoint.exists():
        return 0, 0.0, None
    state = checkpoint.read()
    interpolated = state["interpolated"]
    # One that is ahead of the store is of another store that was here: begin anew.
    before = (epoch for epoch in recorder.planned if epoch < state["epoch"])
    if not all(epoch in recorder.committed for epoch in before):
        return 0, 0.0, None
    if interpolated is not None:
        _end_after(interpolated, recorder, training.settings)
    checkpoint.restore(state, training.model, training.optimizer)
    training.scaler.load_state_dict(state["scaler"])
    return state["epoch"], state["seconds"], interpolated


def _end_after(interpolated: int, recorder: Recorder, settings: Settings) -> None:
    """Let the training end as many epochs after its train error is zero as it was told to."""
    if settings.epochs_after_interpolation is not None:
        recorder.end_at(interpolated + settings.epochs_after_interpolation)


def _clone_count(training: Training, recorder: Recorder) -> CloneCount | None:
    name = "test" if "test" in training.evaluated else "train"
    readout = training.model.get_submodule(recorder.readout) if recorder.readout else None
    if readout is None or recorder.width > CloneCount.WIDEST:
        return None
    return CloneCount(readout, len(training.evaluated[name]), skip=_before(training, name))


def _before(training: Training, split: str) -> int:
    """Return the samples that are evaluated before a split."""
    names = list(training.evaluated)
    return sum(len(training.evaluated[name]) for name in names[: names.index(split)])
