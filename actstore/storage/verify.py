"""Looking for damage: what a store holds against what it says it holds.

Nothing is changed here; :mod:`actstore.storage.repair` acts on what is found.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from actstore import schema
from actstore.storage.cleaning import is_remains
from actstore.storage.files import AT_ONCE, Entry, Files
from actstore.storage.finding import Finding, check_document, read_document, stray, told
from actstore.storage.location import StorePath, files_at, open_root
from actstore.storage.progress import Progress
from actstore.storage.reading import DAMAGE, RUN_ATTRIBUTES
from actstore.storage.run_check import RunCheck
from actstore.storage.seal import DOCUMENT, SEAL


def verify(
    store: StorePath, *, deep: bool = False, progress: Progress | None = None
) -> list[Finding]:
    """Return what is damaged, left over or foreign in a store; nothing is changed.

    Parameters
    ----------
    store : str or path
    deep : bool
        Whether to read every committed value (checksums, NaN, infinity) and to compute cached
        moments anew. Without it the structure, the metadata, the small arrays and the presence
        of every shard and chunk are checked.
    progress : callable, optional
        Is told how many runs are done, and of how many.

    Raises
    ------
    StoreNotFoundError, StoreFormatError, StoreCorruptError
        If it cannot be opened at all.
    """
    open_root(store)
    files = files_at(store, read_only=True)
    found = list(check_document(files, ""))
    check = functools.partial(_check_entry, files, deep=deep)
    entries = files.children("")
    with ThreadPoolExecutor(4 if deep else AT_ONCE) as checkers:  # each may hold a block of values
        checked = map(check, entries) if "://" not in files.place else checkers.map(check, entries)
        for done, findings in enumerate(checked, start=1):
            found += findings
            if progress is not None:
                progress(done, len(entries))
    return found


def _check_entry(files: Files, entry: Entry, *, deep: bool) -> list[Finding]:
    name, is_folder = entry
    if name == DOCUMENT:
        return []
    if not is_folder:
        return [stray(name)]
    files.remember(name)
    if is_remains(files, name):
        problem = "remains of a run that was removed or never begun"
        return [Finding("leftover", name, problem, "remove")]
    return list(_check_member(files, name, deep=deep))


def _check_member(files: Files, name: str, *, deep: bool) -> Iterator[Finding]:
    broken = list(check_document(files, name))
    looks_like_a_run = files.has_folder(f"{name}/{schema.EPOCH}")
    try:
        document = read_document(files, name)
        attributes = document["attributes"]
        is_group = document["node_type"] == "group"
    except (ValueError, OSError, KeyError, TypeError) as error:
        told(error)
        yield from broken
        return
    if broken and (looks_like_a_run or SEAL in attributes):
        yield from broken
    elif is_group and attributes.keys() >= RUN_ATTRIBUTES:
        found = list(RunCheck(files, name, attributes, deep=deep).findings())
        if any(finding.kind == "damage" for finding in found):
            now = files_at(files.place, read_only=True)  # which remembers nothing
            if _revised(now, name) != attributes.get("revised"):  # compacted while it was checked
                found = list(_check_member(now, name, deep=deep))
        yield from found
    elif looks_like_a_run:
        yield Finding("damage", name, "has lost the attributes that make it a run")
    # else a group of the user's own


def _revised(files: Files, run: str) -> object:
    try:
        return read_document(files, run)["attributes"].get("revised")
    except DAMAGE as error:
        return told(error)
