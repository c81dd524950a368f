"""Moments of an epoch read from a store, against the slower of reading it and multiplying it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from actstore.storage.cache import Leaf, load_moments
from actstore.testing import planted_layer

from .curves import record
from .timing import Row, Times, dsyrk_rate, once, seconds


def rows() -> list[Row]:
    """Time an epoch of 20,000 x 512 and of 50,000 x 256, from the disk and from memory."""
    found = []
    for samples, width in ((20_000, 512), (50_000, 256)):
        x = planted_layer(samples=samples, width=width, signals=10, seed=0)
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            store = record(Path(folder) / "store.zarr", x)
            rate = dsyrk_rate(width)
            for cold in (True, False):
                found.append(_row(store, x, rate, cold=cold))
    return found


def _row(store: Path, x: np.ndarray, rate: float, *, cold: bool) -> Row:
    run = f"width={x.shape[1]},seed=0"
    files = [f for f in (store / run / "test").rglob("*") if f.is_file() and "c" in f.parts]
    leaf = Leaf(str(store), run, "test", "last_hidden", "")
    read = _each(files, lambda: [f.read_bytes() for f in files], cold)
    ours = _each(files, lambda: load_moments(leaf, 0, cache=False), cold)
    multiply = len(x) * x.shape[1] ** 2 / rate
    floor = max(read.wall, multiply)
    share = floor / min(ours.wall, ours.cpu if not cold else ours.wall)
    job = f"moments of {len(x):,} x {x.shape[1]}, {'cold' if cold else 'warm'}"
    reference = f"read {read.wall:.2g} s, dsyrk {multiply:.2g} s"
    return Row(job, seconds(ours), reference, floor / ours.wall, share, ">= 0.8", share >= 0.8)


def _each(files: list[Path], call: object, cold: bool) -> Times:
    assert callable(call)

    def calls() -> Times:
        if cold:
            for file in files:
                _forget(file)
        return once([call])

    call()
    times = [calls() for _ in range(5)]
    return sorted(times, key=lambda t: t.wall)[2]


def _forget(file: Path) -> None:
    """Ask the system to drop a file from its cache, where it can be asked."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
