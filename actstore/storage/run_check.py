"""The checks of one run, from its structure to its last value."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr

from actstore import schema
from actstore.errors import ActstoreError, StoreCorruptError
from actstore.kernels.moments import accumulate
from actstore.storage import layout
from actstore.storage.cache import values_of
from actstore.storage.cleaning import is_remains
from actstore.storage.files import PARTIAL, Files
from actstore.storage.finding import Finding, check_document, read_document, stray, told
from actstore.storage.lock import STALE, lock_key, lock_state
from actstore.storage.precision import KEEP_BITS
from actstore.storage.reading import (
    DAMAGE,
    Committed,
    chunk_files,
    chunk_names,
    marker_slots,
    read_samplewise,
)
from actstore.storage.seal import DOCUMENT
from actstore.storage.snapshot import check_finite
from actstore.storage.successors import SUCCESSORS, as_documented

Array: TypeAlias = npt.NDArray[Any]

BLOCK_BYTES = 2**28  # activations are read in blocks of about this many bytes


class RunCheck:
    """The checks of one run.

    Parameters
    ----------
    files : Files
        The store's.
    name : str
    attributes : dict
        Of the run's group.
    deep : bool
    """

    def __init__(self, files: Files, name: str, attributes: dict[str, Any], *, deep: bool) -> None:
        self.files, self.name, self.attributes, self.deep = files, name, attributes, deep
        self.documents: dict[str, dict[str, Any]] = {}
        self.successors: dict[str, Any] = attributes.get(SUCCESSORS, {})
        self.moments_only = schema.ACTIVATIONS not in schema.kept(attributes)
        self.committed = np.empty(0, "int64")  # slots
        self.length = 0  # of the marker
        self._arrays: dict[str, zarr.Array[Any] | None] = {}
        self._sizes = functools.cache(lambda path: files.sizes(f"{name}/{path}"))

    def findings(self) -> Iterator[Finding]:
        """Return everything that is not as it should be in this run."""
        holder = lock_state(self.files, self.name)
        live = holder is not None and not holder[0].ended
        if holder is not None and (holder[0].ended or holder[1] > STALE):
            yield self._stale_lock(holder[0].pid, holder[0].host, holder[1], holder[0].ended)
        found = list(self._all())
        # Where metadata are damaged, what looks left over may be what was committed.
        doubtful = any(f.kind == "damage" and _is_metadata(f.path) for f in found)
        for finding in found:
            if finding.kind != "leftover":
                yield finding
            elif not live:  # what a living writer has begun is no leftover
                yield dataclasses.replace(finding, action="") if doubtful else finding

    def _all(self) -> Iterator[Finding]:
        for key in self.files.partials(self.name):
            yield stray(key)
        if self.successors:
            problem = "was compacted by a process that was killed before old values were removed"
            yield Finding("leftover", self.name, problem, "settle")
        yield from self._walk(self.name)
        marker = self._open(schema.EPOCH)
        if marker is None:
            if "splits" in self.attributes or len(self.documents) > 1:
                yield self._damage(schema.EPOCH, "is missing: no epoch can be told to be committed")
            return
        problem = self._read_marker(marker)
        if problem:
            yield self._damage(schema.EPOCH, problem)
        elif len(self.committed):
            try:
                yield from self._check_contents()
            except DAMAGE as error:
                told(error)
                yield self._damage("", f"cannot be checked to the end: {error!r}")
        else:
            yield from self._check_begun()

    def _walk(self, path: str) -> Iterator[Finding]:
        """Read the documents of all groups and arrays, except in caches."""
        if path != self.name:
            if is_remains(self.files, path):  # a folder whose document was not written any more
                if path != f"{self.name}/{schema.EPOCH}":  # there, it is the lock's
                    yield Finding("leftover", path, "of an array never made", "remove")
                return
            broken = list(check_document(self.files, path))
            if broken:
                yield from broken
                return
        self.documents[path] = read_document(self.files, path)
        if self.documents[path]["node_type"] == "array":
            return
        for name, is_folder in self.files.children(path):
            inner = f"{path}/{name}"
            if name == DOCUMENT or name.endswith(PARTIAL) or self._is_cache(inner):
                continue
            if is_folder:
                yield from self._walk(inner)
            else:
                yield stray(inner)

    def _read_marker(self, marker: zarr.Array[Any]) -> str:
        """Take the committed slots from the marker, or say why that cannot be done."""
        begun = len(self.documents) > 2 or "splits" in self.attributes
        if begun and not self._has(schema.EPOCH, "c/0"):
            return "its values are missing: all epochs are lost"
        try:
            values = np.asarray(marker[:])
        except DAMAGE as error:
            return f"cannot be read: {told(error)}"
        slots = marker_slots(values)
        epochs = values[slots]
        if np.any(epochs < 0) or np.any(np.diff(epochs) <= 0):
            return f"epochs {epochs.tolist()} are not in order"
        if len(values) > int(self.attributes.get("slots", len(values))):
            return f"has {len(values)} slots, more than were made"
        self.committed, self.length = slots, len(values)
        return ""

    def _check_begun(self) -> Iterator[Finding]:
        """Nothing is committed: everything but the marker is left over from the first epoch."""
        if self.attributes.get("complete"):
            yield self._damage("", "is marked complete and holds no epoch")
        top = {path.split("/")[1] for path in self.documents if path != self.name}
        for name in sorted(top - {schema.EPOCH}):
            problem = "of a first epoch that was not finished"
            yield Finding("leftover", f"{self.name}/{name}", problem, "remove")

    def _check_contents(self) -> Iterator[Finding]:
        splits: dict[str, Any] = self.attributes["splits"]
        expected: dict[str, tuple[int, ...]] = {schema.EPOCH: (self.length,)}
        samplewise, large = [], []
        for split, parts in splits.items():
            for name in (schema.LABEL, schema.SAMPLE):
                samplewise.append(f"{split}/{name}")
                expected[samplewise[-1]] = (parts["samples"],)
            for layer, width in parts["layers"].items():
                if self.moments_only:
                    where = f"{split}/{layer}/{schema.MOMENTS}"
                    of = {schema.COUNT: (), schema.MEAN: (width,), schema.COMOMENT: (width, width)}
                    large += [f"{where}/{name}" for name in of]
                    expected.update({f"{where}/{n}": (self.length, *s) for n, s in of.items()})
                    continue
                large.append(f"{split}/{layer}/{schema.ACTIVATIONS}")
                expected[large[-1]] = (self.length, parts["samples"], width)
        outputs = self.attributes["outputs"]
        if outputs:
            bias, weight = f"{schema.READOUT}/{schema.BIAS}", f"{schema.READOUT}/{schema.WEIGHT}"
            large += [bias, weight]
            expected[bias] = (self.length, outputs)
            expected[weight] = (self.length, outputs, -1)
        metrics = list(self.attributes["metrics"])
        expected.update({name: (self.length,) for name in metrics})

        yield from self._check_presence(set(expected))
        for path, shape in expected.items():
            yield from self._check_shape(path, shape)
        for path in metrics:
            yield from self._check_metric(path)
        for path in samplewise:
            yield from self._check_samplewise(path)
        for path in large:
            yield from self._check_large(path)
        yield from self._check_unfinished(large, metrics)
        for path in large:
            if path.endswith(schema.ACTIVATIONS):
                yield from self._check_cache(path)

    def _check_presence(self, expected: set[str]) -> Iterator[Finding]:
        known = {
            "",
            *expected,
            *(p.rsplit("/", n)[0] for p in expected for n in (1, 2) if "/" in p),
        }
        missing = {}
        for path in sorted(expected):
            parts = path.split("/")
            above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
            lost = [p for p in above if f"{self.name}/{p}" not in self.documents]
            missing.update(dict.fromkeys(lost[:1]))
        for path in missing:
            if not self._has(path, DOCUMENT):
                yield self._damage(path, "is missing")
        for full in self.documents:
            path = full.partition("/")[2]
            if path in known:
                continue
            if "/" not in path and self.documents[full]["node_type"] == "array":
                problem = "a metric of an epoch that was not finished"
                yield Finding("leftover", full, problem, "remove")
            else:
                yield Finding("foreign", full, "is no part of a run")

    def _check_shape(self, path: str, shape: tuple[int, ...]) -> Iterator[Finding]:
        array = self._open(path)
        if array is None:
            return
        found = array.shape
        same = len(found) == len(shape) and all(
            b in (-1, a) for a, b in zip(found, shape, strict=True)
        )
        needed = int(self.committed[-1]) + 1
        trimmed = layout.epoch_length(array)
        if same:
            return
        if (
            trimmed is not None
            and needed <= trimmed < self.length
            and not self.attributes.get("complete")
        ):
            problem = "is shorter than the marker: its writer was killed as it closed the run"
            yield Finding("leftover", f"{self.name}/{path}", problem, "even lengths")
        else:
            yield self._damage(path, f"has shape {found}, and {shape} is expected")

    def _check_metric(self, path: str) -> Iterator[Finding]:
        array = self._open(path)
        if array is None:
            return
        if not self._has(path, "c/0"):
            yield self._damage(path, "its values are missing")
            return
        try:
            array[:]
        except DAMAGE as error:
            yield self._damage(path, f"cannot be read: {told(error)}")

    def _check_samplewise(self, path: str) -> Iterator[Finding]:
        array = self._open(path)
        if array is None:
            return
        try:
            read_samplewise(array, self.files.place)
        except StoreCorruptError as error:
            yield self._damage(path, str(error.__cause__ or "does not match its checksum"))

    def _check_large(self, path: str) -> Iterator[Finding]:
        """Check activations or the readout: every committed epoch must be there, whole."""
        array = self._open(path)
        if array is None:
            return
        sizes = self._sizes(path)
        for slot in self.committed:
            if slot >= array.shape[0]:
                return  # found as a wrong shape
            for name in chunk_names(array, slot):
                problem = self._missing_or_cut(array, name, sizes)
                if problem:
                    yield self._damage(f"{path}/{name}", problem)
                    break
            else:
                if self.deep:
                    yield from self._check_values(path, array, int(slot))

    def _check_values(self, path: str, array: zarr.Array[Any], slot: int) -> Iterator[Finding]:
        where = f"{path}/{chunk_names(array, slot)[0]}"
        try:
            for block in blocks(Committed(array, self.files.place), slot):
                check_finite(block, "it")
        except ActstoreError as error:
            told(error)
            yield self._damage(where, f"cannot be read: {error.__cause__ or error}")

    def _check_unfinished(self, large: list[str], metrics: list[str]) -> Iterator[Finding]:
        """Look for an epoch that was begun and not committed, and for objects beyond the end."""
        committed = set(self.committed.tolist())
        begun: set[int] = set()
        for path in large:
            array = self._open(path)
            if array is None:
                continue
            names = {name for slot in committed for name in chunk_names(array, slot)}
            # A compaction that was killed leaves names with another separator.
            mine = array.metadata.encode_chunk_key((0,))[:2]
            for name in chunk_files(self._sizes(path), array.path):
                if name in names or name.endswith(PARTIAL):
                    continue
                place = re.split("[/.]", name)[1]
                inside = place.isdigit() and int(place) < array.shape[0]
                if name.startswith(mine) and inside and int(place) not in committed:
                    begun.add(int(place))
                elif path not in self.successors:  # else it goes as the run is settled
                    yield stray(f"{self.name}/{path}/{name}", "remove")
        for path in metrics:
            array = self._open(path)
            if array is not None:
                try:
                    begun |= set(np.flatnonzero(~np.isnan(array[:])).tolist()) - committed
                except DAMAGE as error:
                    told(error)
                    continue  # found already
        for slot in sorted(begun):
            problem = f"slot {slot} holds an epoch that was not finished"
            yield Finding("leftover", self.name, problem, "empty slot", slot)

    def _check_cache(self, path: str) -> Iterator[Finding]:
        layer = path.rsplit("/", 1)[0]
        cache = f"{self.name}/{layer}/{schema.MOMENTS}"
        if not self.files.has_folder(cache):
            return
        try:
            problem = self._cache_problem(layer, cache)
        except (*DAMAGE, ActstoreError) as error:
            told(error)
            problem = f"cannot be read: {error!r}"
        if problem:
            yield Finding("cache", cache, problem, "remove")

    def _cache_problem(self, layer: str, cache: str) -> str:
        for name, is_folder in self.files.children(cache):
            if is_folder and any(check_document(self.files, f"{cache}/{name}")):
                return f"{name} has lost its metadata"
        group = zarr.open_group(self.files, path=cache, mode="r", use_consolidated=False)
        if values_of(group) != (self.attributes.get("created"), self.attributes.get(KEEP_BITS)):
            return "is of earlier values"
        count = np.asarray(layout.array_of(group, schema.COUNT)[:])
        if len(count) < self.length:
            return f"has {len(count)} slots, and the run has {self.length}"
        held = set(np.flatnonzero(count >= 0).tolist())
        if held - set(self.committed.tolist()):
            return "holds moments of an epoch that is not committed"
        activations = self._open(f"{layer}/{schema.ACTIVATIONS}")
        if activations is None or not self.deep:
            return ""
        for slot in sorted(held):
            mean = np.asarray(layout.array_of(group, schema.MEAN)[slot])
            comoment = np.asarray(layout.array_of(group, schema.COMOMENT)[slot])
            try:
                true = accumulate(blocks(Committed(activations, self.files.place), slot))
            except StoreCorruptError:
                continue  # the activations are damaged: these moments may be all that is left
            second = float(np.trace(true.comoment)) / true.count
            kept: Any = activations.attrs.get(KEEP_BITS)
            close = 1e-6
            if kept is not None:
                # Moments that were summed while recording are of the values before they were
                # rounded, by up to 2^-(bits + 1) of each: of its distance from zero, not the mean.
                close += 2.0**-kept
                second += float(true.mean @ true.mean)
            scale = math.sqrt(second) + 1e-300
            if (
                true.count != count[slot]
                or not np.allclose(mean, true.mean, rtol=close, atol=close * scale)
                or not np.allclose(
                    comoment, true.comoment, rtol=close, atol=close * scale**2 * true.count
                )
            ):
                return f"slot {slot} differs from the moments of the activations"
        return ""

    def _is_cache(self, path: str) -> bool:
        is_moments = path.count("/") == 3 and path.endswith(f"/{schema.MOMENTS}")
        return is_moments and not self.moments_only

    def _stale_lock(self, pid: int, host: str, age: float, ended: bool) -> Finding:
        path = lock_key(self.name)
        who = f"process {pid} on {host}"
        if ended:
            return Finding("leftover", path, f"locked by {who}, which has ended", "remove")
        problem = (
            f"locked by {who}, without a sign of life for {age / 60:.0f} minutes: remove this "
            "file if that process has ended"
        )
        return Finding("leftover", path, problem)

    def _open(self, path: str) -> zarr.Array[Any] | None:
        full = f"{self.name}/{path}"
        if path not in self._arrays:
            is_array = self.documents.get(full, {}).get("node_type") == "array"
            if path in self.successors:
                self._arrays[path] = as_documented(self.files, full, self.successors[path])
            elif is_array:
                self._arrays[path] = zarr.open_array(self.files, path=full, mode="r", zarr_format=3)
            else:
                self._arrays[path] = None
        return self._arrays[path]

    def _has(self, path: str, name: str) -> bool:
        return self.files.has(f"{self.name}/{path}/{name}")

    def _missing_or_cut(self, array: zarr.Array[Any], name: str, sizes: dict[str, int]) -> str:
        """Say what is wrong with the object of an epoch, as far as its size and its index tell."""
        key = f"{array.path}/{name}"
        found = sizes.get(key)
        if found is None:
            return "is missing"
        if array.shards is None:
            return "" if found > 4 else "is cut short"
        chunks = math.prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))
        size = 16 * chunks + 4  # offset and length of each chunk, and the checksum of them
        if found < size:
            return "is cut short"
        index = self.files.tail(key, size)
        if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
            return "its index of chunks is damaged"
        offset, length = np.frombuffer(index[:-4], "<u8").reshape(-1, 2).T
        if (length == np.iinfo("u8").max).any():
            return "a chunk is missing in it"
        return "" if (offset + length <= found - size).all() else "is cut short"

    def _damage(self, path: str, problem: str) -> Finding:
        return Finding("damage", f"{self.name}/{path}".rstrip("/"), problem)


def blocks(array: Committed, slot: int) -> Iterator[Array]:
    """Read one epoch in blocks of samples of bounded size, checked.

    Raises
    ------
    StoreCorruptError
        If a block cannot be read.
    """
    if array.ndim == 1:
        yield array[slot : slot + 1]
        return
    length = array.shape[1]
    chunk = array.array.chunks[1]
    row_bytes = array.dtype.itemsize * math.prod(array.shape[2:])
    rows = max(chunk, BLOCK_BYTES // max(1, row_bytes) // chunk * chunk)
    for start in range(0, length, rows):
        yield array[slot, start : start + rows]


def _is_metadata(path: str) -> bool:
    return path.endswith(DOCUMENT) or not re.search("/c[/.]", path)
