"""The moments of a layer at an epoch, read from the store's cache or computed and kept there.

The cache is the group ``moments`` beside the activations. Its marker is ``count``: it is
written last, one element at a time, and is -1 where nothing is cached. The group carries
the run's time of creation and the bits that its values keep, so that a cache of a run that was
recorded anew, or compacted, is not believed. It is safe to delete, unless the run keeps moments
only: then it is the record itself.
"""

from __future__ import annotations

import functools
import json
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError, ContainsGroupError, GroupNotFoundError

from actstore import schema
from actstore.errors import StoreCorruptError, StoreUnreachableError, StoreWarning
from actstore.kernels.moments import Centred, Moments, centred, total
from actstore.storage import layout
from actstore.storage.chunk import read_chunk, write_chunk
from actstore.storage.files import AT_ONCE
from actstore.storage.location import files_at, open_root
from actstore.storage.precision import KEEP_BITS
from actstore.storage.reading import DAMAGE, Committed, rewritten
from actstore.storage.successors import as_documented

Array: TypeAlias = npt.NDArray[Any]

#: tasks of one process replace an outdated cache one after another, so that only one does
_MAKING = threading.Lock()

#: samples are read in blocks of about this many bytes when an epoch is larger
BLOCK_BYTES = 2**28

#: blocks of this size are read while others are multiplied; it stays in the processor's cache
AHEAD_BYTES = 2**22

#: pieces of a few MB that are ready before they are multiplied
AHEAD = 2


class Leaf(NamedTuple):
    """Where the activations of one layer lie, and which recording they are of.

    Attributes
    ----------
    store, run, split, layer : str
    created : str
        When the run was.
    keep_bits : int or None
        Bits of mantissa that the activations keep.
    successor : str
        The ``zarr.json`` of the activations where a compaction has not yet put it in its place.
    """

    store: str
    run: str
    split: str
    layer: str
    created: str
    keep_bits: int | None = None
    successor: str = ""

    @property
    def path(self) -> str:
        """Path of the layer's group."""
        return f"{self.run}/{self.split}/{self.layer}"

    @property
    def values(self) -> tuple[str, int | None]:
        """What the values are of: moments of others are not to be believed."""
        return self.created, self.keep_bits

    def group(self, *, writable: bool = False) -> zarr.Group:
        """Open the layer's group."""
        root = open_root(self.store, mode="r+" if writable else "r")
        group = root[self.path]
        assert isinstance(group, zarr.Group)
        return group

    def activations(self) -> zarr.Array[Any] | None:
        """Open the activations; None if only their moments are kept.

        Raises
        ------
        NotInStoreError
            If they were rewritten since the run was opened.
        """
        path = f"{self.path}/{schema.ACTIVATIONS}"
        if self.successor:
            files = files_at(self.store, read_only=True)
            return as_documented(files, path, json.loads(self.successor))
        array: Any = self.group().get(schema.ACTIVATIONS)
        if array is not None and array.attrs.get(KEEP_BITS) != self.keep_bits:
            raise rewritten(path, self.store)
        return array  # type: ignore[no-any-return]


