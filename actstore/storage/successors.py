"""The arrays that take the place of others, those of a whole run in one step.

A compaction writes the new values of a run beside the old ones, and then says in the document of
the run's group, in the attribute ``successors``, what the ``zarr.json`` of each array is to be.
From that step on, which is one rename on a disk and one request in a bucket, this package opens
the arrays as they are said to be. Their own documents follow, the old values go, and last the
attribute; after a kill, whoever next opens the run for writing does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import StorePath

from actstore.storage.files import Files
from actstore.storage.seal import DOCUMENT, sealed

#: attribute of a run: path of an array below it -> its document, until that is in its place
SUCCESSORS: Final = "successors"


def document_of(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array as it is to be written, with its seal."""
    written: Any = array.metadata.to_buffer_dict(default_buffer_prototype())
    document: dict[str, Any] = json.loads(sealed(written[DOCUMENT].to_bytes()))
    return document


def as_documented(files: Files, path: str, document: Mapping[str, Any]) -> zarr.Array[Any]:
    """Return the array at ``path`` as if this were its ``zarr.json``."""
    metadata = ArrayV3Metadata.from_dict(dict(document))
    return zarr.Array(zarr.AsyncArray(metadata, StorePath(files, path)))


def open_array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    """Return the array at ``path`` below a run, as the document of the run says it is."""
    successors: Any = group.attrs.get(SUCCESSORS, {})
    if path in successors:
        assert isinstance(group.store, Files)
        return as_documented(group.store, f"{group.path}/{path}", successors[path])
    array = group[path]
    assert isinstance(array, zarr.Array)
    return array
