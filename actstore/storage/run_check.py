"""The checks of one run, from its structure to its last value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr

from actstore import schema
from actstore.storage.array_check import check_large, check_metric, check_samplewise, check_shape
from actstore.storage.cache_check import check_cache
from actstore.storage.checked_run import CheckedRun
from actstore.storage.cleaning import is_remains
from actstore.storage.files import PARTIAL, Files
from actstore.storage.finding import Finding, check_document, read_document, stray, told
from actstore.storage.lock import STALE, lock_key, lock_state
from actstore.storage.reading import (
    DAMAGE,
    chunk_files,
    chunk_names,
    marker_slots,
)
from actstore.storage.seal import DOCUMENT


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
        self.files, self.name, self.attributes = files, name, attributes
        self.run = CheckedRun(files, name, attributes, deep=deep)

    def findings(self) -> Iterator[Finding]:
        """Return everything that is not as it should be in this run."""
        holder = lock_state(self.files, self.name)
        live = holder is not None and not holder[0].ended
        if holder is not None and (holder[0].ended or holder[1] > STALE):
            yield self._stale_lock(holder[0].pid, holder[0].host, holder[1], holder[0].ended)
        found = list(self._all())
        # Where metadata are damaged, what looks left over may be what was committed.
        doubtful = any(f.kind == "damage" and _is_metadata(f.path) for f in found)
        damaged = [f.path for f in found if f.kind == "damage"]
        for finding in found:
            if finding.kind == "cache":
                # Where activations are damaged, their moments may be all that is left of them.
                layer = finding.path.rpartition("/")[0]
                alone = doubtful or any(path.startswith(f"{layer}/") for path in damaged)
                yield dataclasses.replace(finding, action="") if alone else finding
            elif finding.kind != "leftover":
                yield finding
            elif not live:  # what a living writer has begun is no leftover
                yield dataclasses.replace(finding, action="") if doubtful else finding

    def _all(self) -> Iterator[Finding]:
        for key in self.files.partials(self.name):
            yield stray(key)
        if self.run.successors:
            problem = "was compacted by a process that was killed before old values were removed"
            yield Finding("leftover", self.name, problem, "settle")
        yield from self._walk(self.name)
        marker = self.run.array(schema.EPOCH)
        if marker is None:
            if "splits" in self.attributes or len(self.run.documents) > 1:
                yield self.run.damage(
                    schema.EPOCH, "is missing: no epoch can be told to be committed"
                )
            return
        problem = self._read_marker(marker)
        if problem:
            yield self.run.damage(schema.EPOCH, problem)
        elif len(self.run.committed):
            try:
                yield from self._check_contents()
            except DAMAGE as error:
                told(error)
                yield self.run.damage("", f"cannot be checked to the end: {error!r}")
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
        self.run.documents[path] = read_document(self.files, path)
        if self.run.documents[path]["node_type"] == "array":
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
        begun = len(self.run.documents) > 2 or "splits" in self.attributes
        if begun and not self.run.has(schema.EPOCH, "c/0"):
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
        self.run.committed, self.run.length = slots, len(values)
        return ""

    def _check_begun(self) -> Iterator[Finding]:
        """Nothing is committed: everything but the marker is left over from the first epoch."""
        if self.attributes.get("complete"):
            yield self.run.damage("", "is marked complete and holds no epoch")
        top = {path.split("/")[1] for path in self.run.documents if path != self.name}
        for name in sorted(top - {schema.EPOCH}):
            problem = "of a first epoch that was not finished"
            yield Finding("leftover", f"{self.name}/{name}", problem, "remove")

    def _check_contents(self) -> Iterator[Finding]:
        splits: dict[str, Any] = self.attributes["splits"]
        expected: dict[str, tuple[int, ...]] = {schema.EPOCH: (self.run.length,)}
        samplewise, large = [], []
        for split, parts in splits.items():
            for name in (schema.LABEL, schema.SAMPLE):
                samplewise.append(f"{split}/{name}")
                expected[samplewise[-1]] = (parts["samples"],)
            for layer, width in parts["layers"].items():
                if self.run.moments_only:
                    where = f"{split}/{layer}/{schema.MOMENTS}"
                    of = {schema.COUNT: (), schema.MEAN: (width,), schema.COMOMENT: (width, width)}
                    large += [f"{where}/{name}" for name in of]
                    expected.update({f"{where}/{n}": (self.run.length, *s) for n, s in of.items()})
                    continue
                large.append(f"{split}/{layer}/{schema.ACTIVATIONS}")
                expected[large[-1]] = (self.run.length, parts["samples"], width)
        outputs = self.attributes["outputs"]
        if outputs:
            bias, weight = f"{schema.READOUT}/{schema.BIAS}", f"{schema.READOUT}/{schema.WEIGHT}"
            large += [bias, weight]
            expected[bias] = (self.run.length, outputs)
            expected[weight] = (self.run.length, outputs, -1)
        metrics = list(self.attributes["metrics"])
        expected.update({name: (self.run.length,) for name in metrics})

        yield from self._check_presence(set(expected))
        for path, shape in expected.items():
            yield from check_shape(self.run, path, shape)
        for path in metrics:
            yield from check_metric(self.run, path)
        for path in samplewise:
            yield from check_samplewise(self.run, path)
        for path in large:
            yield from check_large(self.run, path)
        yield from self._check_unfinished(large, metrics)
        for path in large:
            if path.endswith(schema.ACTIVATIONS):
                yield from check_cache(self.run, path)

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
            lost = [p for p in above if f"{self.name}/{p}" not in self.run.documents]
            missing.update(dict.fromkeys(lost[:1]))
        for path in missing:
            if not self.run.has(path, DOCUMENT):
                yield self.run.damage(path, "is missing")
        for full in self.run.documents:
            path = full.partition("/")[2]
            if path in known:
                continue
            if "/" not in path and self.run.documents[full]["node_type"] == "array":
                problem = "a metric of an epoch that was not finished"
                yield Finding("leftover", full, problem, "remove")
            else:
                yield Finding("foreign", full, "is no part of a run")

    def _check_unfinished(self, large: list[str], metrics: list[str]) -> Iterator[Finding]:
        """Look for an epoch that was begun and not committed, and for objects beyond the end."""
        committed = set(self.run.committed.tolist())
        begun: set[int] = set()
        for path in large:
            array = self.run.array(path)
            if array is None:
                continue
            names = {name for slot in committed for name in chunk_names(array, slot)}
            # A compaction that was killed leaves names with another separator.
            mine = array.metadata.encode_chunk_key((0,))[:2]
            for name in chunk_files(self.run.sizes(path), array.path):
                if name in names or name.endswith(PARTIAL):
                    continue
                place = re.split("[/.]", name)[1]
                inside = place.isdigit() and int(place) < array.shape[0]
                if name.startswith(mine) and inside and int(place) not in committed:
                    begun.add(int(place))
                elif path not in self.run.successors:  # else it goes as the run is settled
                    yield stray(f"{self.name}/{path}/{name}", "remove")
        for path in metrics:
            array = self.run.array(path)
            if array is not None:
                try:
                    begun |= set(np.flatnonzero(~np.isnan(array[:])).tolist()) - committed
                except DAMAGE as error:
                    told(error)
                    continue  # found already
        for slot in sorted(begun):
            problem = f"slot {slot} holds an epoch that was not finished"
            yield Finding("leftover", self.name, problem, "empty slot", slot)

    def _is_cache(self, path: str) -> bool:
        is_moments = path.count("/") == 3 and path.endswith(f"/{schema.MOMENTS}")
        return is_moments and not self.run.moments_only

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


def _is_metadata(path: str) -> bool:
    return path.endswith(DOCUMENT) or not re.search("/c[/.]", path)
