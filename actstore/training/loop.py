"""One training, recorded as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from actstore.recording import EpochSnapshot, Recorder
from actstore.training.checkpoint import Checkpoint
from actstore.training.datasets import Split
from actstore.training.recipes import Settings

_EVALUATION_BATCH = 1000  # samples: the activations of a batch stay within a core's cache


def train(
    model: nn.Module,
    splits: Mapping[str, Split],
    recorder: Recorder,
    *,
    settings: Settings,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    started: Callable[[int], None] = lambda epoch: None,
    ended: Callable[[int], None] = lambda epoch: None,
    recorded: Callable[[int, Mapping[str, float]], None] = lambda epoch, metrics: None,
) -> None:
    """Train ``model`` on the split ``train`` and record every split at the epochs that are due.

    The state is saved before each recorded epoch is committed, and a training that finds
    a checkpoint continues from it.

    Parameters
    ----------
    model
        On ``device``.
    splits
        Evaluation sets by name, on ``device`` if they are tensors.
    recorder
        Of the run.
    settings, seed
        The order of the samples at an epoch is drawn from (``seed``, epoch).
    started, ended, recorded
        Told the first epoch, every epoch, and every recorded epoch with its metrics.
    """
    optimizer = SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=device.type in ("cpu", "cuda"),  # a third less time a step for small networks
    )
    first, before = 0, 0.0
    if checkpoint.exists():
        state = checkpoint.read()
        # One that is ahead of the store is of another store that was here: begin anew.
        if all(epoch in recorder.committed for epoch in recorder.planned if epoch < state["epoch"]):
            checkpoint.restore(state, model, optimizer)
            first, before = state["epoch"], state["seconds"]
    begin = time.monotonic()
    started(first + 1)
    for epoch in range(first, settings.epochs + 1):
        rate = learning_rate(settings, epoch)
        if epoch > first:
            _train_epoch(model, optimizer, splits["train"], settings, epoch, seed, device, rate)
            ended(epoch)
        if not _due(recorder, model, splits["train"], epoch, device):
            continue
        with recorder.epoch(epoch) as snapshot:
            metrics = evaluate(model, splits, snapshot, device=device)
            snapshot.log(**metrics, learning_rate=rate)
            # A checkpoint must not run ahead of an epoch that is still being written: killed
            # then, the training would continue behind an epoch that nothing can record again.
            recorder.flush()
            checkpoint.save(
                model, optimizer, epoch=epoch, seconds=before + time.monotonic() - begin
            )
        recorded(epoch, metrics)
    recorder.update_provenance(seconds=round(before + time.monotonic() - begin, 3))


def evaluate(
    model: nn.Module,
    splits: Mapping[str, Split],
    snapshot: EpochSnapshot,
    *,
    device: torch.device,
) -> dict[str, float]:
    """Watch every split; return ``<split>_loss`` and ``<split>_error``, means over samples."""
    metrics = {}
    for name, split in splits.items():
        loss, wrong = 0.0, 0
        batches = split.batches(_EVALUATION_BATCH, device=device)
        for inputs, labels in snapshot.watch(batches, name, samples=split.samples):
            logits = model(inputs)
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            wrong += int((logits.argmax(1) != labels).sum())
        metrics[f"{name}_loss"] = loss / len(split)
        metrics[f"{name}_error"] = wrong / len(split)
    return metrics


def learning_rate(settings: Settings, epoch: int) -> float:
    """Return the learning rate during an epoch (from 1), and the first one's at epoch 0.

    Examples
    --------
    >>> [round(learning_rate(Settings(epochs=4), epoch), 3) for epoch in (0, 1, 2, 3, 4)]
    [0.1, 0.1, 0.085, 0.05, 0.015]
    """
    share = 0.5 * (1 + math.cos(math.pi * max(epoch - 1, 0) / settings.epochs))
    low, high = settings.final_learning_rate, settings.learning_rate
    return low + (high - low) * share


def _train_epoch(
    model: nn.Module,
    optimizer: SGD,
    split: Split,
    settings: Settings,
    epoch: int,
    seed: int,
    device: torch.device,
    rate: float,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    order = np.random.default_rng([seed, epoch]).permutation(len(split))
    for inputs, labels in split.batches(settings.batch_size, device=device, order=order):
        if len(labels) == 1:
            continue  # batch norm has no variance over one sample; another epoch will draw it
        loss: Tensor = cross_entropy(
            model(inputs), labels, label_smoothing=settings.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _due(
    recorder: Recorder, model: nn.Module, split: Split, epoch: int, device: torch.device
) -> bool:
    if recorder.due(epoch):
        return True
    # The event needs the train error, and that a pass over the split: only while it is pending.
    return recorder.due(epoch, train_error=0.0) and _has_no_errors(model, split, device)


@torch.no_grad()
def _has_no_errors(model: nn.Module, split: Split, device: torch.device) -> bool:
    model.eval()
    batches = split.batches(_EVALUATION_BATCH, device=device)
    return all(bool((model(x).argmax(1) == y).all()) for x, y in batches)
