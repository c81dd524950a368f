"""Looking for damage: what a store holds against what it says it holds.

Nothing is changed here; :mod:`actstore.storage.repair` acts on what is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from actstore import schema
from actstore.storage.cleaning import is_remains
from actstore.storage.finding import Finding, check_document, read_document, stray
from actstore.storage.location import StorePath, open_root
from actstore.storage.reading import RUN_ATTRIBUTES
from actstore.storage.run_check import RunCheck
from actstore.storage.seal import DOCUMENT, SEAL


def verify(store: StorePath, *, deep: bool = False) -> list[Finding]:
    """Return what is damaged, left over or foreign in a store; nothing is changed.

    Parameters
    ----------
    store : str or path
    deep : bool
        Whether to read every committed value (checksums, NaN, infinity) and to compute cached
        moments anew. Without it the structure, the metadata, the small arrays and the presence
        of every shard and chunk are checked.

    Raises
    ------
    StoreNotFoundError, StoreFormatError, StoreCorruptError
        If it cannot be opened at all.
    """
    open_root(store)
    folder = Path(os.fspath(store))
    found = list(check_document(folder, ""))
    for entry in sorted(folder.iterdir()):
        name = entry.name
        if name == DOCUMENT:
            continue
        if not entry.is_dir():
            found.append(stray(name))
        elif is_remains(entry):
            problem = "remains of a run that was removed or never begun"
            found.append(Finding("leftover", name, problem, "remove"))
        else:
            found.extend(_check_member(folder, name, deep=deep))
    return found


def _check_member(folder: Path, name: str, *, deep: bool) -> Iterator[Finding]:
    broken = list(check_document(folder, name))
    looks_like_a_run = (folder / name / schema.EPOCH).exists()
    try:
        document = read_document(folder, name)
        attributes = document["attributes"]
        is_group = document["node_type"] == "group"
    except (ValueError, OSError, KeyError, TypeError):
        yield from broken
        return
    if broken and (looks_like_a_run or SEAL in attributes):
        yield from broken
    elif is_group and attributes.keys() >= RUN_ATTRIBUTES:
        yield from RunCheck(folder, name, attributes, deep=deep).findings()
    elif looks_like_a_run:
        yield Finding("damage", name, "has lost the attributes that make it a run")
    # else a group of the user's own
