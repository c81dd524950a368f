"""Moments of an epoch read from a store, against the slower of reading it and multiplying it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from scipy.linalg import blas
from threadpoolctl import threadpool_limits

from actstore.storage.cache import Leaf, load_moments
from actstore.testing import planted_layer

from .curves import record
from .timing import Row, once, seconds

ROUNDS = 9


def rows() -> list[Row]:
    """Time an epoch of 20,000 x 512 and of 50,000 x 256, from the disk and from memory."""
    found = []
    for samples, width in ((20_000, 512), (50_000, 256)):
        x = planted_layer(samples=samples, width=width, signals=10, seed=0)
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            store = record(Path(folder) / "store.zarr", x)
            found += [_row(store, x, cold=cold) for cold in (True, False)]
    return found


def _row(store: Path, x: np.ndarray, *, cold: bool) -> Row:
    """Read, multiply and do both by turns, for the machine is not as fast at all times."""
    run = f"width={x.shape[1]},seed=0"
    files = [f for f in (store / run / "test").rglob("*") if f.is_file() and "c" in f.parts]
    leaf = Leaf(str(store), run, "test", "last_hidden", "")
    load_moments(leaf, 0, cache=False)
    whole = x.astype(np.float64).T  # Fortran order
    products = np.zeros((len(whole), len(whole)), order="F")
    turns = []
    for _ in range(ROUNDS):
        for file in files if cold else ():
            _forget(file)
        read = once([lambda: [f.read_bytes() for f in files]]).wall
        multiply = once([lambda: blas.dsyrk(1.0, whole, c=products, lower=1, overwrite_c=1)]).wall
        for file in files if cold else ():
            _forget(file)
        ours = once([lambda: load_moments(leaf, 0, cache=False)])
        turns.append((max(read, multiply) / ours.wall, read, multiply, ours))
    share, read, multiply, ours = sorted(turns, key=lambda turn: turn[0])[ROUNDS // 2]
    job = f"moments of {len(x):,} x {x.shape[1]}, {'cold' if cold else 'warm'}"
    reference = f"read {read:.2g} s, dsyrk {multiply:.2g} s"
    by_cpu = max(read, multiply) / ours.cpu
    return Row(job, seconds(ours), reference, share, by_cpu, ">= 0.8", share >= 0.8)


def _forget(file: Path) -> None:
    """Ask the system to drop a file from its cache, where it can be asked."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
