"""Errors of 100 subsets of 10 sizes, against the loop over ``X[:, S] @ A[S]``."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from actstore.kernels.readout import subset_errors
from actstore.kernels.reconstruction import random_subsets
from actstore.testing import planted_layer

from .timing import Row, Times, compare, once

SAMPLES, WIDTH, OUTPUTS, SUBSETS = 60_000, 512, 10, 100
SIZES = [WIDTH >> k for k in range(10)][::-1]
TIMED = 2  # subsets of each size that the loop is timed on


def rows() -> list[Row]:
    """Time error and loss of all subsets on both cores."""
    x = planted_layer(samples=SAMPLES, width=WIDTH, signals=10, seed=0)
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(OUTPUTS, WIDTH)).astype("float32")
    bias = rng.normal(size=OUTPUTS).astype("float32")
    label = (x @ weight.T + bias).argmax(1)
    orders = random_subsets(WIDTH, subsets=SUBSETS, seed=0)

    def loop(size: int, order: np.ndarray) -> tuple[float, float]:
        subset = order[:size]
        logits = x[:, subset] @ weight.T[subset] + bias
        top = logits.max(1, keepdims=True)
        loss = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(x)), label]
        return float((logits.argmax(1) != label).mean()), float(loss.mean())

    total = Times(0.0, 0.0)
    loop(8, orders[0])
    for size in SIZES:
        total += once([lambda o=o, w=size: loop(w, o) for o in orders[:TIMED]]) * SUBSETS  # type: ignore[misc]

    def ours() -> None:
        subset_errors(x, label, weight, bias, orders=orders, sizes=SIZES, threads=2)

    with threadpool_limits(1):
        nested = once([ours])
    job = f"errors of {SUBSETS} subsets x {len(SIZES)} sizes, N = {SAMPLES:,}"
    return [compare(job, nested, total, 10, " extrapolated")]
