"""An epoch that is recorded while another library drives the evaluation loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from actstore.errors import CaptureError
from actstore.recording.ranks import loader_samples
from actstore.recording.recorder import Recorder
from actstore.recording.watch import Watch, batch_labels


class HostedEpoch:
    """One epoch, from the library's "evaluation begins" to its "evaluation has ended".

    Parameters
    ----------
    recorder
    epoch
    labels
        Returns the labels of a batch; see :meth:`EpochSnapshot.watch`.
    """

    def __init__(
        self, recorder: Recorder, epoch: int, labels: Callable[[Any], Any] | None = None
    ) -> None:
        self._labels = labels or batch_labels
        self._ranks = recorder.ranks
        self._epoch, self._split = ExitStack(), ExitStack()
        self._snapshot = self._epoch.enter_context(recorder.epoch(epoch))
        self._watch: Watch | None = None

    def begin(self, split: str) -> None:
        """Watch a split: before the model is called on its first batch, and again at any other."""
        if self._watch is None or self._watch.split != split:
            self._split.close()
            self._watch = self._split.enter_context(self._snapshot.watching(split))

    def keep(self, batch: Any, loader: Iterable[Any]) -> None:
        """Keep what the model computed for a batch; ``loader`` tells which samples a rank has."""
        assert self._watch is not None
        if self._ranks is not None and not self._watch.labels:
            self._watch.of(loader_samples(loader, self._watch.split))
        self._watch.keep(self._labels(batch))

    def commit(self, metrics: Mapping[str, float]) -> None:
        """End the epoch and write it."""
        self._snapshot.log(**metrics)
        try:
            self._split.close()
        except BaseException:
            self.drop()
            raise
        self._epoch.close()

    def drop(self) -> None:
        """End the epoch without writing it."""
        error = CaptureError("the evaluation was interrupted")
        self._split.__exit__(CaptureError, error, None)
        self._epoch.__exit__(CaptureError, error, None)


def metric_names(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers among a library's metrics, under names that can be stored.

    Examples
    --------
    >>> metric_names({"eval_loss": 0.5, "val/error": 0.1, "note": "text"}, prefix="eval_")
    {'loss': 0.5, 'val_error': 0.1}
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, int | float) or getattr(value, "ndim", None) == 0:
            found[name.removeprefix(prefix).replace("/", "_")] = float(value)
    return found
