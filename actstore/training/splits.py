"""Labelled examples in a fixed order, given to a training batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from actstore.errors import InvalidParameterError

Indices: TypeAlias = npt.NDArray[np.int64]
Prepare: TypeAlias = Callable[[Tensor], Tensor]
Augment: TypeAlias = Callable[[Tensor, Generator], Tensor]

_NOISE_SEED = 0  # of the labels that are drawn anew: the data, not the training, depend on it


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
    prepare
        Turns a batch of stored inputs into what the model reads: bytes stay bytes until then.
    augment
        Changes a batch of stored inputs at random while training, on its device.
    augmented
        In place of the data set while training: the same examples, changed at random.
    workers
        Processes that load a data set ahead; 0 loads it in the training's own.
    """

    examples: tuple[Tensor, Tensor] | Examples
    samples: Indices | None = None
    prepare: Prepare | None = None
    augment: Augment | None = None
    augmented: Examples | None = None
    workers: int = 0

    def __len__(self) -> int:
        held = self.examples
        return len(held[1]) if isinstance(held, tuple) else len(held)

    def to(self, device: torch.device) -> Split:
        """Return the split with its tensors on ``device`` where they fit.

        A data set stays where it is, and tensors that would take more than half of a GPU's
        free memory stay on the host.
        """
        if not isinstance(self.examples, tuple):
            return self
        inputs, labels = self.examples
        if device.type == "cuda" and inputs.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return dataclasses.replace(self, examples=(inputs.pin_memory(), labels.pin_memory()))
        return dataclasses.replace(self, examples=(inputs.to(device), labels.to(device)))

    def batches(
        self, size: int, *, device: torch.device, order: Indices | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches (inputs, labels) of ``size`` samples on ``device``, in ``order``."""
        if isinstance(self.examples, tuple):
            batches = _of_tensors(self.examples, size, order)
        else:
            batches = _of_data_set(self.examples, size, order, workers=self.workers, seed=0)
        return self._prepared(batches, device, None)

    def training_batches(
        self, size: int, *, device: torch.device, order: Indices, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches in ``order``, changed at random where the split says how."""
        generator = Generator(device).manual_seed(seed)
        if isinstance(self.examples, tuple):
            batches = _of_tensors(self.examples, size, order)
        else:
            held = self.augmented or self.examples
            batches = _of_data_set(held, size, order, workers=self.workers, seed=seed)
        return self._prepared(batches, device, generator)

    def with_label_noise(self, share: float) -> Split:
        """Return the split with a share of its labels drawn anew from all classes.

        Raises
        ------
        InvalidParameterError
            If the split is a data set that does not list its labels.

        References
        ----------
        Random labels: Zhang et al., arXiv 1611.03530.
        """
        if share == 0:
            return self
        rng = np.random.default_rng(_NOISE_SEED)
        labels = self.labels()
        drawn = rng.permutation(len(labels))[: round(share * len(labels))]
        labels[drawn] = rng.integers(int(labels.max()) + 1, size=len(drawn))
        if isinstance(self.examples, tuple):
            inputs, known = self.examples
            noisy = torch.from_numpy(labels).to(known)
            return dataclasses.replace(self, examples=(inputs, noisy))
        augmented = Relabelled(self.augmented, labels) if self.augmented is not None else None
        examples = Relabelled(self.examples, labels)
        return dataclasses.replace(self, examples=examples, augmented=augmented)

    def first(self, count: int) -> Split:
        """Return ``count`` examples drawn once and for all, in their order; all if 0."""
        if not 0 < count < len(self):
            return self
        rng = np.random.default_rng(_NOISE_SEED)
        index = np.sort(rng.permutation(len(self))[:count])
        samples = index if self.samples is None else self.samples[index]
        if isinstance(self.examples, tuple):
            places = torch.from_numpy(index).to(self.examples[0].device)
            inputs, labels = self.examples
            chosen: Any = (inputs[places], labels[places])
        else:
            chosen = Subset(_as_dataset(self.examples), index.tolist())
        return dataclasses.replace(self, examples=chosen, samples=samples, augmented=None)

    def labels(self) -> Indices:
        """Return a copy of the labels, without reading an input.

        Raises
        ------
        InvalidParameterError
            If the split is a data set that does not list its labels.
        """
        if isinstance(self.examples, tuple):
            labels: Indices = self.examples[1].cpu().numpy().astype(np.int64)
            return labels
        listed = getattr(self.examples, "targets", None)
        if listed is None:
            raise InvalidParameterError(
                f"label noise was asked for, and {_describe(self.examples)} does not list its "
                "labels; give it an attribute 'targets', or give tensors"
            )
        return np.array(listed, dtype=np.int64)

    def _prepared(
        self,
        batches: Iterator[tuple[Tensor, Tensor]],
        device: torch.device,
        generator: Generator | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, labels in batches:
            x, y = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            if self.augment is not None and generator is not None:
                x = self.augment(x, generator)
            yield self.prepare(x) if self.prepare is not None else x, y


class Relabelled(Dataset[tuple[Any, int]]):
    """A data set with other labels."""

    def __init__(self, examples: Examples, labels: Indices) -> None:
        self.examples, self.targets = examples, labels

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.examples[index][0], int(self.targets[index])


def _of_tensors(
    held: tuple[Tensor, Tensor], size: int, order: Indices | None
) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, labels = held
    if order is not None:
        # One gather an epoch: for tiny networks one a batch costs as much as a layer.
        index = torch.from_numpy(order).to(inputs.device)
        inputs, labels = inputs[index], labels[index]
    yield from zip(torch.split(inputs, size), torch.split(labels, size), strict=True)


def _of_data_set(
    held: Examples, size: int, order: Indices | None, *, workers: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    places = list(range(len(held))) if order is None else order.tolist()
    if workers:
        # A generator of its own: a loader draws the seeds of its workers from it, and would
        # otherwise draw from the global one that the model uses.
        loader = DataLoader(
            _as_dataset(held),
            batch_size=size,
            sampler=places,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            generator=Generator().manual_seed(seed),
        )
        for batch in loader:
            yield batch[0], batch[-1]
        return
    for start in range(0, len(places), size):
        batch = default_collate([held[place] for place in places[start : start + size]])
        yield batch[0], batch[-1]


def _as_dataset(examples: Examples) -> Any:
    """Return the examples as what PyTorch's annotations ask for; it only ever indexes them."""
    return examples


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
