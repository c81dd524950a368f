"""A store whose clones are known: what the tests of queries and of the command line ask."""

from pathlib import Path
from typing import Any

import numpy as np

from actstore import schema
from actstore.storage.writer import RunWriter
from actstore.testing import planted_clones

from .recordings import attributes

CLONE_SIZE = 4
SAMPLES = {"train": 120, "test": 200}
EPOCHS = (0, 5, 10)
SEEDS = (0, 1)
#: with weight decay every clone has 4 neurons; without it no neuron tells of another
WIDTHS = {0.005: (8, 16, 32, 64), 0.0: (8, 16, 32)}
THRESHOLD = 0.9


def activations(width: int, weight_decay: float, seed: int, epoch: int, split: str) -> Any:
    """Return one layer ``(sample, neuron)``: clones after training with weight decay, else none."""
    samples = SAMPLES[split]
    if weight_decay and epoch == EPOCHS[-1]:
        # one seed for all the splits of a run: the splits are samples of the same clones
        x, _ = planted_clones(
            samples=sum(SAMPLES.values()), clones=width // CLONE_SIZE, clone_size=CLONE_SIZE,
            noise=0.1, seed=seed,
        )  # fmt: skip
        return x[:samples] if split == "train" else x[-samples:]
    rng = np.random.default_rng([width, seed, epoch, samples])
    return rng.normal(size=(samples, width)).astype("float32")


def record_planted(store: Path) -> Path:
    """Record all runs: two weight decays, their widths, two seeds, three epochs, two splits."""
    for weight_decay, widths in WIDTHS.items():
        for width in widths:
            for seed in SEEDS:
                record_run(store, width=width, seed=seed, weight_decay=weight_decay)
    return store


def record_run(store: Path, *, width: int, seed: int, weight_decay: float, **others: Any) -> None:
    """Record one run with what a sweep would record: readout, labels, errors and losses."""
    rng = np.random.default_rng([width, seed])
    name = schema.run_name(width, seed, {"weight_decay": weight_decay})
    writer = RunWriter.create(
        store, name, slots=len(EPOCHS),
        attributes=attributes(width=width, seed=seed, weight_decay=weight_decay, **others),
    )  # fmt: skip
    for epoch in EPOCHS:
        writer.write(
            epoch,
            {
                split: {"last_hidden": activations(width, weight_decay, seed, epoch, split)}
                for split in SAMPLES
            },
            labels={split: np.arange(samples) % 3 for split, samples in SAMPLES.items()},
            readout=(rng.normal(size=(3, width)), rng.normal(size=3)),
            metrics={
                "train_error": 0.6 - 0.06 * epoch,
                "test_error": 0.65 - 0.05 * epoch + 0.01 * seed,
                "train_loss": 1.0 / (1 + epoch),
            },
        )
    writer.close(complete=True)
