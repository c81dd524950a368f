"""Writing and reading an epoch of 20 MB, against the bare file, and what each codec is worth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

import actstore
from actstore import schema
from actstore.storage.writer import RunWriter
from actstore.testing import planted_layer

from .timing import Row, once, seconds

SAMPLES, WIDTH, EPOCHS = 10_000, 512, 9

CODECS = {
    "none": [],
    "lz4": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
    "zstd": [ZstdCodec(level=1)],
}


def rows() -> list[Row]:
    """Time the write and read path on dense activations and on those after a ReLU, and codecs."""
    dense = planted_layer(samples=SAMPLES, width=WIDTH, signals=10, seed=0)
    sparse = np.maximum(dense - 0.5 * dense.std(), 0).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        return [
            *_paths(where, dense, "dense"),
            *_paths(where, sparse, "after a ReLU"),
            *_codecs(where, dense, "dense"),
            *_codecs(where, sparse, "after a ReLU"),
        ]


def _paths(where: Path, x: np.ndarray, kind: str) -> list[Row]:
    raw = once([_raw(where / f"raw{k}", x) for k in range(EPOCHS)])
    store = where / f"{kind}.zarr"
    found = []
    for durable in (False, True):
        name = schema.run_name(WIDTH, int(durable), {})
        writer = RunWriter.create(
            store, name, slots=EPOCHS + 1, durable=durable,
            attributes=schema.run_attributes(width=WIDTH, seed=int(durable)),
        )  # fmt: skip
        _epoch(writer, x, 0)()  # makes the arrays, once a run
        ours = once([_epoch(writer, x, k) for k in range(1, EPOCHS + 1)])
        writer.close(complete=True)
        job = f"write 20 MB {kind}{', durable' if durable else ''}"
        share = raw.wall / ours.wall
        met = share >= 0.5
        found.append(Row(job, seconds(ours), f"file + fsync {seconds(raw)}", share,
                         raw.cpu / ours.cpu, ">= 0.5", met))  # fmt: skip
    run = actstore.open(store).sel(seed=0).only()
    lazy = run.dataset().activations
    bare = once([lambda k=k: (where / f"raw{k}").read_bytes() for k in range(EPOCHS)])
    read = once([lambda k=k: lazy[k].compute(scheduler="synchronous") for k in range(EPOCHS)])
    found.append(Row(f"read 20 MB {kind}", seconds(read), f"file {seconds(bare)}",
                     bare.wall / read.wall, bare.cpu / read.cpu, "", True))  # fmt: skip
    return found


def _codecs(where: Path, x: np.ndarray, kind: str) -> list[Row]:
    """Compare codecs through zarr's own pipeline: what compression costs and saves."""
    found = []
    times: dict[str, Any] = {}
    for name, codec in CODECS.items():
        group = zarr.create_group(where / f"{kind}-{name}.zarr", zarr_format=3)
        array = group.create_array(
            "x", shape=(EPOCHS, SAMPLES, WIDTH), shards=(1, SAMPLES, WIDTH),
            chunks=(1, 2000, 256), dtype="float32", compressors=[*codec, Crc32cCodec()],
        )  # fmt: skip
        writing = once([_put(array, k, x) for k in range(EPOCHS)])
        reading = once([lambda k=k, a=array: a[k] for k in range(EPOCHS)])
        times[name] = writing
        size = (where / f"{kind}-{name}.zarr" / "x" / "c" / "0" / "0" / "0").stat().st_size
        plain = times["none"]
        found.append(Row(
            f"codec {name}, {kind}: {x.nbytes / size:.2f} x smaller",
            f"write {seconds(writing)}, read {seconds(reading)}", "no codec",
            plain.wall / writing.wall, plain.cpu / writing.cpu, "", True,
        ))  # fmt: skip
    return found


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


def _put(array: Any, epoch: int, x: np.ndarray) -> Callable[[], None]:
    def write() -> None:
        array[epoch] = x

    return write
