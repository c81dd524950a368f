"""One epoch being recorded: the splits that were watched and the metrics that were logged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler

from actstore.errors import CaptureError, InvalidDataError
from actstore.recording.capture import Capture
from actstore.recording.kept import Kept
from actstore.recording.ranks import Ranks, loader_samples
from actstore.recording.state import evaluating, same_random_state
from actstore.recording.watch import Watch, batch_labels

Array: TypeAlias = npt.NDArray[Any]
Batch = TypeVar("Batch")


class EpochSnapshot:
    """What is captured of one epoch, before it is committed; made by ``Recorder.epoch``.

    Attributes
    ----------
    epoch : int
    layers : dict
        Split → layer → what is kept of it.
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
        new: Callable[[str, str], Kept],
        ranks: Ranks | None = None,
    ) -> None:
        self.epoch = epoch
        self.layers: dict[str, dict[str, Kept]] = {}
        self.labels: dict[str, Array] = {}
        self.samples: dict[str, Array] = {}
        self.metrics: dict[str, float] = {}
        self._model = model
        self._capture = capture
        self._known_labels = known_labels
        self._new = new
        self._ranks = ranks
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
            Batches in the same order at every epoch: ``shuffle=False``. In a distributed
            training each rank gives its own; the order is restored from the sampler's indices.
        split
            Name of this evaluation set, such as ``"test"``.
        labels
            Returns the labels of a batch. Without it: the last element of a tuple, or the
            key ``label``, ``labels``, ``target`` or ``targets`` of a mapping.
        samples
            Original index of each sample that the loader gives; 0, 1, 2, … where not given.

        Raises
        ------
        CaptureError
            If a recorded layer was not called once for a batch, with a row for each label.
        InvalidDataError
            If the labels differ from those of the epochs before.
        """
        if isinstance(loader, DataLoader) and isinstance(
            loader.sampler, RandomSampler | SubsetRandomSampler
        ):
            raise InvalidDataError(
                f"the loader of split {split!r} shuffles, and samples must keep their order from "
                "epoch to epoch; give one with shuffle=False"
            )
        loop = self._watch(loader, split, labels or batch_labels, samples)
        self._loops.append(loop)
        return loop

    @contextmanager
    def watching(
        self, split: str, *, samples: Sequence[int] | Array | None = None
    ) -> Iterator[Watch]:
        """Record an evaluation loop that another library drives.

        In the ``with`` block, call :meth:`Watch.keep` after each batch. Modes, gradients and
        random numbers are left to that library.

        Parameters
        ----------
        split, samples
            See :meth:`watch`.

        Raises
        ------
        CaptureError
            If another split is still being watched, or no batch was kept.
        InvalidDataError
            If the labels differ from those of the epochs before.
        """
        if self._watching is not None:
            raise CaptureError(
                f"split {self._watching!r} is still being watched; end its loop before {split!r}"
            )
        self._watching = split
        self._left_early.add(split)
        layers = {layer: self._new(split, layer) for layer in self._capture.taps}
        watch = Watch(split, layers, self._capture, self._ranks)
        try:
            with self._capture:
                if samples is not None:
                    watch.of(samples)
                yield watch
        finally:
            self._watching = None
        self._left_early.discard(split)
        self._take(watch)

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
        if not self.layers:
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
        if samples is None and self._ranks is not None:
            samples = loader_samples(loader, split)
        with (
            same_random_state(),
            evaluating(self._model),
            self.watching(split, samples=samples) as watch,
        ):
            for batch in loader:
                labels = labels_of(batch)
                yield batch
                watch.keep(labels)

    def _take(self, watch: Watch) -> None:
        split = watch.split
        if not watch.labels:
            raise CaptureError(f"the loader of split {split!r} gave no batch at epoch {self.epoch}")
        self.labels[split] = watch.all_labels()
        if self._ranks is None:  # a rank may see other samples at each epoch
            self._check_labels(split)
        self.layers[split] = watch.layers
        if watch.samples is not None:
            self.samples[split] = watch.samples

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
