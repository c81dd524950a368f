"""Data sets for the trainings: splits that are indexed without a loader's overhead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from actstore.errors import InvalidParameterError, MissingExtraError

Indices: TypeAlias = npt.NDArray[np.int64]


class Examples(Protocol):
    """Examples with labels, by index: any map-style ``torch.utils.data.Dataset``."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Split:
    """Labelled examples in a fixed order.

    Parameters
    ----------
    examples
        A pair of tensors, inputs ``(sample, …)`` and labels ``(sample,)``, or a data set
        that gives (input, label) by index.
    samples
        Index of each example in the data set that it comes from.
    """

    examples: tuple[Tensor, Tensor] | Examples
    samples: Indices | None = None

    def __len__(self) -> int:
        held = self.examples
        return len(held[1]) if isinstance(held, tuple) else len(held)

    def to(self, device: torch.device) -> Split:
        """Return the split with its tensors on ``device``; a data set stays where it is."""
        if not isinstance(self.examples, tuple):
            return self
        inputs, labels = self.examples
        return Split((inputs.to(device), labels.to(device)), self.samples)

    def batches(
        self, size: int, *, device: torch.device, order: Indices | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches (inputs, labels) of ``size`` samples on ``device``, in ``order``."""
        held = self.examples
        if isinstance(held, tuple):
            inputs, labels = held
            if order is not None:
                # One gather an epoch: for tiny networks one a batch costs as much as a layer.
                index = torch.from_numpy(order).to(inputs.device)
                inputs, labels = inputs[index], labels[index]
            yield from zip(inputs.split(size), labels.split(size), strict=True)
            return
        places = range(len(held)) if order is None else order.tolist()
        for start in range(0, len(places), size):
            batch = default_collate([held[place] for place in places[start : start + size]])
            yield batch[0].to(device), batch[-1].to(device)


def as_splits(data: Any, *, source: str) -> dict[str, Split]:
    """Return the splits of what a data function gave.

    Parameters
    ----------
    data
        ``(train, test)`` or a mapping of split to examples, each a pair of arrays or a
        map-style data set.
    source
        The function, for errors.

    Raises
    ------
    InvalidParameterError
        If it is neither, has no split ``train``, or an input has no label.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        data = dict(zip(("train", "test"), data, strict=True))
    if not isinstance(data, Mapping) or "train" not in data:
        found = f"a mapping of {', '.join(data)}" if isinstance(data, Mapping) else _describe(data)
        raise InvalidParameterError(
            f"{source} gave {found}; expected (train, test) or a mapping with a split 'train'"
        )
    return {str(name): _as_split(examples, name, source) for name, examples in data.items()}


def _as_split(examples: Any, name: str, source: str) -> Split:
    if isinstance(examples, Split):
        return examples
    if isinstance(examples, tuple | list) and len(examples) == 2:
        inputs, labels = (torch.as_tensor(part) for part in examples)
        if inputs.ndim < 2 or labels.ndim != 1 or len(inputs) != len(labels):
            raise InvalidParameterError(
                f"split {name!r} of {source} has inputs {tuple(inputs.shape)} and labels "
                f"{tuple(labels.shape)}; expected (sample, …) and (sample,)"
            )
        return Split((inputs, labels))
    if not (hasattr(examples, "__len__") and hasattr(examples, "__getitem__")):
        raise InvalidParameterError(
            f"split {name!r} of {source} is {_describe(examples)}; expected a pair of arrays or a "
            "data set with a length and an index"
        )
    return Split(examples)


def _describe(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"


def digits() -> dict[str, Split]:
    """Return scikit-learn's handwritten digits: 800 train, 997 test, 64 pixels, 10 classes.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.

    Examples
    --------
    >>> {name: len(split) for name, split in digits().items()}
    {'train': 800, 'test': 997}
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "the digits come with scikit-learn, which is not installed; "
            "pip install 'actstore[train]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    # The legacy generator: its permutation is the one that the published numbers were made with.
    order = np.random.RandomState(0).permutation(len(labels))
    scaled = pixels / 16
    train = scaled[order[:800]]
    inputs = torch.from_numpy(((scaled - train.mean()) / train.std()).astype("float32"))
    targets = torch.from_numpy(labels.astype("int64"))
    return {
        name: Split((inputs[index], targets[index]), samples=index)
        for name, index in (("train", order[:800]), ("test", order[800:]))
    }
