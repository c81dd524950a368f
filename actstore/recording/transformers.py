"""Recording for the Hugging Face Trainer: a callback that rides on its evaluation loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actstore.errors import CaptureError, MissingExtraError
from actstore.recording.hosted import HostedEpoch, metric_names
from actstore.recording.recorder import Recorder
from actstore.storage.location import StorePath

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "the Trainer callback needs transformers, which is not installed; "
        "pip install 'actstore[transformers]'"
    ) from error


class RecorderCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Records what the model computes in the Trainer's evaluation, at the epochs that are due.

    No forward pass is added, so the untrained network (epoch 0) is not recorded.
    ``eval_strategy="epoch"`` is needed. Labels are the keyword
    ``labels`` of the model's call; metrics are what the evaluation returns, without ``eval_``.

    Parameters
    ----------
    store
        Path of the store.
    splits
        Names of the evaluation sets, in the order in which they are evaluated.
    **options
        See :class:`Recorder`; ``epochs`` is the Trainer's ``num_train_epochs`` if not given.

    Attributes
    ----------
    recorder : Recorder
        From the beginning of the training.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    """

    recorder: Recorder

    def __init__(
        self, store: StorePath, *, splits: str | Sequence[str] = "test", **options: Any
    ) -> None:
        self._store = store
        self._splits = [splits] if isinstance(splits, str) else list(splits)
        self._options = options
        self._hosted: HostedEpoch | None = None
        self._evaluated: dict[str, float] = {}
        self._done = 0
        self._batch: dict[str, Any] = {}
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the run."""
        options = {"epochs": round(args.num_train_epochs), "seed": args.seed, **self._options}
        self.recorder = Recorder(self._store, kwargs["model"], **options)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin an epoch that is due and will be evaluated now."""
        epoch = round(state.epoch)
        if control.should_evaluate and self.recorder.due(epoch):
            self._hook = kwargs["model"].register_forward_pre_hook(self._see, with_kwargs=True)
            self._hosted = HostedEpoch(self.recorder, epoch)
            self._hosted.begin(self._splits[0])
            self._done, self._evaluated = 0, {}

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what the model computed for the batch."""
        if self._hosted is not None:
            self._hosted.keep(self._batch, kwargs["eval_dataloader"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on to the next evaluation set; commit the epoch after the last."""
        if self._hosted is None:
            return
        self._evaluated |= metric_names(kwargs["metrics"], prefix="eval_")
        self._evaluated.pop("epoch", None)
        self._done += 1
        if self._done < len(self._splits):
            self._hosted.begin(self._splits[self._done])
            return
        hosted, self._hosted = self._hosted, None
        self._hook.remove()
        hosted.commit(self._evaluated)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run."""
        if self._hosted is not None:
            self._hook.remove()
            self._hosted.drop()
            self.recorder.close()
            raise CaptureError(
                f"{self._done} evaluation sets were evaluated, and splits names "
                f"{', '.join(self._splits)}; name one split for each"
            )
        self.recorder.close()

    def _see(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._batch = kwargs
