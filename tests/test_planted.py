"""Planted layers: what was planted is found, and independent noise equals its matched null."""

from typing import Any, Literal

import dask.array
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import FactorAnalysis

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.factors import choose_n_factors, fit_factors, matched_null
from actstore.kernels.independence import residual_correlations
from actstore.kernels.moments import alive, moments
from actstore.kernels.reconstruction import random_subsets
from actstore.testing import planted_clones, planted_dataset, planted_layer, raise_if_computes

Array = NDArray[np.float64]
Rule = Literal["gap", "bic"]


def layer(**kwargs: Any) -> Array:
    options = {"samples": 10_000, "width": 128, "signals": 5, "seed": 0, "dtype": np.float64}
    return planted_layer(**(options | kwargs))


def covariance(x: Array) -> Array:
    return moments(x).comoment / (len(x) - 1)


def measured_over_null(
    x: Array, *, n_factors: int, sizes: list[int], count: bool = True, subsets: int = 4
) -> Array:
    m = moments(x)
    orders = random_subsets(x.shape[1], subsets=subsets, seed=1)
    model = fit_factors(
        m.comoment / (m.count - 1), n_factors=n_factors, count=m.count if count else None
    )
    null = matched_null(model, orders, sizes=sizes, count=m.count, repeats=8, seed=2)
    measured = [residual_correlations(m.comoment, o, sizes=sizes).heldout for o in orders]
    return np.asarray(np.mean(measured, axis=0) / null.mean(axis=0))


@pytest.mark.parametrize("rule", ["gap", "bic"])
@pytest.mark.parametrize("signals", [3, 5, 10, 20])
def test_number_of_planted_signals_is_chosen(signals: int, rule: Rule) -> None:
    c = covariance(layer(signals=signals))
    assert choose_n_factors(c, count=10_000, rule=rule) == signals


@pytest.mark.parametrize("rule", ["gap", "bic"])
@pytest.mark.parametrize("samples", [200, 1000])
def test_number_of_planted_signals_is_chosen_from_few_samples(samples: int, rule: Rule) -> None:
    c = covariance(layer(samples=samples, width=64))
    assert choose_n_factors(c, count=samples, rule=rule) == 5


def test_number_of_planted_signals_is_chosen_from_fewer_samples_than_neurons() -> None:
    assert choose_n_factors(covariance(layer(samples=100)), count=100) == 5


@pytest.mark.parametrize("rule", ["gap", "bic"])
def test_noise_without_signals_has_no_factor(rule: Rule) -> None:
    c = covariance(layer(signals=0))
    assert choose_n_factors(c, count=10_000, rule=rule) == 0
    assert fit_factors(c, n_factors=9, count=10_000).n_factors == 0


@pytest.mark.parametrize("rule", ["gap", "bic"])
def test_one_neuron_has_no_factor(rule: Rule) -> None:
    assert choose_n_factors(np.ones((1, 1)), count=100, rule=rule) == 0


def test_information_criterion_is_the_smallest_of_all_fits() -> None:
    x = layer(samples=500, width=16, signals=3, noise=1.0)
    c = covariance(x)

    def criterion(k: int) -> float:
        sigma = fit_factors(c, n_factors=k).covariance
        loss = np.linalg.slogdet(sigma)[1] + np.trace(np.linalg.solve(sigma, c))
        return float(500 * loss + (16 * k - k * (k - 1) / 2) * np.log(500))

    assert choose_n_factors(c, count=500, rule="bic") == min(range(9), key=criterion)


def test_signals_that_weaken_without_a_gap_need_the_information_criterion() -> None:
    rng = np.random.default_rng(0)
    strengths = 2.0 ** -np.arange(8)
    loadings = strengths[:, None] * rng.normal(size=(8, 128))
    x = rng.normal(size=(10_000, 8)) @ loadings + 0.01 * rng.normal(size=(10_000, 128))
    assert choose_n_factors(covariance(x), count=10_000, rule="bic") == 8


