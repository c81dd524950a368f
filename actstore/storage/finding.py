"""What a check of a store finds: one thing that is not as it should be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from actstore.errors import StoreUnreachableError
from actstore.storage.files import PARTIAL, Files
from actstore.storage.seal import DOCUMENT, is_intact

#: damage: committed values are lost or wrong · leftover: what a killed writer left and no reader
#: sees · cache: moments that can be computed anew · foreign: nothing that actstore wrote
Kind: TypeAlias = Literal["damage", "leftover", "cache", "foreign"]

#: what repair does about it: nothing, remove the object, empty a slot, give arrays one length, put
#: rounded arrays in their place
Action: TypeAlias = Literal["", "remove", "empty slot", "even lengths", "settle"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    kind : str
        ``damage``, ``leftover``, ``cache`` or ``foreign``.
    path : str
        The object, relative to the store.
    problem : str
    action : str
        What :func:`actstore.storage.repair.repair` does about it; empty for nothing.
    slot : int
        For the action ``empty slot``.
    """

    kind: Kind
    path: str
    problem: str
    action: Action = ""
    slot: int = -1

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.problem}"

    @property
    def run(self) -> str:
        """Name of the run that it concerns, or empty for the store itself."""
        return self.path.partition("/")[0]

    @property
    def harmless(self) -> bool:
        """Whether every committed value can still be read as it was written."""
        return self.kind in ("leftover", "cache")


def check_document(files: Files, path: str) -> Iterator[Finding]:
    """Check the ``zarr.json`` of one group or array."""
    where = f"{path}/{DOCUMENT}".lstrip("/")
    try:
        document = read_document(files, path)
    except (FileNotFoundError, NotADirectoryError):
        yield Finding("damage", where, "is missing: what lies below is lost to readers")
        return
    except (ValueError, OSError) as error:
        yield Finding("damage", where, f"cannot be read: {told(error)}")
        return
    if not isinstance(document, dict) or not is_intact(document):
        yield Finding("damage", where, "does not match its checksum: damaged, or edited by hand")


def read_document(files: Files, path: str) -> dict[str, Any]:
    """Return the parsed ``zarr.json`` of a group or array."""
    document: dict[str, Any] = json.loads(files.read(f"{path}/{DOCUMENT}".lstrip("/")))
    return document


def told(error: Exception) -> str:
    """Return what is to be said of bytes that could not be read.

    Raises
    ------
    StoreUnreachableError
        If there was no answer: that is no damage, and ends the check.
    """
    if isinstance(error, StoreUnreachableError):
        raise error
    return str(error)


def stray(path: str, action: Action = "") -> Finding:
    """Return what is to be said of a file that belongs to no array."""
    if path.endswith(PARTIAL):
        return Finding("leftover", path, "half written by a writer that was killed", "remove")
    if action:
        return Finding("leftover", path, "lies beyond the end of its array", action)
    return Finding("foreign", path, "is no part of a store")
