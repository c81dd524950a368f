"""Copying the runs of other stores into one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import zarr

from actstore import schema
from actstore.errors import (
    ActstoreError,
    InvalidParameterError,
    RunExistsError,
    RunLockedError,
    StoreCorruptError,
    StoreWriteError,
)
from actstore.storage import layout
from actstore.storage.catalogue import Catalogue
from actstore.storage.cleaning import delete_run, files_of_group, is_remains
from actstore.storage.files import PARTIAL, Files
from actstore.storage.finding import read_document
from actstore.storage.location import StorePath, files_at, open_or_create_root
from actstore.storage.lock import RunLock, lock_state
from actstore.storage.progress import Counter, Progress
from actstore.storage.reading import is_run, member
from actstore.storage.run import Run
from actstore.storage.run_check import RunCheck
from actstore.storage.seal import DOCUMENT, sealed

#: what to do about a run that both stores hold, if they differ
Existing: TypeAlias = Literal["error", "skip", "overwrite"]

#: outcomes of runs whose files are copied
_COPIED = ("copied", "replaced")

#: attributes that a run gets with its first epoch; without them it has only begun
_CONTENTS = ("splits", "outputs", "metrics")


@dataclasses.dataclass(frozen=True)
class Merged:
    """What became of one run.

    Attributes
    ----------
    store, run : str
        Where it comes from, and its name.
    outcome : {"copied", "replaced", "same", "skipped", "empty"}
        ``replaced``: by other contents, or by a later state of the same recording; ``same``: both
        stores hold it; ``empty``: it holds no epoch.
    """

    store: str
    run: str
    outcome: str


def merge(
    store: StorePath,
    others: Sequence[StorePath],
    *,
    existing: Existing = "error",
    progress: Progress | None = None,
) -> list[Merged]:
    """Copy all runs of other stores into ``store``, which is made if there is none.

    Every run is checked before the first is copied, and each appears whole or not at all: its
    marker is copied last. Runs of the same name and content are left as they are.

    Parameters
    ----------
    store : str or path
    others : sequence of str or path
    existing : {"error", "skip", "overwrite"}
        What to do about a run of the same name that differs.
    progress : callable, optional
        Called with how many bytes were copied so far, and how many there are to copy.

    Raises
    ------
    RunExistsError
        If stores hold different runs of one name, and ``existing`` is ``"error"``; nothing is
        then copied.
    StoreCorruptError
        If a run of the others is damaged; nothing is then copied.
    RunLockedError
        If a run is being written.
    StoreWriteError
        If the disk refuses; runs copied before are whole, and of this one nothing is visible.
    """
    where = os.fspath(store)
    if existing not in ("error", "skip", "overwrite"):
        raise InvalidParameterError(f"existing={existing!r}; expected error, skip or overwrite")
    for other in others:
        if _same_place(other, store):
            raise InvalidParameterError(f"{where!r} was given twice; merge it with other stores")
    runs = [run for other in others for run in Catalogue(other).values()]
    for run in runs:
        _check_source(run)
    planned = list(_plan(where, runs, existing))
    root = open_or_create_root(store)
    copied = [run for run, outcome in planned if outcome in _COPIED]
    told = Counter(0 if progress is None else sum(map(_bytes, copied)), progress)
    for run, outcome in planned:
        if outcome in _COPIED:
            try:
                _copy(run, root, where, told, replace=outcome == "replaced")
            except ActstoreError:  # some are an OSError too
                raise
            except OSError as error:
                raise StoreWriteError(
                    f"run {run.name!r} of {run.path!r} could not be copied to {where!r} "
                    f"({error.strerror or error}); mend the disk and merge again"
                ) from error
    return [Merged(run.path, run.name, outcome) for run, outcome in planned]


def _bytes(run: Run) -> int:
    """Return how much there is to copy: its marker and its own metadata are written."""
    own = (f"{run.name}/{DOCUMENT}", f"{run.name}/{schema.EPOCH}/")
    sizes = files_at(run.path, read_only=True).sizes(run.name)
    return sum(n for key, n in sizes.items() if not key.startswith(own))


def _check_source(run: Run) -> None:
    files = files_at(run.path, read_only=True)
    holder = lock_state(files, run.name)
    if holder is not None and not holder[0].ended:
        raise RunLockedError(
            f"run {run.name!r} of {run.path!r} is being written by process {holder[0].pid} on "
            f"{holder[0].host}; wait for it, or end it"
        )
    attributes = read_document(files, run.name)["attributes"]
    for finding in RunCheck(files, run.name, attributes, deep=False).findings():
        if finding.kind == "damage":
            raise StoreCorruptError(
                f"run {run.name!r} of {run.path!r} is damaged ({finding}); "
                f"'actstore verify {run.path}' lists all, and 'actstore rm' takes it out"
            )


def _plan(where: str, runs: Iterable[Run], existing: Existing) -> Iterator[tuple[Run, str]]:
    """Say what is to become of each run; names that meet another one count as held."""
    held: dict[str, Run] = {}
    if files_at(where, read_only=True).has(DOCUMENT):
        held = {name: run for name, run in Catalogue(where).items() if len(run.committed)}
    for run in runs:
        twin = held.get(run.name)
        if not len(run.committed):
            yield run, "empty"
        elif twin is None:
            held[run.name] = run
            yield run, "copied"
        elif _is_one_recording(run, twin):
            longer = _progress(run) > _progress(twin)
            held[run.name] = run if longer else twin
            yield run, "replaced" if longer else "same"
        elif existing == "error":
            raise RunExistsError(
                f"{run.path!r} and {twin.path!r} hold different runs called {run.name!r}; choose "
                "existing='skip' or 'overwrite' (--existing), or take one out with 'actstore rm'"
            )
        else:
            held[run.name] = run if existing == "overwrite" else twin
            yield run, "replaced" if existing == "overwrite" else "skipped"


def _is_one_recording(one: Run, other: Run) -> bool:
    """Whether two runs are one recording, of which one may have been copied before it ended."""
    # Two recordings never begin in the same microsecond with the same settings.
    keys = ("created", "revised", "keep", "width", "seed", "hyper_parameters")
    short, long = sorted((one, other), key=_progress)
    return all(one.attrs.get(key) == other.attrs.get(key) for key in keys) and set(
        short.committed
    ) <= set(long.committed)


def _progress(run: Run) -> tuple[int, bool]:
    return len(run.committed), run.complete


def _copy(
    run: Run, root: zarr.Group, store: str, told: Callable[[int], None], *, replace: bool
) -> None:
    """Copy a run as a writer would write it: begun, its arrays, its contents, its marker."""
    source, target = files_at(run.path, read_only=True), files_of_group(root)
    held = is_run(member(root, run.name, store))
    if target.has_folder(run.name):
        lock = RunLock.acquire(target, run.name)
        try:
            if held and not replace and len(Catalogue(store)[run.name].committed):
                raise RunExistsError(f"run {run.name!r} has just been written by another process")
            if not held and not is_remains(target, run.name):
                raise RunExistsError(
                    f"{store!r} holds something else called {run.name!r}; move it away"
                )
            delete_run(root, run.name)
        finally:
            lock.release()
    name = f"{run.name}/{DOCUMENT}"
    document: dict[str, Any] = json.loads(source.read(name))
    whole = sealed(json.dumps(document).encode())
    attributes = document["attributes"]
    begun = {k: v for k, v in attributes.items() if k not in _CONTENTS} | {"complete": False}
    target.create(name, sealed(json.dumps({**document, "attributes": begun}).encode()))
    lock = RunLock.acquire(target, run.name)
    try:
        group = root[run.name]
        assert isinstance(group, zarr.Group)
        # A trimmed marker's chunk is longer than the marker: its own metadata, not new ones.
        marker = f"{run.name}/{schema.EPOCH}"
        _copy_file(source, target, f"{marker}/{DOCUMENT}")
        layout.make_marker(group, slots=int(run.array(schema.EPOCH).shape[0]))
        for folder, is_folder in source.children(run.name):
            if is_folder and folder != schema.EPOCH:
                _copy_tree(source, target, f"{run.name}/{folder}", told)
        unfinished = {**attributes, "complete": False}
        target.put(name, [sealed(json.dumps({**document, "attributes": unfinished}).encode())])
        _copy_file(source, target, f"{marker}/c/0")
        target.put(name, [whole])
    except BaseException:
        with contextlib.suppress(OSError):  # what cannot be removed is left over, and not seen
            delete_run(root, run.name)
        raise
    finally:
        lock.release()


def _copy_tree(source: Files, target: Files, folder: str, told: Callable[[int], None]) -> None:
    for key, size in sorted(source.sizes(folder).items()):
        if not key.endswith(PARTIAL):
            _copy_file(source, target, key)
            told(size)


def _copy_file(source: Files, target: Files, key: str) -> None:
    target.put(key, [source.read(key)])


def _same_place(one: StorePath, other: StorePath) -> bool:
    places = {files_at(path, read_only=True).place for path in (one, other)}
    return len({place if "://" in place else os.path.realpath(place) for place in places}) == 1