@pytest.mark.parametrize("rule", ["gap", "bic"])
def test_more_signals_than_first_looked_for_are_found(rule: Rule) -> None:
    x = layer(samples=4000, width=200, signals=80, noise=0.2)
    assert choose_n_factors(covariance(x), count=4000, rule=rule) == 80


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_fitted_model_is_the_most_likely_one(noise: float) -> None:
    x = layer(samples=800, width=30, signals=4, noise=noise)
    c = np.cov(x.T, bias=True)
    model = fit_factors(c, n_factors=4)
    assert model.converged
    reference = FactorAnalysis(4, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    np.testing.assert_allclose(model.covariance, reference.get_covariance(), rtol=2e-3, atol=1e-4)
    # The equations of the maximum, which scikit-learn meets to its own tolerance only.
    np.testing.assert_allclose(np.diagonal(model.covariance), np.diagonal(c), rtol=1e-3)


def test_planted_noise_variance_is_found() -> None:
    model = fit_factors(covariance(layer()), n_factors=5)
    assert model.n_factors == 5
    assert model.uniquenesses == pytest.approx(np.full(128, 0.09), rel=0.1)
    assert model.uniquenesses.mean() == pytest.approx(0.09, rel=0.005)


def test_search_that_stops_early_says_so() -> None:
    model = fit_factors(covariance(layer(noise=1.5)), n_factors=40, max_iterations=1)
    assert not model.converged
    assert model.iterations == 1


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_almost_no_noise_still_gives_a_model(noise: float) -> None:
    c = covariance(layer(noise=noise, duplicates=10))
    model = fit_factors(c, n_factors=5, count=10_000)
    np.testing.assert_allclose(model.covariance, c, atol=1e-3)
    assert (model.uniquenesses > 0).all()


def test_model_of_fewer_samples_than_neurons_is_finite() -> None:
    x = layer(samples=100)
    model = fit_factors(covariance(x), n_factors=5, count=100)
    null = matched_null(model, np.arange(128), sizes=[8, 64], count=100, repeats=3, seed=0)
    assert np.isfinite(null).all()


@pytest.mark.parametrize("allowed", [5, 6, 10, 60])
def test_independent_noise_equals_its_null_for_any_number_of_factors(allowed: int) -> None:
    ratio = measured_over_null(layer(), n_factors=allowed, sizes=[8, 32, 64, 100])
    np.testing.assert_allclose(ratio, 1, atol=0.03)


def test_factors_of_mere_noise_are_what_the_count_leaves_out() -> None:
    c = covariance(layer())
    assert fit_factors(c, n_factors=60).n_factors == 60
    assert fit_factors(c, n_factors=60, count=10_000).n_factors == 5


def test_too_few_factors_do_not_explain_the_residuals() -> None:
    assert (measured_over_null(layer(), n_factors=3, sizes=[32, 64]) > 1.3).all()


@pytest.mark.parametrize("signals", [3, 10, 20])
def test_independent_noise_of_a_wide_layer_equals_its_null(signals: int) -> None:
    x = layer(width=512, signals=signals)
    chosen = choose_n_factors(covariance(x), count=10_000)
    ratio = measured_over_null(x, n_factors=chosen, sizes=[64, 128, 256], subsets=2)
    np.testing.assert_allclose(ratio, 1, atol=0.03)


@pytest.mark.parametrize("noise_correlation", [0.5, 0.8, 1.0])
def test_correlated_noise_exceeds_its_null(noise_correlation: float) -> None:
    x = layer(width=512, signals=10, noise_correlation=noise_correlation)
    chosen = choose_n_factors(covariance(x), count=10_000)
    assert chosen == 10
    ratio = measured_over_null(x, n_factors=chosen, sizes=[256, 384], subsets=2)
    assert (ratio > 1.3).all()


def test_information_criterion_takes_correlated_noise_for_signals() -> None:
    c = covariance(layer(noise_correlation=0.8))
    assert choose_n_factors(c, count=10_000, rule="bic") > 20
    assert choose_n_factors(c, count=10_000) == 5


@pytest.mark.slow
def test_null_covers_the_measurement_as_often_as_it_says() -> None:
    inside = 0
    order = random_subsets(64, subsets=1, seed=0)[0]
    for seed in range(200):
        m = moments(layer(samples=2000, width=64, seed=seed))
        model = fit_factors(m.comoment / 1999, n_factors=5, count=2000)
        null = matched_null(model, order, sizes=[16], count=2000, repeats=100, seed=seed)
        low, high = np.quantile(null[:, 0], [0.025, 0.975])
        measured = residual_correlations(m.comoment, order, sizes=[16]).heldout[0]
        inside += low <= measured <= high
    assert 0.90 <= inside / 200 <= 1  # 95 % ± 3 standard errors; fitting may only widen it


def test_simulated_comoments_are_those_of_simulated_samples() -> None:
    model = fit_factors(covariance(layer(width=20)), n_factors=5)
    order = np.arange(20)
    null = matched_null(model, order, sizes=[4, 12], count=300, repeats=200, seed=0)
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(model.covariance)
    direct = np.array(
        [
            residual_correlations(
                moments(rng.normal(size=(300, 20)) @ root.T).comoment, order, sizes=[4, 12]
            ).heldout
            for _ in range(200)
        ]
    )
    error = np.sqrt(null.var(axis=0) / 200 + direct.var(axis=0) / 200)
    assert (abs(null.mean(axis=0) - direct.mean(axis=0)) < 4 * error).all()
    np.testing.assert_allclose(null.std(axis=0), direct.std(axis=0), rtol=0.3)


def test_null_of_several_orders_is_their_mean_and_repeats_with_its_seed() -> None:
    model = fit_factors(covariance(layer(width=20)), n_factors=5)
    orders = random_subsets(20, subsets=3, seed=0)
    options: dict[str, Any] = {"sizes": [4, 12], "count": 300, "repeats": 2, "seed": 0}
    together = matched_null(model, orders, **options)
    each = [matched_null(model, order, **options) for order in orders]
    np.testing.assert_allclose(together, np.mean(each, axis=0))
    assert together.shape == (2, 2)


def test_impossible_models_are_named() -> None:
    c = covariance(layer(width=10))
    with pytest.raises(InvalidParameterError, match="0 to 9 for 10 neurons, not 10"):
        fit_factors(c, n_factors=10)
    with pytest.raises(InvalidDataError, match="2 of 10 neurons do not vary"):
        fit_factors(covariance(layer(width=10, dead=2)), n_factors=1)
    with pytest.raises(InvalidDataError, match="negative eigenvalue"):
        fit_factors(np.array([[1.0, 2.0], [2.0, 1.0]]), n_factors=1)
    with pytest.raises(InvalidDataError, match="2 samples"):
        choose_n_factors(c, count=2)
    with pytest.raises(InvalidParameterError, match="'gap' or 'bic'"):
        choose_n_factors(c, count=99, rule="elbow")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="repeats"):
        matched_null(
            fit_factors(c, n_factors=1), np.arange(10), sizes=[1], count=9, repeats=0, seed=0
        )


