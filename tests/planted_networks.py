"""Networks that are made, not trained: layers, readouts and errors that brute force can follow."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actstore import schema
from actstore.storage.writer import RunWriter

from .recordings import attributes

Floats = NDArray[np.float64]

CLASSES = 4
SIGNALS = 6
SAMPLES = {"train": 150, "test": 240}
#: at the first epoch the layer is private noise alone, at the last it holds the signals
EPOCHS = (0, 4, 9)
SHARE = {0: 0.0, 4: 0.5, 9: 1.0}


class Network(NamedTuple):
    """What one run holds at one epoch."""

    x: Mapping[str, Any]  # split -> (sample, neuron) float32
    label: Mapping[str, Any]  # split -> (sample,)
    weight: Floats  # (output, neuron)
    bias: Floats  # (output,)

    def logits(self, split: str) -> Floats:
        """Return ``X Aᵀ + b`` in float64, (sample, output)."""
        return np.asarray(self.x[split].astype(np.float64) @ self.weight.T + self.bias)


@functools.cache
def inputs(
    split: str, *, samples: int, spread: float = 1.5, offset: int = 0
) -> tuple[Floats, NDArray[np.int64]]:
    """Return signals ``(sample, signal)`` and labels, the same for every network."""
    rng = np.random.default_rng([len(split), samples, offset])
    centres = np.random.default_rng(99).normal(size=(CLASSES, SIGNALS))
    label = np.arange(samples) % CLASSES
    rng.shuffle(label)
    return spread * centres[label] + rng.normal(size=(samples, SIGNALS)), label


def network(
    width: int,
    seed: int,
    epoch: int = EPOCHS[-1],
    *,
    samples: Mapping[str, int] = SAMPLES,
    noise: float = 0.7,
    spread: float = 1.5,
    dead: int = 0,
    offset: int = 0,
) -> Network:
    """Make a network: every neuron mixes the same signals and adds noise of its own.

    ``spread`` sets the classes apart, ``offset`` makes other samples of the same classes. The
    readout is least squares on the train split, as if training had found it. The last
    ``dead`` neurons are constant, and the readout gives them weight all the same.
    """
    rng = np.random.default_rng([width, seed, epoch])
    mixing = SHARE[epoch] * rng.normal(size=(SIGNALS, width)) / np.sqrt(SIGNALS)
    held = {
        split: inputs(split, samples=n, spread=spread, offset=offset)
        for split, n in samples.items()
    }
    x = {}
    for split, (signals, _) in held.items():
        one = signals @ mixing + noise * rng.normal(size=(len(signals), width))
        one[:, width - dead :] = 1.0
        x[split] = one.astype("float32")
    label = {split: labels for split, (_, labels) in held.items()}
    design = np.column_stack([x["train"].astype(np.float64), np.ones(len(x["train"]))])
    target = np.eye(CLASSES)[label["train"]]
    penalty = 5.0 * np.eye(design.shape[1])
    coefficients = np.linalg.solve(design.T @ design + penalty, design.T @ target)
    weight, bias = coefficients[:-1].T.copy(), coefficients[-1].copy()
    weight[:, width - dead :] = rng.normal(size=(CLASSES, dead))
    return Network(x, label, 4 * weight, 4 * bias)


def error(logits: Floats, label: Any) -> float:
    """Share of samples whose largest logit is not that of the label."""
    return float(np.mean([int(np.argmax(row)) != y for row, y in zip(logits, label, strict=True)]))


def loss(logits: Floats, label: Any) -> float:
    """Mean cross-entropy, from its definition."""
    each = []
    for row, y in zip(logits.astype(np.float64), label, strict=True):
        each.append(-np.log(np.exp(row[y] - row.max()) / np.exp(row - row.max()).sum()))
    return float(np.mean(each))


def record_networks(
    store: Path,
    *,
    widths: Sequence[int],
    seeds: Sequence[int],
    epochs: Sequence[int] = EPOCHS,
    metrics: bool = True,
    readout: bool = True,
    name: str | None = None,
    logged: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    **hyper_parameters: Any,
) -> Path:
    """Record a run for each width and seed, with its errors as brute force counts them."""
    for width in widths:
        for seed in seeds:
            writer = RunWriter.create(
                store,
                name or schema.run_name(width, seed, hyper_parameters),
                slots=len(epochs),
                attributes=attributes(width=width, seed=seed, **hyper_parameters),
            )
            for epoch in epochs:
                net = network(width, seed, epoch, **(options or {}))
                found: dict[str, float] = {}
                for split, label in net.label.items():
                    found[f"{split}_error"] = error(net.logits(split), label)
                    found[f"{split}_loss"] = loss(net.logits(split), label)
                writer.write(
                    epoch,
                    {split: {schema.DEFAULT_LAYER: x} for split, x in net.x.items()},
                    labels=dict(net.label),
                    readout=(net.weight, net.bias) if readout else None,
                    metrics={**(found if metrics else {}), **(logged or {})} or None,
                )
            writer.close(complete=True)
    return store
