"""What was planted is recovered: sizes, numbers, exponents, and as often as the intervals say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import binom

import actstore
from actstore import queries, schema
from actstore.kernels.ensembles import mcnemar
from actstore.kernels.fits import decay_law
from actstore.storage.writer import RunWriter
from actstore.testing import planted_clones, planted_layer

from .recordings import attributes
from .strategies import dataset


def record(
    store: Path, x: Any, *, seed: int = 0, label: Any = None, readout: Any = None, **options: Any
) -> Path:
    """Record a layer as a run of one epoch."""
    width = x.shape[1]
    writer = RunWriter.create(
        store, schema.run_name(width, seed, options), slots=1,
        attributes=attributes(width=width, seed=seed, **options),
    )  # fmt: skip
    writer.write(
        1, {"test": {schema.DEFAULT_LAYER: x}}, readout=readout,
        labels={"test": np.zeros(len(x), int) if label is None else label},
    )  # fmt: skip
    writer.close(complete=True)
    return store


# critical sizes and clones


@pytest.mark.parametrize(("clones", "size"), [(2, 16), (4, 8), (8, 4)])
def test_the_planted_partition_is_found_again(clones: int, size: int) -> None:
    """Greedy selection certifies as many clones as were planted, of the planted size."""
    x, _ = planted_clones(samples=600, clones=clones, clone_size=size, noise=0.05, seed=clones)
    found = queries.clones(dataset(x), threshold=0.98, strategy="greedy").isel(run=0, epoch=0)
    found = found.isel(threshold=0).compute()
    assert int(found.certified_clones) == clones
    assert found.clone_size[:clones].values.tolist() == [size] * clones
    assert int(found.component_bound) == clones
    assert (found.clone_r2_heldout[:clones] >= 0.98).all()


def explained(width: int, signals: int, noise: float, w: int) -> float:
    """Return the expected held-out R² of w noisy neurons that mix k signals.

    With loadings of variance 1/k a neuron has signal variance 1. The posterior variance of a
    signal after w noisy readings is 1 / (1 + w / (k σ²)) where loadings are orthogonal.
    """
    share = 1 / (1 + w / (signals * noise**2))
    return (1 - share) / (1 + noise**2)


@pytest.mark.parametrize(("signals", "noise"), [(4, 0.2), (8, 0.3)])
def test_the_critical_size_is_that_of_the_planted_signals_and_noise(
    signals: int, noise: float
) -> None:
    """Far above the number of signals, random loadings are nearly orthogonal."""
    width, threshold = 256, 0.98 / (1 + noise**2)
    x = planted_layer(samples=6000, width=width, signals=signals, noise=noise, seed=3)
    found = queries.clones(dataset(x), threshold=threshold, subsets=20).isel(run=0, epoch=0)
    found = found.isel(threshold=0).compute()
    expected = next(w for w in range(1, width) if explained(width, signals, noise, w) >= threshold)
    # loadings that are not orthogonal cost about k neurons more
    assert expected <= float(found.critical_size) <= expected + 2 * signals
    assert float(found.critical_size_low) <= float(found.critical_size)
    assert float(found.critical_size_high) >= float(found.critical_size)


# exponents of the number of clones


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> actstore.Store:
    """Record layers whose clones keep their size, grow with √W, or grow with W."""
    store = tmp_path_factory.mktemp("growing") / "growing.zarr"
    sizes = {"fixed": lambda width: 4, "root": lambda width: int(width**0.5),
             "all": lambda width: width // 4}  # fmt: skip
    for law, size in sizes.items():
        for width in (16, 36, 64, 100):
            for seed in (0, 1):
                x, _ = planted_clones(
                    samples=500, clones=width // size(width), clone_size=size(width), noise=0.1,
                    seed=seed,
                )  # fmt: skip
                record(store, x, seed=seed, law=law)
    return actstore.open(store)


@pytest.mark.parametrize(("law", "exponent"), [("fixed", 1.0), ("root", 0.5), ("all", 0.0)])
def test_the_exponent_of_the_clones_is_the_planted_one(
    growing: actstore.Store, law: str, exponent: float
) -> None:
    found = growing.sel(law=law).scaling(threshold=0.9, subsets=10).compute().squeeze()
    assert float(found.exponent) == pytest.approx(exponent, abs=0.12)
    assert float(found.exponent_low) <= float(found.exponent) <= float(found.exponent_high)
    assert (float(found.window_low), float(found.window_high)) == (16, 100)


# the exponent of the error of subsets


def marks(
    samples: int,
    width: int,
    gamma: float,
    floor: float,
    seed: int,
    draw: np.random.Generator | None = None,
) -> Any:
    """Make a layer whose subsets err as a power of their size.

    A sample is right if the subset holds a neuron that marks it, and each neuron does so with
    the sample's own rate r. With P(rate < r) = r^γ a subset of w neurons misses a share
    ∫ γ r^(γ−1) (1 − r)^w dr = Γ(1 + γ) Γ(1 + w) / Γ(1 + γ + w) ≈ Γ(1 + γ) w^−γ.
    """
    rng = np.random.default_rng(seed)
    rate = ((np.arange(samples) + 0.5) / samples) ** (1 / gamma)
    rate[rng.permutation(samples)[: int(floor * samples)]] = 0.0  # never marked
    return ((draw or rng).random((samples, width)) < rate[:, None]).astype("float32")


def missed(w: Any, gamma: float, floor: float) -> Any:
    """Return the expected error of a subset of w neurons."""
    share = np.exp(gammaln(1 + gamma) + gammaln(1 + w) - gammaln(1 + gamma + w))
    return floor + (1 - floor) * share


def record_marks(store: Path, x: Any, *, seed: int = 0, bias: float = -0.5) -> Path:
    """Record it with a readout that answers 1, which is right, as soon as a neuron marks."""
    readout = (np.vstack([np.zeros(x.shape[1]), np.ones(x.shape[1])]), np.array([0.0, bias]))
    return record(store, x, seed=seed, label=np.ones(len(x), int), readout=readout)


@pytest.mark.parametrize(("gamma", "floor"), [(0.5, 0.0), (0.5, 0.1), (1.0, 0.05)])
def test_the_exponent_of_the_error_of_subsets_is_the_planted_one(
    tmp_path: Path, gamma: float, floor: float
) -> None:
    x = marks(4000, 96, gamma, floor, seed=1)
    store = actstore.open(record_marks(tmp_path / "marks.zarr", x))
    sizes = [4, 8, 16, 32, 64]
    found = store.error(
        subset_size=sizes, subsets=40, splits="test", error_inf=floor, window=(8, 64)
    ).isel(run=0, epoch=0, split=0).compute()  # fmt: skip
    expected = missed(np.array(sizes, float), gamma, floor)
    np.testing.assert_allclose(found.error.mean("subset"), expected, rtol=0.1)
    assert float(found.gamma) == pytest.approx(gamma, abs=0.1)


def test_the_ensemble_tells_the_planted_limit_of_the_error_of_subsets(tmp_path: Path) -> None:
    """Eight networks of 96 neurons err together as 768 neurons do: on what nothing marks."""
    gamma, floor, members = 1.0, 0.05, 8
    rng = np.random.default_rng(3)
    for seed in range(members):
        # the same samples are hard for every network: their rates are drawn from one seed
        x = marks(4000, 96, gamma, floor, seed=1, draw=rng)
        # one mark in any network is enough for the sum of their logits
        record_marks(tmp_path / "marks.zarr", x, seed=seed, bias=-0.5 / members)
    found = actstore.open(tmp_path / "marks.zarr").error(
        subset_size=[4, 8, 16, 32, 64], subsets=20, splits="test", error_inf="ensemble",
        window=(8, 64),
    ).isel(epoch=0, split=0).compute()  # fmt: skip
    limit = missed(members * 96, gamma, floor)
    assert limit - floor < 0.002
    np.testing.assert_allclose(found.error_inf, limit, atol=0.002)
    np.testing.assert_allclose(found.gamma, gamma, atol=0.1)


# coverage of the intervals


def covered(hits: int, trials: int, level: float) -> bool:
    """Whether that many hits are what an interval of this level gives, but 1 time in 1000."""
    return bool(binom.cdf(hits, trials, level) > 0.001)


@pytest.mark.slow
def test_the_interval_of_the_critical_size_covers_that_of_all_subsets() -> None:
    """The bootstrap over 20 subsets, 90 %, against the mean over 2000 of them."""
    x = planted_layer(samples=2000, width=32, signals=4, noise=0.4, seed=0)
    options: dict[str, Any] = {"threshold": 0.8}
    size = "critical_size"
    truth = queries.clones(dataset(x), subsets=2000, **options)[size].values.item()
    hits = 0
    for seed in range(100):
        found = queries.clones(dataset(x), subsets=20, rng_seed=seed + 1, **options)
        found = found[[size, f"{size}_low", f"{size}_high"]].compute()
        hits += found[f"{size}_low"].values.item() <= truth <= found[f"{size}_high"].values.item()
    assert covered(hits, 100, 0.9), f"{hits} of 100"


@pytest.mark.slow
@pytest.mark.parametrize("error_inf", [None, 0.1])
def test_the_interval_of_gamma_covers_that_of_all_subsets_of_the_layer(
    tmp_path: Path, error_inf: float | None
) -> None:
    """Take 100 subsets, against the law of the mean over 1500 of them."""
    x = marks(1000, 96, 0.5, 0.1, seed=0)
    store = actstore.open(record_marks(tmp_path / "marks.zarr", x))
    options: dict[str, Any] = {
        "subset_size": [4, 8, 12, 16, 24, 32, 48, 64], "splits": "test", "error_inf": error_inf
    }  # fmt: skip
    truth = store.error(subsets=1500, rng_seed=10_000, **options).gamma.values.item()
    hits = 0
    for seed in range(60):
        found = store.error(rng_seed=seed, **options)[["gamma_low", "gamma_high"]].compute()
        hits += found.gamma_low.item() <= truth <= found.gamma_high.item()
    assert covered(hits, 60, 0.95), f"{hits} of 60"


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False])
def test_the_interval_of_gamma_covers_the_planted_exponent(given: bool) -> None:
    """Relative errors of 3 %, independent: what the fit assumes."""
    rng = np.random.default_rng(0)
    w = np.array([8.0, 16, 32, 64, 128, 256, 512])
    truth = 0.02 + 0.4 * w**-0.5
    hits = 0
    for _ in range(300):
        noisy = truth * (1 + 0.03 * rng.normal(size=w.size))
        fit = decay_law(w, noisy, error_inf=0.02 if given else None)
        hits += bool(fit.low <= 0.5 <= fit.high)
    assert covered(hits, 300, 0.95), f"{hits} of 300"


@pytest.mark.slow
def test_the_interval_of_the_difference_covers_that_of_all_samples() -> None:
    """Two classifiers that err together: 95 % of the intervals hold the true difference."""
    rng = np.random.default_rng(0)
    shares = np.array([0.80, 0.08, 0.04, 0.08])  # both right, a alone, b alone, both wrong
    hits = 0
    for _ in range(500):
        kind = rng.choice(4, size=400, p=shares)
        found = mcnemar((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        hits += bool(found.low <= shares[2] - shares[1] <= found.high)
    assert covered(hits, 500, 0.95), f"{hits} of 500"
    assert hits < 490


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_verdict_is_right_on_nearly_all_planted_layers(correlation: float) -> None:
    """Independent noise is called independent, correlated noise is not, at half the width."""
    verdicts = []
    for seed in range(30):
        x = planted_layer(
            samples=3000, width=64, signals=6, noise=0.4, seed=seed, noise_correlation=correlation
        )
        found = queries.noise(dataset(x), subset_size=32, rng_seed=seed)
        verdicts.append(bool(found.consistent.values.item()))
    assert sum(verdicts) >= 29 if correlation == 0 else sum(verdicts) <= 1
