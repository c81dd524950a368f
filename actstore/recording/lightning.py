"""Recording for Lightning: a callback that rides on the validation loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from actstore.errors import InvalidParameterError, MissingExtraError
from actstore.recording.hosted import HostedEpoch, metric_names
from actstore.recording.recorder import Recorder
from actstore.storage.location import StorePath

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise MissingExtraError(
        "the Lightning callback needs Lightning, which is not installed; "
        "pip install 'actstore[lightning]'"
    ) from error


class RecorderCallback(Callback):
    """Records what the model computes in Lightning's validation loop, at the epochs that are due.

    No forward pass is added, but one before the training where epoch 0 is scheduled. What the
    module logs as a number is stored as a metric, ``/`` in its name as ``_``. Validation must
    cover every epoch of the schedule (``check_val_every_n_epoch``).

    Parameters
    ----------
    store
        Path of the store.
    splits
        Names of the validation loaders, in their order.
    labels
        Returns the labels of a batch; see :meth:`EpochSnapshot.watch`.
    **options
        See :class:`Recorder`; ``epochs`` is the trainer's ``max_epochs`` if not given.

    Attributes
    ----------
    recorder : Recorder
        From the beginning of the fit.

    Raises
    ------
    MissingExtraError
        If Lightning is not installed.
    """

    recorder: Recorder

    def __init__(
        self,
        store: StorePath,
        *,
        splits: str | Sequence[str] = "test",
        labels: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self._store = store
        self._splits = [splits] if isinstance(splits, str) else list(splits)
        self._labels = labels
        self._options = options
        self._hosted: HostedEpoch | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the run."""
        options = {"epochs": trainer.max_epochs, **self._options}
        self.recorder = Recorder(self._store, pl_module, **options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the untrained network, if epoch 0 is scheduled."""
        if trainer.current_epoch == 0 and self.recorder.due(0):
            loaders = self._loaders(trainer)
            self.recorder.record(0, labels=self._labels, **loaders)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin an epoch that is due."""
        epoch = trainer.current_epoch + 1
        metrics = metric_names(trainer.callback_metrics)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.recorder.due(epoch, train_error=metrics.get("train_error")):
            self._loaders(trainer)
            self._hosted = HostedEpoch(self.recorder, epoch, self._labels)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the split of the batch."""
        if self._hosted is not None:
            self._hosted.begin(self._splits[dataloader_idx])

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the model computed for the batch."""
        if self._hosted is not None:
            split = self._splits[dataloader_idx]
            self._hosted.keep(batch, self._loaders(trainer)[split])

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Commit the epoch, with what was logged."""
        if self._hosted is not None:
            hosted, self._hosted = self._hosted, None
            hosted.commit(metric_names(trainer.callback_metrics))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Drop the epoch that was being recorded, and close the run."""
        if self._hosted is not None:
            hosted, self._hosted = self._hosted, None
            hosted.drop()
        with contextlib.suppress(AttributeError):  # the fit failed before the run was opened
            self.recorder.__exit__(type(exception), exception, exception.__traceback__)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the run."""
        self.recorder.close()

    def _loaders(self, trainer: Any) -> dict[str, Any]:
        found = trainer.val_dataloaders
        if found is None:
            raise InvalidParameterError(
                "the trainer has no validation loaders yet; pass fit() some, and leave "
                "num_sanity_val_steps above 0 where epoch 0 is to be recorded"
            )
        loaders = list(found) if isinstance(found, list | tuple) else [found]
        if len(loaders) != len(self._splits):
            raise InvalidParameterError(
                f"the trainer has {len(loaders)} validation loaders, and splits names "
                f"{', '.join(self._splits)}; name one split for each"
            )
        return dict(zip(self._splits, loaders, strict=True))
