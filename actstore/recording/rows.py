"""Host memory that batches of activations are gathered in, off the training's path."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]


class Rows:
    """A growing float32 matrix ``(sample, neuron)``, filled batch by batch and reused.

    From a GPU the copies go into pinned memory on a stream of their own, so that the
    device never waits for them; :meth:`array` waits, in the writer's thread.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, 0)
        self._used = 0
        self._stream: Any = None

    def clear(self) -> None:
        """Forget the rows and keep the memory."""
        self._used = 0

    def append(self, batch: Tensor) -> None:
        """Add a batch ``(sample, neuron)`` of any float dtype from any device."""
        start, stop = self._used, self._used + batch.shape[0]
        if batch.device.type == "cuda":
            self._append_from_gpu(batch, start, stop)
        else:
            self._reserve(stop, batch.shape[1], pinned=False)
            self._buffer[start:stop].copy_(batch)
        self._used = stop

    def array(self) -> Array:
        """Return the rows, a view of the buffer: it is valid until :meth:`clear`."""
        self._wait()
        return np.asarray(self._buffer[: self._used].numpy())

    def _append_from_gpu(self, batch: Tensor, start: int, stop: int) -> None:
        if self._stream is None or self._stream.device != batch.device:
            self._wait()  # a copy goes through a stream of the device that it comes from
            self._stream = torch.cuda.Stream(batch.device)  # type: ignore[no-untyped-call]
        self._reserve(stop, batch.shape[1], pinned=True)
        self._stream.wait_stream(torch.cuda.current_stream(batch.device))
        with torch.cuda.stream(self._stream):
            self._buffer[start:stop].copy_(batch.float(), non_blocking=True)
        # Tells the allocator not to hand the memory out again before the copy is done.
        batch.record_stream(self._stream)

    def _reserve(self, rows: int, neurons: int, *, pinned: bool) -> None:
        if rows <= self._buffer.shape[0] and neurons == self._buffer.shape[1]:
            return
        self._wait()
        room = max(rows, 2 * self._used)
        grown = torch.empty(room, neurons, pin_memory=pinned)
        if self._used:
            grown[: self._used] = self._buffer[: self._used]
        self._buffer = grown

    def _wait(self) -> None:
        """Wait until every row has arrived in the host's memory."""
        if self._stream is not None:
            self._stream.synchronize()
