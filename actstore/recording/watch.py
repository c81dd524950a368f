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
        Labels of the batches so far; on a GPU where the batches had them there.
    """

    def __init__(
        self, split: str, layers: dict[str, Kept], capture: Capture, ranks: Ranks | None
    ) -> None:
        self.split = split
        self.layers = layers
        self.labels: list[Any] = []
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
        values = one_a_sample(labels)
        taken = self._capture.take(len(values))
        own = np.ones(len(values), bool) if self._own is None else self._next_own(len(values))
        self.labels.append(_chosen(values, own))
        for layer, activations in taken.items():
            self.layers[layer].append(_chosen(activations, own))

    def all_labels(self) -> Array:
        """Return the labels of all batches ``(sample,)``; waits for the device."""
        return np.concatenate(
            [each.cpu().numpy() if isinstance(each, torch.Tensor) else each for each in self.labels]
        )

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


def one_a_sample(labels: Any) -> Any:
    """Return a copy of the labels of a batch ``(sample,)``; a tensor if they are not on the host.

    A GPU is not waited for: it would stand still until the next batch is sent to it.

    Raises
    ------
    InvalidDataError
        If there is more than one number a sample.
    """
    if isinstance(labels, torch.Tensor):
        held = labels.detach()
        values: Any = held.numpy() if held.device.type == "cpu" else held
    else:
        values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InvalidDataError(
            f"the labels of a batch have shape {tuple(values.shape)}; expected one number a "
            "sample: pass labels=, a function of the batch"
        )
    return values.clone() if isinstance(values, torch.Tensor) else values.copy()


def _chosen(values: Any, own: Array) -> Any:
    """Return the rows that this process keeps."""
    if own.all():
        return values
    places = np.flatnonzero(own)
    if isinstance(values, torch.Tensor):
        # By index: a mask would have to be counted on the device, and waited for.
        return values[torch.from_numpy(places).to(values.device)]
    return values[places]
