"""A run that is being checked: what its documents say, as far as they could be read."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import zarr

from actstore import schema
from actstore.storage.files import Files
from actstore.storage.finding import Finding
from actstore.storage.successors import SUCCESSORS, as_documented


class CheckedRun:
    """What the checks of one run know of it.

    Parameters
    ----------
    files : Files
        The store's.
    name : str
    attributes : dict
        Of the run's group.
    deep : bool
        Whether every value is to be read.

    Attributes
    ----------
    documents : dict
        The ``zarr.json`` of every group and array that has a whole one, by path.
    successors : dict
        See :mod:`actstore.storage.successors`.
    moments_only : bool
    committed : (epoch,) int64
        Slots of committed epochs.
    length : int
        Of the marker.
    """

    def __init__(self, files: Files, name: str, attributes: dict[str, Any], *, deep: bool) -> None:
        self.files, self.name, self.attributes, self.deep = files, name, attributes, deep
        self.documents: dict[str, dict[str, Any]] = {}
        self.successors: dict[str, Any] = attributes.get(SUCCESSORS, {})
        self.moments_only = schema.ACTIVATIONS not in schema.kept(attributes)
        self.committed = np.empty(0, "int64")
        self.length = 0
        self._arrays: dict[str, zarr.Array[Any] | None] = {}
        self.sizes = functools.cache(lambda path: files.sizes(f"{name}/{path}"))

    def array(self, path: str) -> zarr.Array[Any] | None:
        """Return an array of the run; None if its document is lost, which is a finding itself."""
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

    def has(self, path: str, name: str) -> bool:
        """Return whether there is a file of this name below a path of the run."""
        return self.files.has(f"{self.name}/{path}/{name}")

    def damage(self, path: str, problem: str) -> Finding:
        """Return the finding that something of the run is damaged."""
        return Finding("damage", f"{self.name}/{path}".rstrip("/"), problem)
