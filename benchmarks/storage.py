"""Writing and reading an epoch of 20 MB, against the bare file, and what each codec is worth.

The aim is that of writing with checksums and without compression. Compression is chosen where it
saves bytes enough (layers with many zeros, rounded values), and costs what the table shows.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import zarr

import actstore
from actstore import schema
from actstore.storage import layout
from actstore.storage.local import LocalFiles
from actstore.storage.precision import round_mantissa
from actstore.storage.shards import write_epoch
from actstore.storage.slab import read_slab
from actstore.storage.writer import RunWriter
from actstore.testing import planted_layer

from .timing import Row, Times, once, seconds

SAMPLES, WIDTH, EPOCHS = 10_000, 512, 9

CODECS: dict[str, layout.Kind] = {"none": "dense", "lz4 + bitshuffle": "even", "zstd": "sparse"}


def rows() -> list[Row]:
    """Time the write and read path, and codecs, on dense, on sparse and on rounded activations."""
    dense = planted_layer(samples=SAMPLES, width=WIDTH, signals=10, seed=0)
    sparse = np.maximum(dense - np.quantile(dense, 0.5), 0).astype(np.float32)
    kinds = {"dense": dense, "half zeros": sparse, "rounded to 10 bits": round_mantissa(dense, 10)}
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        found = _paths(where, dense, "dense", aim=0.5) + _paths(where, sparse, "half zeros", aim=0)
        for kind, x in kinds.items():
            found += _codecs(where, x, kind)
    return found


def _paths(where: Path, x: np.ndarray, kind: str, *, aim: float) -> list[Row]:
    store = where / f"{kind}.zarr"
    found = []
    for durable in (False, True):
        name = schema.run_name(WIDTH, int(durable), {})
        writer = RunWriter.create(
            store, name, slots=EPOCHS + 1, durable=durable,
            attributes=schema.run_attributes(width=WIDTH, seed=int(durable)),
        )  # fmt: skip
        _epoch(writer, x, 0)()  # makes the arrays, once a run
        raw, ours = _in_turns(
            [_raw(where / f"raw{k}", x) for k in range(EPOCHS)],
            [_epoch(writer, x, k) for k in range(1, EPOCHS + 1)],
        )
        writer.close(complete=True)
        job = f"write 20 MB {kind}{', durable' if durable else ''}"
        share = raw.wall / ours.wall
        text = f">= {aim}" if aim else ""
        found.append(Row(job, seconds(ours), f"file + fsync {seconds(raw)}", share,
                         raw.cpu / ours.cpu, text, share >= aim))  # fmt: skip
    lazy = actstore.open(store).sel(seed=0).only().dataset().activations
    bare, read = _in_turns(
        [lambda k=k: np.fromfile(where / f"raw{k}", "f4") for k in range(EPOCHS)],
        [lambda k=k: lazy[k].compute(scheduler="synchronous") for k in range(EPOCHS)],
    )
    found.append(Row(f"read 20 MB {kind}", seconds(read), f"file {seconds(bare)}",
                     bare.wall / read.wall, bare.cpu / read.cpu, "", True))  # fmt: skip
    return found


def _codecs(where: Path, x: np.ndarray, kind: str) -> list[Row]:
    """Compare codecs on the same path: what compression costs and saves."""
    group = zarr.create_group(LocalFiles(where / f"codecs {kind}.zarr"), zarr_format=3)
    found: list[Row] = []
    times: dict[str, Times] = {}
    for name, codec in CODECS.items():
        array = group.create_array(
            name, shape=(EPOCHS, SAMPLES, WIDTH), shards=(1, SAMPLES, WIDTH),
            chunks=(1, 2000, 256), dtype="float32", compressors=layout.codecs(codec),
        )  # fmt: skip
        writing = once([functools.partial(write_epoch, array, k, x) for k in range(EPOCHS)])
        reading = once([functools.partial(read_slab, array, k, 0, SAMPLES) for k in range(EPOCHS)])
        times[name] = both = writing + reading
        size = (where / f"codecs {kind}.zarr" / name / "c" / "0" / "0" / "0").stat().st_size
        plain = times["none"]
        found.append(Row(
            f"codec {name}, {kind}: {x.nbytes / size:.2f} x smaller",
            f"write {seconds(writing)}, read {seconds(reading)}", "no codec",
            plain.wall / both.wall, plain.cpu / both.cpu, "", True,
        ))  # fmt: skip
    return found


def _in_turns(
    references: list[Callable[[], object]], calls: list[Callable[[], object]]
) -> tuple[Times, Times]:
    """Time two series of calls, one of each in turn: a disk has better and worse times."""
    pairs = [(once([one]), once([other])) for one, other in zip(references, calls, strict=True)]
    halves = [[pair[k] for pair in pairs] for k in (0, 1)]
    first, second = (
        Times(median(t.wall for t in half), median(t.cpu for t in half)) for half in halves
    )
    return first, second


def _raw(path: Path, x: np.ndarray) -> Callable[[], None]:
    def write() -> None:
        with open(path, "wb") as file:
            x.tofile(file)
            file.flush()
            os.fsync(file.fileno())

    return write


def _epoch(writer: RunWriter, x: np.ndarray, epoch: int) -> Callable[[], None]:
    labels = np.arange(SAMPLES) % 10

    def write() -> None:
        writer.write(epoch, {"test": {"last_hidden": x}}, labels={"test": labels},
                     metrics={"train_error": 0.0})  # fmt: skip

    return write
