"""Encoding an epoch of activations into shards and writing them whole.

What is written is byte for byte what Zarr v3 specifies, and is read by zarr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore.storage.chunk import ChunkCodec, checksum
from actstore.storage.files import Files
from actstore.storage.precision import KEEP_BITS, round_mantissa

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Blocks:
    """How several processes write one epoch, each whole shards of its samples.

    Attributes
    ----------
    count : int
        Processes: a new array gets as many shards along its samples.
    sparse : mapping of (split, layer) to bool
        Whether zeros are common in a layer.
    write : callable of slot
        Returns when all samples of all layers are written. Called once, when the arrays exist.
    """

    count: int
    sparse: Mapping[tuple[str, str], bool]
    write: Callable[[int], None]


def write_epoch(
    array: zarr.Array[Any],
    slot: int,
    x: npt.NDArray[np.float32],
    *,
    first: int = 0,
    told: Callable[[int], None] = lambda count: None,
) -> None:
    """Write samples of one epoch, whole shards of them, rounded if the array says so.

    Parameters
    ----------
    array : zarr.Array
        ``activations (epoch, sample, neuron)``, as :mod:`actstore.storage.layout` makes it.
    slot : int
        Place on the epoch axis.
    x : array
        ``(sample, neuron)`` float32.
    first : int
        Sample that ``x`` begins with: the beginning of a shard.
    told : callable, optional
        Takes how many bytes of ``x`` were written since the last call.
    """
    _, rows, width = array.shards or array.chunks
    codec = ChunkCodec.of(array)
    whole = first % rows == 0 and (len(x) % rows == 0 or first + len(x) == array.shape[1])
    if codec is None or not whole or not isinstance(array.store, Files):
        array[slot, first : first + len(x)] = _rounded(x, array)
        told(x.nbytes)
        return
    for start in range(0, len(x), rows):
        for neuron in range(0, x.shape[1], width):
            key = array.metadata.encode_chunk_key((slot, (first + start) // rows, neuron // width))
            block = x[start : start + rows, neuron : neuron + width]
            array.store.put(f"{array.path}/{key}", _shard(block, array, codec, told))


def _shard(
    block: Array, array: zarr.Array[Any], codec: ChunkCodec, told: Callable[[int], None]
) -> Iterator[Any]:
    """Yield the parts of one object: its chunks, and their index if they are in a shard."""
    places = []
    offset = 0
    for chunk in _chunks(block, array):
        data, check = codec.encode(chunk)
        yield data
        yield check
        size = memoryview(data).nbytes + len(check)
        places.append((offset, size))
        offset += size
        told(chunk.nbytes)
    if array.shards is not None:
        index = np.asarray(places, "<u8").tobytes()
        yield index
        yield checksum(index)


def _chunks(block: Array, array: zarr.Array[Any]) -> Iterator[Array]:
    """Yield the chunks of a shard in order, filled up at the end of the axes.

    All in one buffer: new memory for each would take longer than the copy itself.
    """
    _, rows, width = array.chunks
    _, all_rows, all_width = array.shards or array.chunks
    buffer = np.empty((rows, width), "<f4")
    for start in range(0, all_rows, rows):
        for neuron in range(0, all_width, width):
            part = block[start : start + rows, neuron : neuron + width]
            if part.shape != buffer.shape:
                buffer.fill(array.fill_value)
            buffer[: part.shape[0], : part.shape[1]] = part
            yield _rounded(buffer, array)


def _rounded(x: Array, array: zarr.Array[Any]) -> Array:
    """Round to the mantissa that the array keeps; all writers of it do the same."""
    keep_bits: Any = array.attrs.get(KEEP_BITS)
    return x if keep_bits is None else round_mantissa(x, keep_bits)
