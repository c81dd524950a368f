"""One split while it is watched: batch after batch, what the model computed and its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.recording.capture import Capture
from actstore.recording.kept import Kept
from actstore.recording.ranks import Ranks

Array: TypeAlias = npt.NDArray[Any]
LABEL_KEYS = ("label", "labels", "target", "targets")


class Watch:
    """One split while it is watched; made by :meth:`EpochSnapshot.watching`.

    Attributes
    ----------
    split : str
    layers : dict
        Layer → what is kept of it.
    labels : list
        Labels of the batches so far.
    """

    def __init__(
        self, split: str, layers: dict[str, Kept], capture: Capture, ranks: Ranks | None
    ) -> None:
        self.split = split
        self.layers = layers
        self.labels: list[Array] = []
        self._capture = capture
        self._ranks = ranks
        self._samples: Array | None = None
        self._own: Array | None = None
        self._seen = 0

    def of(self, samples: Sequence[int] | Array) -> None:
        """Tell the indices of the samples of all batches to come; all ranks do so at once."""
        self._samples = np.asarray(samples)
        if self._ranks is not None:
            self._own = self._ranks.owned(self._samples)

    def keep(self, labels: Any) -> None:
        """Keep what the model computed for a batch.

        Parameters
        ----------
        labels
            One number a sample.

        Raises
        ------
        CaptureError
            If a recorded layer was not called once, with a row for each label.
        """
        array = label_array(labels)
        taken = self._capture.take(len(array))
        own = np.ones(len(array), bool) if self._own is None else self._next_own(len(array))
        self.labels.append(array[own])
        for layer, activations in taken.items():
            if not own.all():
                # By index: a mask would have to be counted on the device, and waited for.
                rows = torch.from_numpy(np.flatnonzero(own)).to(activations.device)
                activations = activations[rows]
            self.layers[layer].append(activations)

    def _next_own(self, count: int) -> Array:
        assert self._own is not None
        own = self._own[self._seen : self._seen + count]
        self._seen += count
        if len(own) < count:
            raise InvalidDataError(
                f"split {self.split!r} has {self._seen} samples or more on this rank, and its "
                f"sampler gave {len(self._own)} indices; give one index a sample"
            )
        return own

    @property
    def samples(self) -> Array | None:
        """Indices of the samples that were kept, if they are known."""
        if self._samples is None or self._own is None:
            return self._samples
        return self._samples[: self._seen][self._own[: self._seen]]


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


def label_array(labels: Any) -> Array:
    """Return the labels of a batch ``(sample,)`` in the host's memory.

    Raises
    ------
    InvalidDataError
        If there is more than one number a sample.
    """
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
