"""One epoch being recorded: the splits that were watched and the metrics that were logged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from actstore.errors import CaptureError, InvalidDataError, InvalidParameterError
from actstore.recording.capture import Capture
from actstore.recording.rows import Rows
from actstore.recording.state import evaluating, same_random_state

Array: TypeAlias = npt.NDArray[Any]
Batch = TypeVar("Batch")
LABEL_KEYS = ("label", "labels", "target", "targets")


class EpochSnapshot:
    """What is captured of one epoch, before it is committed; made by ``Recorder.epoch``.

    Attributes
    ----------
    epoch : int
    activations : dict
        Split → layer → rows.
    labels, samples : dict
        Split → ``(sample,)``.
    metrics : dict
    """

    def __init__(
        self,
        epoch: int,
        model: nn.Module,
        capture: Capture,
        *,
        known_labels: Mapping[str, Array],
        new_rows: Callable[[str, str], Rows],
    ) -> None:
        self.epoch = epoch
        self.activations: dict[str, dict[str, Rows]] = {}
        self.labels: dict[str, Array] = {}
        self.samples: dict[str, Array] = {}
        self.metrics: dict[str, float] = {}
        self._model = model
        self._capture = capture
        self._known_labels = known_labels
        self._new_rows = new_rows
        self._watching: str | None = None
        self._loops: list[Generator[Any, None, None]] = []
        self._left_early: set[str] = set()

    def watch(
        self,
        loader: Iterable[Batch],
        split: str,
        *,
        labels: Callable[[Any], Any] | None = None,
        samples: Sequence[int] | Array | None = None,
    ) -> Generator[Batch, None, None]:
        """Yield the batches of ``loader`` and record what the model computes for each.

        Inside the loop the model is in evaluation mode and without gradients; its modes and
        the random state are restored afterwards, however the loop ends. Batches are
        not moved: call the model on each, once.

        Parameters
        ----------
        loader
            Batches in the same order at every epoch: ``shuffle=False``.
        split
            Name of this evaluation set, such as ``"test"``.
        labels
            Returns the labels of a batch. Without it: the last element of a tuple, or the
            key ``label``, ``labels``, ``target`` or ``targets`` of a mapping.
        samples
            Original index of each sample; 0, 1, 2, … where not given.

        Raises
        ------
        CaptureError
            If a recorded layer was not called once for a batch, with a row for each label.
        InvalidDataError
            If the labels differ from those of the epochs before.
        """
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
            raise InvalidDataError(
                f"the loader of split {split!r} shuffles, and samples must keep their order from "
                "epoch to epoch; give one with shuffle=False"
            )
        loop = self._watch(loader, split, labels or batch_labels, samples)
        self._loops.append(loop)
        return loop

    def log(self, **metrics: float) -> None:
        """Keep metrics of this epoch, such as ``train_error=0.02``."""
        self.metrics.update({name: float(value) for name, value in metrics.items()})

    def finish(self) -> None:
        """Check that there is something to commit, and all of it."""
        if self._left_early:
            raise CaptureError(
                f"the loop over split {sorted(self._left_early)[0]!r} was left before its last "
                f"batch at epoch {self.epoch}; let it run to the end"
            )
        if not self.activations:
            raise CaptureError(
                f"no split was watched at epoch {self.epoch}; loop over "
                "snapshot.watch(loader, 'test') inside 'with recorder.epoch(...)'"
            )

    def close(self) -> None:
        """End loops that are still open, so that the model is left as it was found."""
        for loop in self._loops:
            loop.close()

    def _watch(
        self,
        loader: Iterable[Batch],
        split: str,
        labels_of: Callable[[Any], Any],
        samples: Sequence[int] | Array | None,
    ) -> Generator[Batch, None, None]:
        if self._watching is not None:
            raise CaptureError(
                f"split {self._watching!r} is still being watched; end its loop before {split!r}"
            )
        rows = {layer: self._new_rows(split, layer) for layer in self._capture.taps}
        seen: list[Array] = []
        self._watching = split
        self._left_early.add(split)
        try:
            with same_random_state(), evaluating(self._model), self._capture:
                for batch in loader:
                    seen.append(_array(labels_of(batch)))
                    yield batch
                    for layer, activations in self._capture.take(len(seen[-1])).items():
                        rows[layer].append(activations)
        finally:
            self._watching = None
        self._left_early.discard(split)
        if not seen:
            raise CaptureError(f"the loader of split {split!r} gave no batch at epoch {self.epoch}")
        self.labels[split] = np.concatenate(seen)
        self._check_labels(split)
        self.activations[split] = rows
        if samples is not None:
            self.samples[split] = np.asarray(samples)

    def _check_labels(self, split: str) -> None:
        now, then = self.labels[split], self._known_labels.get(split)
        if then is None or np.array_equal(now, then):
            return
        what = (
            f"{len(now)} samples instead of {len(then)}"
            if len(now) != len(then)
            else f"another label at {int((now != then).sum())} of {len(now)} samples"
        )
        raise InvalidDataError(
            f"split {split!r} has {what} at epoch {self.epoch} than at the epochs before; record "
            "the same samples in the same order: use shuffle=False"
        )


def batch_labels(batch: Any) -> Any:
    """Return the labels of a batch: a tuple's last element, or a mapping's label.

    Raises
    ------
    InvalidParameterError
        If the batch is neither.
    """
    if isinstance(batch, Mapping):
        for key in LABEL_KEYS:
            if key in batch:
                return batch[key]
        found = f"a mapping with keys {', '.join(map(str, batch))}"
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        return batch[-1]
    else:
        found = f"a {type(batch).__name__}"
    raise InvalidParameterError(
        f"no labels in a batch that is {found}; pass labels=, a function of the batch"
    )


def _array(labels: Any) -> Array:
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidDataError(
            f"the labels of a batch have shape {array.shape}; expected one number a sample: pass "
            "labels=, a function of the batch"
        )
    return array