def load_moments(leaf: Leaf, slot: int, *, cache: bool, block_bytes: int = BLOCK_BYTES) -> Moments:
    """Return the moments of the epoch in ``slot``, from the cache if it holds them.

    Parameters
    ----------
    leaf : Leaf
    slot : int
        Place on the epoch axis.
    cache : bool
        Whether to read and to write the cache.
    block_bytes : int
        Most bytes of activations in memory at once.

    Raises
    ------
    StoreCorruptError
        If the activations cannot be read back.

    Warns
    -----
    StoreWarning
        If the cache is damaged or out of date (it is computed anew), or cannot be written.
    """
    found = read(leaf, slot) if cache else None
    if found is not None:
        return found
    array = leaf.activations()
    if array is None:  # a run that keeps moments only
        if not cache and (found := read(leaf, slot)) is not None:
            return found
        raise StoreCorruptError(
            f"run {leaf.run!r} keeps moments only, and those of {leaf.split}/{leaf.layer}, slot "
            f"{slot}, are lost; 'actstore verify {leaf.store}' lists what is damaged"
        )
    committed = Committed(array, leaf.store)  # a lost chunk is an error, not a layer of NaN
    blocks = _blocks(committed, slot, min(block_bytes // 2, AHEAD_BYTES))
    moments = total(_ahead(centred(blocks, ahead=AHEAD)))
    if cache:
        write(leaf, slot, moments)
    return moments


def read(leaf: Leaf, slot: int) -> Moments | None:
    """Return the cached moments of a slot, or None if they are not cached or not to be believed."""
    where = f"the cached moments of run {leaf.run!r}, {leaf.split}/{leaf.layer}, slot {slot}"
    try:
        held = _held(leaf)
        if held is None:
            return None
        if held.values != leaf.values:
            what = "recording" if held.values[0] != leaf.created else "precision"
            warnings.warn(f"{where} are of an earlier {what}; computed anew", StoreWarning, 2)
            return None
        count = _count(held, slot)
        if count < 0:
            return None
        mean = read_chunk(held.mean, slot, 0)[0]
        comoment = read_chunk(held.comoment, slot, 0, 0)[0]
        if not (np.isfinite(mean).all() and np.isfinite(comoment.sum())):
            raise ValueError("NaN where numbers were cached")
    except StoreUnreachableError:
        raise
    except DAMAGE as error:
        if schema.ACTIVATIONS in leaf.group():  # else they are lost, which the caller says
            warnings.warn(f"{where} are damaged ({error}); computed anew", StoreWarning, 2)
        return None
    return Moments(count, mean, comoment)


def write(leaf: Leaf, slot: int, moments: Moments) -> None:
    """Keep the moments of a slot; a store that cannot be written is left alone, with a warning."""
    try:
        put(leaf, slot, moments, files=leaf.group(writable=True))
    except DAMAGE as error:  # or another task removes what this one found out of date
        why = (error.strerror if isinstance(error, OSError) else None) or error
        warnings.warn(
            f"moments of {leaf.store!r} are not cached ({why}); "
            "pass cache=False (--no-cache) to say that they need not be",
            StoreWarning,
            2,
        )


def put(leaf: Leaf, slot: int, moments: Moments, *, files: zarr.Group) -> None:
    """Write the moments of a slot into ``files``, the group of the layer; the marker last.

    Raises
    ------
    OSError
        If the store cannot be written.
    """
    with _MAKING:
        inner = _group(leaf, files, moments.mean.size)
    write_chunk(inner[schema.MEAN], moments.mean, slot, 0)
    write_chunk(inner[schema.COMOMENT], moments.comoment, slot, 0, 0)
    write_chunk(inner[schema.COUNT], np.array([moments.count]), slot)


def cached(leaf: Leaf, slots: Array) -> npt.NDArray[np.bool_]:
    """Return which of ``slots`` are in the cache ``(epoch,)``."""
    held = _held(leaf)
    if held is None or held.values != leaf.values:
        return np.zeros(len(slots), bool)
    counted = functools.partial(_count, held)
    if "://" not in leaf.store:
        return np.array([counted(int(slot)) >= 0 for slot in slots], bool)
    with ThreadPoolExecutor(AT_ONCE) as readers:
        return np.array([count >= 0 for count in readers.map(counted, map(int, slots))], bool)


def _count(held: _Held, slot: int) -> int:
    """Return the number of samples of the moments in a slot, or -1 if there are none."""
    if slot >= held.count.shape[0]:
        return -1
    try:
        return int(read_chunk(held.count, slot)[0])
    except FileNotFoundError:
        return -1


class _Held(NamedTuple):
    """The arrays of a cache, and what values they are of."""

    values: tuple[Any, Any]
    count: Any
    mean: Any
    comoment: Any


def _held(leaf: Leaf) -> _Held | None:
    """Open a cache; None if there is none, or another task is making it at this moment."""
    if "://" not in leaf.store:
        return _open_cache(leaf)
    with suppress(LookupError):
        return _once_opened(leaf)
    return None


@functools.lru_cache(maxsize=512)
def _once_opened(leaf: Leaf) -> _Held:
    """Open a cache in a bucket, where each of its documents takes a request, once a process.

    Whether an epoch is in it is asked again at every read.
    """
    held = _open_cache(leaf)
    if held is None:
        raise LookupError
    return held


def _open_cache(leaf: Leaf) -> _Held | None:
    path = f"{leaf.path}/{schema.MOMENTS}"
    files = files_at(leaf.store, read_only=True)
    try:
        inner: Any = zarr.open_group(
            files, path=path, mode="r", zarr_format=3, use_consolidated=False
        )
    except GroupNotFoundError:
        return None
    arrays = [inner.get(name) for name in (schema.COUNT, schema.MEAN, schema.COMOMENT)]
    if any(array is None for array in arrays):
        return None
    return _Held(values_of(inner), *arrays)


def values_of(moments: zarr.Group) -> tuple[Any, Any]:
    """Return what values cached moments are of: when they were recorded, and their bits."""
    return moments.attrs.get("created"), moments.attrs.get(KEEP_BITS)


def worthwhile(samples: int, width: int) -> bool:
    """Return whether the moments of a layer take fewer bytes than its activations."""
    return 2 * width < samples


def _group(leaf: Leaf, group: zarr.Group, width: int) -> Any:
    marker = zarr.open_array(group.store, path=f"{leaf.run}/{schema.EPOCH}", mode="r")
    slots = marker.shape[0]
    # where moments are all that was kept, they are never removed
    if schema.ACTIVATIONS in group and not _is_usable(leaf, group):
        del group[schema.MOMENTS]
    # Tasks that cache other epochs of the layer make the same group and arrays at the same time.
    if schema.MOMENTS not in group:
        with suppress(ContainsGroupError):
            bits = {} if leaf.keep_bits is None else {KEEP_BITS: leaf.keep_bits}
            group.create_group(schema.MOMENTS, attributes={"created": leaf.created, **bits})
    inner: Any = group[schema.MOMENTS]
    dims = (schema.NEURON, schema.OTHER_NEURON)
    for name, rest in ((schema.MEAN, (width,)), (schema.COMOMENT, (width, width))):
        if name not in inner:
            with suppress(ContainsArrayError):
                layout.create_epochwise(inner, name, slots=slots, rest=rest, dims=dims[: len(rest)])
    if schema.COUNT not in inner:
        with suppress(ContainsArrayError):
            inner.create_array(
                schema.COUNT,
                shape=(slots,),
                chunks=(1,),  # one object an epoch: tasks that cache different epochs never meet
                dtype="int64",
                fill_value=-1,
                compressors=[Crc32cCodec()],
                dimension_names=(schema.EPOCH,),
                attributes=schema.describe(schema.COUNT),
            )
    return inner


def _is_usable(leaf: Leaf, group: zarr.Group) -> bool:
    """Whether there is no cache yet, or one of this recording whose metadata can be read."""
    try:
        if schema.MOMENTS not in group:
            return True
        inner: Any = group[schema.MOMENTS]
        for name in (schema.COUNT, schema.MEAN, schema.COMOMENT):
            name in inner  # noqa: B015 - raises if its metadata cannot be read
        return values_of(inner) == leaf.values
    except (ValueError, TypeError):
        return False


def _ahead(pieces: Iterator[Centred]) -> Iterator[Centred]:
    """Yield the pieces, each read and centred while those before it are multiplied."""
    with ThreadPoolExecutor(1) as reader:
        pending = deque(reader.submit(next, pieces, None) for _ in range(AHEAD))
        while (piece := pending.popleft().result()) is not None:
            pending.append(reader.submit(next, pieces, None))
            yield piece


def _blocks(committed: Committed, slot: int, block_bytes: int) -> Iterator[Array]:
    _, samples, width = committed.shape
    chunk = committed.array.chunks[1]
    rows = max(chunk, block_bytes // (4 * width) // chunk * chunk)
    for start in range(0, samples, rows):
        # with its epoch axis, for which the look for lost chunks is cheap
        yield committed[slot : slot + 1, start : start + rows][0]
