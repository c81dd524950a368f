"""Some samples of one epoch read from the files of a store on a disk, without zarr's machinery.

Each chunk is read into one small buffer that stays in the processor's cache, checked there,
and copied to its place; zarr makes three copies of an epoch and waits for an event loop.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore.storage.chunk import CHECKSUM_BYTES, ChunkCodec, checked
from actstore.storage.local import LocalFiles

Array: TypeAlias = npt.NDArray[Any]

#: offset and size, in the index of a shard, of a chunk that was never written
_NOWHERE = 2**64 - 1


def read_slab(array: zarr.Array[Any], slot: int, start: int, stop: int) -> Array | None:
    """Return ``array[slot : slot + 1, start:stop]``, or None where zarr has to read it.

    Parameters
    ----------
    array : zarr.Array
        With at least two axes and one slot a chunk, as :mod:`actstore.storage.layout` makes it.
    slot : int
        Place on the first axis.
    start, stop : int
        Range on the second.

    Raises
    ------
    ValueError
        If a chunk is missing or is not what was written.
    OSError
        If a file cannot be read.
    """
    codec = ChunkCodec.of(array)
    if codec is None or not isinstance(array.store, LocalFiles) or codec.shape[0] != 1:
        return None
    # With the first axis: what owns its values, dask does not copy.
    values = np.empty((1, stop - start, *array.shape[2:]), codec.dtype)
    step = (array.shards or array.chunks)[1:]
    counts = [-(-length // size) for length, size in zip(array.shape[1:], step, strict=True)]
    first, last = start // step[0], -(-stop // step[0])
    for place in itertools.product(range(first, last), *map(range, counts[1:])):
        path = array.store.root / array.path / array.metadata.encode_chunk_key((slot, *place))
        origin = [p * size for p, size in zip(place, step, strict=True)]
        if array.shards is None:
            chunks = iter([_whole(path, codec)])
        else:
            rows = (start - origin[0], stop - origin[0])
            chunks = _chunks_of_shard(path, codec, array.shards[1:], rows)
        for corner, chunk in chunks:
            _put(values[0], chunk, [o + c for o, c in zip(origin, corner, strict=True)], start)
    return values


def _put(out: Array, chunk: Array, corner: list[int], start: int) -> None:
    """Copy what falls into ``out``, which begins at ``start`` of the first axis."""
    low = max(corner[0], start)
    high = min(corner[0] + chunk.shape[0], start + out.shape[0])
    if low >= high:
        return
    to = tuple(
        slice(c, min(c + n, length))
        for c, n, length in zip(corner[1:], chunk.shape[1:], out.shape[1:], strict=True)
    )
    inside = tuple(slice(0, s.stop - s.start) for s in to)
    out[(slice(low - start, high - start), *to)] = chunk[
        (slice(low - corner[0], high - corner[0]), *inside)
    ]


def _whole(path: Path, codec: ChunkCodec) -> tuple[list[int], Array]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError("a chunk is missing") from None
    return [0] * (len(codec.shape) - 1), codec.decode(data)[0]


def _chunks_of_shard(
    path: Path, codec: ChunkCodec, shard: tuple[int, ...], rows: tuple[int, int]
) -> Iterator[tuple[list[int], Array]]:
    """Yield the chunks that hold ``rows`` of a shard, each valid until the next is asked for."""
    chunk = codec.shape[1:]
    counts = [length // size for length, size in zip(shard, chunk, strict=True)]
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise ValueError("a chunk is missing") from None
    with file:
        read = _reader(file)
        size = os.fstat(file.fileno()).st_size
        index_bytes = 16 * math.prod(counts) + CHECKSUM_BYTES
        if size < index_bytes:
            raise ValueError(f"a shard of {size} bytes, too few for its index")
        index = checked(read(size - index_bytes, index_bytes))
        places = np.frombuffer(index, "<u8").reshape(*counts, 2).copy()
        wanted = range(max(0, rows[0]) // chunk[0], min(counts[0], -(-rows[1] // chunk[0])))
        for corner in itertools.product(wanted, *map(range, counts[1:])):
            offset, length = (int(value) for value in places[corner])
            if offset == _NOWHERE or length == _NOWHERE:
                raise ValueError("a chunk is missing")
            if offset + length > size:
                raise ValueError("a chunk that lies beyond the end of its shard")
            values = codec.decode(read(offset, length))[0]
            yield [c * n for c, n in zip(corner, chunk, strict=True)], values


def _reader(file: io.FileIO) -> Callable[[int, int], memoryview]:
    """Return what reads bytes of a file into a buffer that is used again and again."""
    buffer = bytearray()

    def read(offset: int, length: int) -> memoryview:
        nonlocal buffer
        if len(buffer) < length:
            buffer = bytearray(length)
        left = view = memoryview(buffer)[:length]
        file.seek(offset)
        while len(left):
            count = file.readinto(left)
            if not count:
                raise ValueError(f"a shard that ends {len(left)} bytes early")
            left = left[count:]
        return view

    return read
