"""A checksum inside every ``zarr.json``, so that damaged metadata are noticed as damaged data are.

The chunks carry a crc32c each; without a seal, a flipped bit in an attribute (a width, a
weight decay) or in a fill value would change answers silently. The seal is the attribute
``metadata_crc32c``: crc32c, as eight hexadecimal digits, of the document without that
attribute, without consolidated metadata and without the length of its ``epoch`` axis (which
changes when a run is closed and is checked against the run's other arrays), written as JSON
with sorted keys and without spaces. A group without attributes has no seal: nothing in it
can be damaged but what makes it a group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import google_crc32c

from actstore import schema

SEAL: Final = "metadata_crc32c"
DOCUMENT: Final = "zarr.json"
EMPTY_GROUP: Final = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def seal_of(document: Mapping[str, Any]) -> str:
    """Return the checksum of a ``zarr.json`` document.

    Examples
    --------
    >>> seal_of({"zarr_format": 3, "node_type": "group", "attributes": {}})
    '120910e2'
    """
    kept = {key: value for key, value in document.items() if key != "consolidated_metadata"}
    attributes = {k: v for k, v in kept.get("attributes", {}).items() if k != SEAL}
    kept["attributes"] = attributes
    names, shape = kept.get("dimension_names") or [], kept.get("shape")
    if names[:1] == [schema.EPOCH] and isinstance(shape, list):  # not so where bits were flipped
        kept["shape"] = shape[1:]
    return checksum(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())


def sealed(document: bytes) -> bytes:
    """Return a ``zarr.json`` with its seal brought up to date."""
    parsed: dict[str, Any] = json.loads(document)
    attributes = {k: v for k, v in parsed.get("attributes", {}).items() if k != SEAL}
    if attributes or parsed != EMPTY_GROUP:
        parsed["attributes"] = {**attributes, SEAL: seal_of(parsed)}
    return json.dumps(parsed, indent=2).encode()


def is_intact(document: Mapping[str, Any]) -> bool:
    """Return whether a parsed ``zarr.json`` is as actstore wrote it."""
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        return False
    return document == EMPTY_GROUP or attributes.get(SEAL) == seal_of(document)


def checksum(data: bytes) -> str:
    """Return the crc32c of some bytes as eight hexadecimal digits.

    Examples
    --------
    >>> checksum(b"123456789")
    'e3069283'
    """
    return f"{google_crc32c.value(data):08x}"
