"""Recordings with known content, and a picture of every byte of a store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import actstore
from actstore import schema
from actstore.storage.writer import RunWriter

SPLITS = {"train": 40, "test": 60}
LAYERS = {"last_hidden": 8}


def one_epoch(
    epoch: int,
    *,
    seed: int = 0,
    splits: Mapping[str, int] = SPLITS,
    layers: Mapping[str, int] = LAYERS,
) -> dict[str, Any]:
    """Return what :meth:`RunWriter.write` takes: other numbers at every epoch and seed."""
    rng = np.random.default_rng([seed, epoch])
    width = layers.get("last_hidden", 8)
    return {
        "activations": {
            split: {
                layer: rng.normal(size=(samples, neurons)).astype("float32")
                for layer, neurons in layers.items()
            }
            for split, samples in splits.items()
        },
        "labels": {split: np.arange(samples) % 10 for split, samples in splits.items()},
        "samples": {split: np.arange(samples)[::-1] for split, samples in splits.items()},
        "readout": (rng.normal(size=(10, width)), rng.normal(size=10)),
        "metrics": {"train_error": rng.random(), "test_loss": rng.random()},
    }


def attributes(*, width: int = 8, seed: int = 0, **hyper_parameters: Any) -> dict[str, Any]:
    """Return the attributes of a run."""
    return schema.run_attributes(
        width=width, seed=seed, model="mlp", dataset="digits", hyper_parameters=hyper_parameters
    )


def record(
    store: Path,
    name: str = "run",
    *,
    epochs: Sequence[int] = (0, 5, 10),
    slots: int | None = None,
    complete: bool = True,
    seed: int = 0,
    splits: Mapping[str, int] = SPLITS,
    layers: Mapping[str, int] = LAYERS,
    **hyper_parameters: Any,
) -> Path:
    """Record a run of known content and return the store's path."""
    width = layers.get("last_hidden", 8)
    writer = RunWriter.create(
        store,
        name,
        slots=slots or len(epochs),
        attributes=attributes(width=width, seed=seed, **hyper_parameters),
    )
    for epoch in epochs:
        writer.write(epoch, **one_epoch(epoch, seed=seed, splits=splits, layers=layers))
    writer.close(complete=complete)
    return store


def contents(store: Path) -> dict[tuple[str, str], xr.Dataset]:
    """Return everything that a store holds of its runs' data, by run and part."""
    runs = actstore.open(store).items()
    readouts = {(name, "readout"): run.readout().compute() for name, run in runs}
    splits = {
        (name, split): run.dataset(split).compute() for name, run in runs for split in run.splits
    }
    return readouts | splits


def assert_same(store: Path, other: Path) -> None:
    """Fail unless two stores hold the same numbers, to the bit."""
    found, expected = contents(store), contents(other)
    assert found.keys() == expected.keys()
    for key, dataset in found.items():
        for name in dataset.variables:
            np.testing.assert_array_equal(dataset[name], expected[key][name], err_msg=f"{key}")


def every_byte(store: Path) -> dict[str, bytes]:
    """Return the content of every file of a store."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }
