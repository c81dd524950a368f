"""How arrays of a store become shards and chunks, and which codec they get.

A shard is one epoch of one split: it is written whole by one writer, because two
writers of different chunks of one shard lose data without an error. Inside the
shard, chunks are at most 2048 samples by 256 neurons: mini-batches and single
neurons stay cheap to read, and whole epochs cost the same as with larger ones.
An epoch that fits one chunk is stored as that chunk, without a shard around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from actstore import schema
from actstore.storage.precision import KEEP_BITS
from actstore.storage.seal import checksum

CHUNK_SAMPLES = 2048
CHUNK_NEURONS = 256

#: attribute of labels and sample indices
DATA_CHECKSUM = "data_crc32c"

#: Above this share of zeros (a layer after a ReLU) zstd pays.
SPARSE_SHARE = 0.3

#: How the values of an array look, which decides how its chunks are compressed.
Kind: TypeAlias = Literal["dense", "sparse", "even"]


def even_chunk(length: int, most: int) -> int:
    """Length of equal chunks of at most ``most`` that cover ``length`` with least padding.

    Examples
    --------
    >>> even_chunk(10_000, 2048), even_chunk(997, 2048)
    (2000, 997)
    """
    return math.ceil(length / math.ceil(length / most))


def is_sparse(x: np.ndarray[Any, Any]) -> bool:
    """Return whether zeros are common enough in ``x`` for zstd to pay; looks at 2^20 values."""
    flat = x.reshape(-1)
    sample = flat[:: max(1, flat.size >> 20)]
    return bool(np.count_nonzero(sample) <= (1 - SPARSE_SHARE) * sample.size)


def codecs(kind: Kind) -> list[Any]:
    """Return the codecs of the chunks inside a shard: compression where it pays, then a checksum.

    Parameters
    ----------
    kind : {"dense", "sparse", "even"}
        Floats of full precision; floats with many zeros; values with many bits alike, such as
        rounded floats and labels.
    """
    # Measured on 20 MB (benchmarks/storage.py). Nothing saves more than a tenth of dense floats,
    # and lz4 doubles the work of writing and of reading them. With zeros zstd stores 1.8 (half
    # of them) to 5 (85 %) times less, lz4 a fifth more than zstd. Floats rounded to 10 bits
    # take lz4 with bitshuffle 2.1 times less, at a quarter of the time of zstd.
    compression: dict[Kind, list[Any]] = {
        "dense": [],
        "sparse": [ZstdCodec(level=1)],
        "even": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
    }
    # crc32c stands last: blosc does not notice a flipped bit, crc32c always did.
    return [*compression[kind], Crc32cCodec()]


def create_activations(
    group: zarr.Group,
    *,
    slots: int,
    samples: int,
    width: int,
    sparse: bool,
    blocks: int = 1,
    keep_bits: int | None = None,
    separator: Literal["/", "."] = "/",
) -> zarr.Array[Any]:
    """Create ``activations`` (epoch, sample, neuron) float32 in ``group``, without data.

    With several ``blocks`` of samples, each is a shard of its own, for a writer of its own. With
    ``keep_bits``, whoever writes rounds to that many bits of mantissa. The ``separator`` is that
    of the names of chunks.
    """
    rounded = keep_bits not in (None, schema.MANTISSA_BITS)
    block = math.ceil(samples / blocks)
    chunk = (1, even_chunk(block, CHUNK_SAMPLES), even_chunk(width, CHUNK_NEURONS))
    shard = (1, _up(block, chunk[1]), _up(width, chunk[2]))
    return group.create_array(
        schema.ACTIVATIONS,
        shape=(slots, samples, width),
        shards=None if shard == chunk else shard,
        chunks=chunk,
        dtype="float32",
        fill_value=float("nan"),
        compressors=codecs("sparse" if sparse else "even" if rounded else "dense"),
        chunk_key_encoding={"name": "default", "separator": separator},
        dimension_names=(schema.EPOCH, schema.SAMPLE, schema.NEURON),
        attributes=schema.describe(schema.ACTIVATIONS)
        | ({} if keep_bits is None else {KEEP_BITS: keep_bits}),
    )


def create_epochwise(
    group: zarr.Group, name: str, *, slots: int, rest: tuple[int, ...], dims: Iterable[str]
) -> zarr.Array[Any]:
    """Create ``name`` (epoch, *dims) float64, filled with NaN, one chunk an epoch."""
    return group.create_array(
        name,
        shape=(slots, *rest),
        # a scalar an epoch: one small object for the whole axis, replaced atomically
        chunks=(1, *rest) if rest else (slots,),
        dtype="float64",
        fill_value=float("nan"),
        compressors=codecs("dense"),
        dimension_names=(schema.EPOCH, *dims),
        attributes=schema.describe(name),
    )


def make_marker(group: zarr.Group, *, slots: int) -> None:
    """Create ``epoch`` (epoch) int64, -1 throughout: the commit marker of a run without epochs.

    One that a killed writer left is made whole.
    """
    if schema.EPOCH in group:
        array_of(group, schema.EPOCH)[:] = schema.NO_EPOCH
        return
    marker = group.create_array(
        schema.EPOCH,
        shape=(slots,),
        chunks=(slots,),
        dtype="int64",
        fill_value=schema.NO_EPOCH,
        compressors=[Crc32cCodec()],
        dimension_names=(schema.EPOCH,),
        attributes=schema.describe(schema.EPOCH),
    ).with_config({"write_empty_chunks": True})
    marker[:] = schema.NO_EPOCH


def create_samplewise(
    group: zarr.Group, name: str, values: np.ndarray[Any, Any]
) -> zarr.Array[Any]:
    """Store ``values`` (sample) whole: the labels, or the samples' original indices.

    Their checksum is an attribute: labels of a lost chunk would read as the fill value.
    """
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        fill_value=float("nan") if values.dtype.kind == "f" else -1,
        compressors=codecs("even"),
        dimension_names=(schema.SAMPLE,),
        attributes={**schema.describe(name), DATA_CHECKSUM: values_checksum(values)},
    )
    array[:] = values
    return array


def values_checksum(values: np.ndarray[Any, Any]) -> str:
    """Return the crc32c of the values' bytes, little-endian, in C order."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return checksum(np.ascontiguousarray(little).tobytes())


def array_of(group: zarr.Group, path: str) -> zarr.Array[Any]:
    """Return the array at ``path`` below ``group``; what is assigned to it is always written.

    Zarr leaves out a chunk that holds nothing but the fill value. Here the chunk of a marker
    or a metric must be there, so that a lost one is not taken for "nothing committed yet".
    """
    array = group[path]
    assert isinstance(array, zarr.Array)
    return array.with_config({"write_empty_chunks": True})


def epoch_length(array: zarr.Array[Any]) -> int | None:
    """Return the length of the array's epoch axis, or None if it has none."""
    names = array.metadata.dimension_names  # type: ignore[union-attr]
    return int(array.shape[0]) if names and names[0] == schema.EPOCH else None


def _up(length: int, multiple: int) -> int:
    return math.ceil(length / multiple) * multiple
