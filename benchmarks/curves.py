"""The full curve of R² and residual correlation, 40 subsets of 10 sizes, against scikit-learn.

The reference is what a researcher writes from the paper: for each subset a ridge regression, its
variance-weighted R², and the mean absolute correlation of its residuals, in float32. It takes
minutes, so two subsets of each size are timed and the others taken to be like them. It is run as
it comes, with all cores of the machine, and once more on one BLAS thread, which can be faster.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from actstore import noise, reconstruction, schema
from actstore.kernels.independence import residual_correlations
from actstore.kernels.moments import moments
from actstore.kernels.reconstruction import prefix_r2, random_subsets
from actstore.storage.writer import RunWriter
from actstore.testing import planted_layer

from .timing import (
    Row,
    Times,
    actstore,
    command,
    compare,
    dpotrf_rate,
    dsyrk_rate,
    once,
    seconds,
    timed,
)

WIDTH = 512
SUBSETS = 40
SIZES = [WIDTH >> k for k in range(10)][::-1]
SCRIPT = """
import sys, numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
x = np.load(sys.argv[1])
def curve(x, subset):
    chosen = x[:, subset]
    predicted = Ridge(alpha=1e-8).fit(chosen, x).predict(chosen)
    r2 = r2_score(x, predicted, multioutput="variance_weighted")
    residual = x - predicted
    residual = residual - residual.mean(0)
    covariance = residual.T @ residual / len(x)
    spread = np.sqrt(np.diagonal(covariance))
    correlation = covariance / (np.outer(spread, spread) + 1e-8)
    return r2, np.abs(correlation[np.tril_indices(len(spread), -1)]).mean()
"""


def rows() -> list[Row]:
    """Time the curve at two numbers of samples, whole commands, cached moments, and the floor."""
    found = []
    for samples, aim in ((10_000, 100), (50_000, 300)):
        x = planted_layer(samples=samples, width=WIDTH, signals=10, seed=0)
        data = xr.Dataset({"activations": (("sample", "neuron"), x)})
        ours = timed(lambda data=data: _both(data), 7)  # type: ignore[misc]
        slow = _by_regression(x)
        with threadpool_limits(1):
            single = _by_regression(x)
        job = f"curve, N = {samples:,}, in one process"
        found.append(compare(job, ours, slow, aim, " extrapolated"))
        # the aims are against the script as it comes, with all cores
        found.append(compare(job, ours, single, None, " extrapolated, one BLAS thread"))
        with tempfile.TemporaryDirectory() as folder:
            found += _commands(Path(folder), x, {"": slow, ", one BLAS thread": single}, samples)
        if samples == 10_000:
            found.append(_floor(x))
    return found


def _both(data: xr.Dataset) -> None:
    with dask.config.set(scheduler="threads"):
        dask.compute(
            reconstruction(data, subset_size=SIZES, subsets=SUBSETS),
            noise(data, subset_size=SIZES, subsets=SUBSETS, factors=None),
        )


def _by_regression(x: np.ndarray) -> Times:
    names: dict[str, object] = {}
    exec(SCRIPT.replace("np.load(sys.argv[1])", "None"), names)
    orders = random_subsets(WIDTH, subsets=2, seed=0)
    curve = names["curve"]
    assert callable(curve)
    curve(x[:1000], orders[0][:8])
    total = Times(0.0, 0.0)
    for size in SIZES:
        total += once([lambda o=o, w=size: curve(x, o[:w]) for o in orders]) * SUBSETS  # type: ignore[misc]
    return total


def _commands(folder: Path, x: np.ndarray, scripts: dict[str, Times], samples: int) -> list[Row]:
    store = record(folder / "store.zarr", x)
    asked = actstore(
        "query", "dynamics", str(store), "--epoch", "-1", "--format", "json",
        "--subset-size", ",".join(map(str, SIZES)), "--subsets", str(SUBSETS),
    )  # fmt: skip
    cold = command([*asked, "--no-cache"])
    command(asked, 1)
    cached = command(asked)
    np.save(folder / "x.npy", x)
    begin = command([sys.executable, "-c", SCRIPT, str(folder / "x.npy")])
    job = f"curve, N = {samples:,}, as a cold command"
    found = [
        compare(job, cold, slow + begin, None if how else 40, f" extrapolated{how}")
        for how, slow in scripts.items()
    ]
    slow = scripts[""] + begin
    job = f"curve, N = {samples:,}, command, cached"
    return [*found, compare(job, cached, slow, None, " extrapolated")]


def record(store: Path, x: np.ndarray, epochs: int = 1) -> Path:
    """Record a layer as a run of a store and return its path."""
    width = x.shape[1]
    writer = RunWriter.create(
        store, schema.run_name(width, 0, {}), slots=epochs,
        attributes=schema.run_attributes(width=width, seed=0),
    )  # fmt: skip
    labels = {"test": np.arange(len(x)) % 10}
    readout = (np.zeros((10, width)), np.zeros(10))
    for epoch in range(epochs):
        writer.write(
            epoch, {"test": {"last_hidden": x}}, labels=labels, readout=readout,
            metrics={"train_error": 0.0},
        )  # fmt: skip
    writer.close(complete=True)
    return store


def _floor(x: np.ndarray) -> Row:
    """Compare with the least that the operations take, all on one thread."""
    with threadpool_limits(1):
        c = moments(x).comoment
        orders = random_subsets(WIDTH, subsets=SUBSETS, seed=0)

        def curves() -> None:
            moments(x)
            for order in orders:
                prefix_r2(c, order)
                residual_correlations(c, order, sizes=SIZES)

        ours = timed(curves)
        products = sum((WIDTH - b) ** 2 * (b - a) for a, b in zip([0, *SIZES], SIZES, strict=False))
        syrk = (len(x) * WIDTH**2 + SUBSETS * products) / dsyrk_rate(WIDTH)
        floor = syrk + SUBSETS * WIDTH**3 / 3 / dpotrf_rate(WIDTH)
    ratio = ours.cpu / floor
    return Row(
        f"curve, N = {len(x):,}, one core, against the floor", seconds(ours), f"{floor:.3g} s",
        ours.wall / floor, ratio, "<= 3 x", ratio <= 3,
    )  # fmt: skip
