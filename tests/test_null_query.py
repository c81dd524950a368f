"""The matched null is met by independent noise, and not by correlated noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sklearn.decomposition import FactorAnalysis

import actstore
from actstore import queries
from actstore.errors import InvalidParameterError
from actstore.kernels.factors import fit_factors, matched_null
from actstore.kernels.reconstruction import random_subsets
from actstore.testing import planted_dataset, planted_layer, raise_if_computes

from .command_line import Answer
from .strategies import dataset

SIGNALS, WIDTH, SAMPLES = 6, 64, 3000
SIZES = [8, 16, 32]
FACTORS = [6, 8, 16]
INDEPENDENT = "consistent with independent noise"


def planted_noise(correlation: float, *, seed: int = 0, **options: Any) -> xr.Dataset:
    """Make a layer of signals and noise whose correlation is known."""
    return dataset(
        planted_layer(
            samples=SAMPLES, width=WIDTH, signals=SIGNALS, noise=0.4, seed=seed,
            noise_correlation=correlation, **options,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def independent() -> xr.Dataset:
    options: dict[str, Any] = {"subset_size": SIZES, "factors": [*FACTORS, "gap", "bic"]}
    return queries.noise(planted_noise(0.0), **options).isel(run=0, epoch=0).compute()


@pytest.fixture(scope="module")
def correlated() -> xr.Dataset:
    options: dict[str, Any] = {"subset_size": SIZES, "factors": [*FACTORS, "gap"]}
    return queries.noise(planted_noise(0.8), **options).isel(run=0, epoch=0).compute()


# what was planted


@pytest.mark.parametrize("factors", [*map(str, FACTORS), "gap", "bic"])
def test_independent_noise_meets_its_null_for_any_number_of_factors_that_suffices(
    independent: xr.Dataset, factors: str
) -> None:
    one = independent.sel(factors=factors)
    np.testing.assert_allclose(one.excess, 1.0, atol=0.03)
    assert bool(one.consistent.all())
    assert set(one.verdict.values) == {INDEPENDENT}
    assert bool(one.factors_converged)


@pytest.mark.parametrize("factors", [str(SIGNALS), "gap"])
def test_correlated_noise_exceeds_its_null_and_the_verdict_says_by_how_much(
    correlated: xr.Dataset, factors: str
) -> None:
    one = correlated.sel(factors=factors)
    # in small subsets the error that the regression shares outweighs what the noise shares
    half = one.sel(subset_size=WIDTH // 2)
    assert float(half.excess) > 1.3
    assert one.consistent.sel(subset_size=[16, 32]).values.tolist() == [False, False]
    assert str(half.verdict.values) == f"{float(half.excess):.2g} x the null"


def test_the_rules_find_the_planted_number_of_signals(
    independent: xr.Dataset, correlated: xr.Dataset
) -> None:
    for rule in ("gap", "bic"):
        assert int(independent.n_factors.sel(factors=rule)) == SIGNALS
    assert int(correlated.n_factors.sel(factors="gap")) == SIGNALS


def test_factors_that_noise_would_show_too_are_not_counted(independent: xr.Dataset) -> None:
    assert (
        independent.n_factors.sel(factors=list(map(str, FACTORS))).values.tolist() == [SIGNALS] * 3
    )


def test_too_few_factors_leave_signals_in_the_residuals() -> None:
    found = queries.noise(planted_noise(0.0), subset_size=32, factors=SIGNALS - 2).compute()
    assert found.excess.item() > 1.3
    assert found.n_factors.item() == SIGNALS - 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_null_is_matched_to_all_subsets_that_were_measured(seed: int) -> None:
    """A mean over four subsets alone lies up to a tenth beside that over forty."""
    found = queries.noise(
        planted_noise(0.0, seed=seed), subset_size=SIZES, factors=SIGNALS, rng_seed=seed
    )
    np.testing.assert_allclose(found.excess.values, 1.0, atol=0.03)


# the same by other means


def test_the_null_is_that_of_a_model_fitted_by_scikit_learn(independent: xr.Dataset) -> None:
    x = planted_noise(0.0).activations.values.astype(np.float64)
    analysis = FactorAnalysis(n_components=SIGNALS, tol=1e-6, max_iter=5000).fit(x)
    fitted = fit_factors(np.cov(x.T), n_factors=SIGNALS, count=SAMPLES)
    difference = fitted.covariance - analysis.get_covariance()
    assert np.abs(difference).max() < 2e-3 * np.abs(fitted.covariance).max()
    # brute force: samples of scikit-learn's model, measured as the layer was measured
    root = np.linalg.cholesky(analysis.get_covariance())
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(3):
        y = rng.normal(size=(SAMPLES, WIDTH)) @ root.T
        answer = queries.noise(dataset(y), subset_size=SIZES, factors=None)
        drawn.append(answer.residual_correlation_heldout.mean("subset").values.ravel())
    null = independent.null.sel(factors=str(SIGNALS))
    np.testing.assert_allclose(null, np.mean(drawn, 0), rtol=0.02)


def test_with_few_subsets_the_null_is_what_the_kernel_simulates() -> None:
    x = planted_layer(samples=400, width=20, signals=3, seed=1, dtype=np.float64)
    found = queries.noise(
        dataset(x), subset_size=[4, 10], subsets=3, factors=3, repeats=7, rng_seed=2
    ).isel(run=0, epoch=0)
    model = fit_factors(np.cov(x.T), n_factors=3, count=400)
    orders = random_subsets(20, subsets=3, seed=2)
    seed = int(np.random.SeedSequence(2).generate_state(1)[0])
    drawn = matched_null(model, orders, sizes=[4, 10], count=400, repeats=7, seed=seed)
    np.testing.assert_allclose(found.null, drawn.mean(0), rtol=1e-6)
    spread = (drawn / drawn.mean(0) - 1) * np.sqrt(7 / 6)
    for name, q in (("null_low", 0.05), ("null_high", 0.95)):
        expected = drawn.mean(0) * (1 + np.quantile(spread, q, axis=0))
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_the_excess_is_the_measured_mean_over_subsets_by_the_null(
    independent: xr.Dataset,
) -> None:
    mean = independent.residual_correlation_heldout.mean("subset")
    for factors in independent.factors.values:
        one = independent.sel(factors=factors)
        np.testing.assert_allclose(one.excess, mean / one.null, rtol=1e-12)
    assert (independent.null_low <= independent.null).all()
    assert (independent.null <= independent.null_high).all()
    assert (independent.null > independent.sampling_floor).all()


@pytest.mark.parametrize("rule", ["gap", "bic", 5])
def test_without_signals_the_null_is_the_floor(rule: Any) -> None:
    x = np.random.default_rng(0).normal(size=(SAMPLES, 24))
    found = queries.noise(dataset(x), subset_size=[1, 12], factors=rule, repeats=200)
    found = found.isel(run=0, epoch=0).compute()
    assert int(found.n_factors) == 0
    np.testing.assert_allclose(found.null, found.sampling_floor, rtol=0.02)
    assert set(found.verdict.values) == {INDEPENDENT}


# shapes and what may be missing


def test_several_numbers_of_factors_are_a_dim_and_one_is_none(independent: xr.Dataset) -> None:
    for name in ("null", "null_low", "null_high", "excess", "consistent", "verdict"):
        assert independent[name].dims == ("factors", "subset_size"), name
    for name in ("n_factors", "factors_converged"):
        assert independent[name].dims == ("factors",), name
    one = queries.noise(planted_dataset(), subset_size=[2, 8], subsets=2)
    for name in ("null", "excess", "verdict", "sampling_floor"):
        assert one[name].dims == ("run", "epoch", "subset_size"), name
    assert one.n_factors.dims == ("run", "epoch")
    assert all(v.attrs["long_name"] for v in one.data_vars.values())


def test_a_number_from_numpy_is_a_number() -> None:
    data = planted_dataset()
    several = queries.noise(data, subset_size=4, subsets=2, factors=np.arange(2, 4))
    assert several.factors.values.tolist() == ["2", "3"]
    one = queries.noise(data, subset_size=4, subsets=2, factors=np.int64(2))
    np.testing.assert_array_equal(one.null, several.null.sel(factors="2"))


def test_without_factors_there_is_no_null() -> None:
    found = queries.noise(planted_dataset(), subsets=2, factors=None)
    assert not {"null", "excess", "verdict", "n_factors", "factors"} & set(found.variables)


def test_fewer_than_two_neurons_outside_have_no_null_and_no_verdict() -> None:
    x = planted_layer(samples=200, width=8, signals=2, dead=2, seed=0)
    found = queries.noise(dataset(x), subset_size=[2, 4, 5, 6, 8], subsets=3).isel(run=0, epoch=0)
    held = [True, True, False, False, False]
    assert found.null.notnull().values.tolist() == held
    assert found.excess.notnull().values.tolist() == held
    assert [bool(str(word)) for word in found.verdict.values] == held


@pytest.mark.parametrize("width", [1, 2, 3])
def test_layers_of_very_few_neurons_have_a_null_where_there_is_a_pair(width: int) -> None:
    x = np.random.default_rng(0).normal(size=(50, width))
    for rule in ("gap", "bic", 5):
        found = queries.noise(dataset(x), subset_size="all", subsets=2, factors=rule).compute()
        assert found.null.notnull().sum() == max(0, width - 2)


def test_fewer_samples_than_neurons_still_have_an_answer() -> None:
    x = planted_layer(samples=20, width=40, signals=2, seed=0)
    found = queries.noise(dataset(x), subset_size=[4, 30], subsets=3).isel(run=0, epoch=0).compute()
    assert np.isfinite(found.null.values[0])
    # no degree of freedom is left: the residuals are zero, and 0 / 0 is no correlation
    assert np.isnan(found.sampling_floor.values[1])


# laziness and bad input


def test_building_the_question_computes_nothing(planted: actstore.Store) -> None:
    with raise_if_computes():
        built = planted.noise(factors=["gap", 3], eigenvalues=True)
        queries.noise(planted_dataset())
    assert all(v.chunks is not None for v in built.data_vars.values())


@pytest.mark.parametrize("factors", [-1, "most", [3, "most"], 2.5, [2.5]])
def test_factors_that_are_no_number_and_no_rule_are_refused(factors: Any) -> None:
    with pytest.raises(InvalidParameterError, match="give a number from 0, 'gap', 'bic' or None"):
        queries.noise(planted_dataset(), factors=factors)


def test_no_factors_at_all_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match="no number of factors was given"):
        queries.noise(planted_dataset(), factors=[])


# the command


def test_the_command_gives_a_verdict_for_each_size_and_number_of_factors(
    planted_path: Path, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    saved = tmp_path / "noise.nc"
    answer = cli(
        "query", "noise", planted_path, "--width", 16, "--seed", 0, "--where",
        "weight_decay=0.005", "--subset-size", "4,8", "--subsets", 4, "--factors", "gap,3",
        "--format", "json", "-o", saved,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    rows = answer.json["rows"]
    assert sorted({(r["factors"], r["subset_size"]) for r in rows}) == [
        ("3", 4), ("3", 8), ("gap", 4), ("gap", 8),
    ]  # fmt: skip
    for row in rows:
        assert row["excess"] == pytest.approx(row["residual_correlation_heldout"] / row["null"])
        assert ("null" in row["verdict"]) == (not row["consistent"])
    assert xr.open_dataset(saved).excess.dims == ("run", "epoch", "factors", "subset_size")
    table = cli("query", "noise", planted_path, "--width", 16, "--subsets", 2)
    assert table.code == 0
    assert "verdict" in table.out.split("------", 1)[0]
    assert any(line.endswith(" consistent") for line in table.out.splitlines())
    assert max(map(len, table.out.splitlines())) <= 80


def test_wrong_factors_end_with_one_sentence(
    planted_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("query", "noise", planted_path, "--factors", "most")
    assert (answer.code, answer.out) == (1, "")
    assert "factors='most' was asked for" in answer.err