def test_layer_is_planted_as_asked() -> None:
    x = layer(width=40, dead=3, duplicates=4)
    assert alive(moments(x)).tolist() == [True] * 37 + [False] * 3
    np.testing.assert_array_equal(x[:, 33:37], x[:, :4])
    assert (x[:, 37:] == 0).all()
    np.testing.assert_array_equal(x, layer(width=40, dead=3, duplicates=4))
    assert not np.array_equal(x, layer(width=40, dead=3, duplicates=4, seed=1))
    assert layer(dtype=np.float32, samples=5).dtype == np.float32


def test_noise_correlation_changes_the_correlation_and_not_the_variance() -> None:
    x = layer(signals=0, noise=1.0, noise_correlation=0.5)
    r = np.corrcoef(x.T)[np.tril_indices(128, -1)]
    # Mixing 128 sources at random: r has variance c² / 128, and sampling adds 1 / N.
    assert r.std() == pytest.approx(np.sqrt(0.25 / 128 + 1e-4), rel=0.05)
    assert x.var() == pytest.approx(1, rel=0.03)


def test_layers_that_cannot_be_planted_are_refused() -> None:
    for options in ({"dead": 6}, {"duplicates": 4}, {"signals": -1}):
        with pytest.raises(InvalidParameterError, match="make it wider"):
            layer(width=6, **options)
    with pytest.raises(InvalidParameterError, match="noise_correlation"):
        layer(noise_correlation=1.5)


def test_planted_clones_are_mixtures_of_the_same_signals() -> None:
    x, labels = planted_clones(samples=400, clones=3, clone_size=5, noise=0.0, seed=0, dtype="f8")
    assert np.bincount(labels).tolist() == [5, 5, 5]
    for clone in range(3):
        part = x[:, labels == clone]
        assert np.linalg.cond(part) < 2  # invertible, and well so
        np.testing.assert_allclose(part @ np.linalg.lstsq(part, x)[0], x, atol=1e-10)
    assert not np.array_equal(labels, np.sort(labels))


def test_planted_dataset_is_lazy_and_differs_between_epochs() -> None:
    with raise_if_computes():
        data = planted_dataset(width=6, samples=50)
    assert data.activations.chunks == ((1, 1), (50,), (6,))
    assert float(data.activations.std("sample").diff("epoch").mean()) < 0  # noise 1.0, then 0.3


def test_computing_inside_the_guard_raises_and_outside_does_not() -> None:
    total = dask.array.ones(4).sum()
    with raise_if_computes(), pytest.raises(AssertionError, match="must stay lazy"):
        total.compute()
    assert total.compute() == 4
