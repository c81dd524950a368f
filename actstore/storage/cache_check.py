"""The checks of cached moments: of which values they are, and whether they are right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr

from actstore import schema
from actstore.errors import ActstoreError, StoreCorruptError
from actstore.kernels.moments import accumulate
from actstore.storage import layout
from actstore.storage.array_check import blocks
from actstore.storage.cache import values_of
from actstore.storage.checked_run import CheckedRun
from actstore.storage.finding import Finding, check_document, told
from actstore.storage.precision import KEEP_BITS
from actstore.storage.reading import (
    DAMAGE,
    Committed,
)


def check_cache(run: CheckedRun, path: str) -> Iterator[Finding]:
    """Check the cached moments of activations."""
    layer = path.rsplit("/", 1)[0]
    cache = f"{run.name}/{layer}/{schema.MOMENTS}"
    if not run.files.has_folder(cache):
        return
    try:
        problem = _problem(run, layer, cache)
    except (*DAMAGE, ActstoreError) as error:
        told(error)
        problem = f"cannot be read: {error!r}"
    if problem:
        yield Finding("cache", cache, problem, "remove")


def _problem(run: CheckedRun, layer: str, cache: str) -> str:
    for name, is_folder in run.files.children(cache):
        if is_folder and any(check_document(run.files, f"{cache}/{name}")):
            return f"{name} has lost its metadata"
    group = zarr.open_group(run.files, path=cache, mode="r", use_consolidated=False)
    created, keep_bits = values_of(group)
    if created != run.attributes.get("created"):
        return "is of an earlier recording"
    if keep_bits != run.attributes.get(KEEP_BITS):
        return "is of the values before they were rounded"
    count = np.asarray(layout.array_of(group, schema.COUNT)[:])
    if len(count) < run.length:
        return f"has {len(count)} slots, and the run has {run.length}"
    held = set(np.flatnonzero(count >= 0).tolist())
    if held - set(run.committed.tolist()):
        return "holds moments of an epoch that is not committed"
    activations = run.array(f"{layer}/{schema.ACTIVATIONS}")
    if activations is None or not run.deep:
        return ""
    for slot in sorted(held):
        mean = np.asarray(layout.array_of(group, schema.MEAN)[slot])
        comoment = np.asarray(layout.array_of(group, schema.COMOMENT)[slot])
        try:
            true = accumulate(blocks(Committed(activations, run.files.place), slot))
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
