"""Residual correlations against the paper's script, and their floor against simulation."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.independence import (
    marchenko_pastur_edge,
    residual_correlations,
    residual_covariance,
    sampling_floor,
)
from actstore.kernels.moments import moments
from actstore.kernels.reconstruction import prefix_r2, random_subsets
from actstore.testing import planted_layer

from . import oracle

Array = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def layer(**kwargs: Any) -> Array:
    options = {"samples": 400, "width": 20, "signals": 4, "seed": 0, "dtype": np.float64}
    return planted_layer(**(options | kwargs))


def correlation_matrix(x: Array, subset: Array) -> Array:
    return np.asarray(np.corrcoef(oracle.residuals(x, subset)[:, oracle.outside(x, subset)].T))


@pytest.mark.parametrize(
    "options", [{}, {"noise": 0.01}, {"noise_correlation": 0.7}, {"samples": 30}], ids=str
)
def test_residual_correlation_equals_the_papers_script_at_every_size(
    options: dict[str, Any],
) -> None:
    x = layer(**options)
    order = random_subsets(20, subsets=1, seed=1)[0]
    sizes = list(range(1, 21))
    found = residual_correlations(moments(x).comoment, order, sizes=sizes)
    for k, w in enumerate(sizes[:18]):
        heldout = np.abs(correlation_matrix(x, order[:w])[np.tril_indices(20 - w, -1)]).mean()
        # The ridge, 1e-8 of the variance, is 1e-4 of the residual one at the lowest noise here.
        assert found.heldout[k] == pytest.approx(heldout, abs=2e-5)
        assert found.paper[k] == pytest.approx(oracle.residual_correlation(x, order[:w]), abs=1e-4)
    assert np.isnan(found.heldout[18:]).all()
    assert found.paper[18:].tolist() == [0, 0]


def test_residual_correlation_of_a_wide_layer_equals_the_papers_script() -> None:
    x = layer(samples=3000, width=200, signals=10)
    order = random_subsets(200, subsets=1, seed=1)[0]
    sizes = [1, 16, 64, 150, 197, 198]
    found = residual_correlations(moments(x).comoment, order, sizes=sizes, eigenvalues=True)
    for k, w in enumerate(sizes):
        expected = oracle.residual_correlation_heldout(x, order[:w])
        assert found.heldout[k] == pytest.approx(expected, rel=1e-6)
        assert found.paper[k] == pytest.approx(oracle.residual_correlation(x, order[:w]), abs=1e-7)
        largest = np.linalg.eigvalsh(correlation_matrix(x, order[:w]))[-1]
        assert found.largest_eigenvalue[k] == pytest.approx(largest, rel=1e-4)


def test_papers_value_is_the_heldout_one_times_the_share_of_pairs() -> None:
    sizes = np.arange(1, 19)
    found = residual_correlations(moments(layer()).comoment, np.arange(20), sizes=sizes.tolist())
    share = (20 - sizes) * (19 - sizes) / (20 * 19)
    np.testing.assert_allclose(found.paper, found.heldout * share)


def test_neurons_that_the_subset_reproduces_are_counted_out() -> None:
    x = layer(width=26, duplicates=6)  # neurons 20 … 25 copy 0 … 5
    order = np.arange(26)
    found = residual_correlations(moments(x).comoment, order, sizes=[8, 19], eigenvalues=True)
    for k, w in enumerate([8, 19]):
        subset = order[:w]
        without = oracle.residual_correlation_heldout(x[:, :20], subset) if w < 19 else np.nan
        assert found.heldout[k] == pytest.approx(without, rel=1e-5, nan_ok=True)
        assert found.paper[k] == pytest.approx(oracle.residual_correlation(x, subset), abs=1e-6)
    largest = np.linalg.eigvalsh(correlation_matrix(x[:, :20], order[:8]))[-1]
    assert found.largest_eigenvalue[0] == pytest.approx(largest, rel=1e-5)


def test_duplicates_outside_the_subset_correlate_fully() -> None:
    x = layer(width=22, duplicates=2)
    order = np.concatenate([np.arange(2, 20), [0, 20, 1, 21]])  # both pairs of copies outside
    found = residual_correlations(moments(x).comoment, order, sizes=[18])
    r = correlation_matrix(x, order[:18])
    assert found.heldout[0] == pytest.approx(np.abs(r[np.tril_indices(4, -1)]).mean(), rel=1e-6)
    assert found.heldout[0] > 1 / 3  # two of the six pairs have r = 1


@pytest.mark.parametrize("ridge", [0.0, 1e-8])
def test_layer_without_noise_leaves_no_residual_to_correlate(ridge: float) -> None:
    c = moments(layer(width=60, noise=0.0)).comoment
    order = random_subsets(60, subsets=1, seed=0)[0]
    found = residual_correlations(c, order, sizes=[2, 20, 50], ridge=ridge, eigenvalues=True)
    assert found.heldout[0] > 0.1  # two of four signals: what is left is shared
    assert np.isnan(found.heldout[1:]).all()
    assert np.isnan(found.largest_eigenvalue[1:]).all()
    assert found.paper[1:].tolist() == [0, 0]


def test_without_ridge_a_layer_of_lower_rank_gives_the_same_numbers() -> None:
    c = moments(layer(width=26, duplicates=6)).comoment
    order = random_subsets(26, subsets=1, seed=0)[0]
    sizes = [4, 10, 20, 23]
    a = residual_correlations(c, order, sizes=sizes, ridge=0.0)
    b = residual_correlations(c, order, sizes=sizes)
    np.testing.assert_allclose(a.heldout, b.heldout, rtol=1e-5)


def test_round_off_beyond_the_ridge_is_survived() -> None:
    x = layer(width=40, noise=0.0)
    c = moments(x).comoment
    error = np.random.default_rng(0).normal(size=c.shape) * 1e-10 * np.trace(c)
    order = np.arange(40)
    found = residual_correlations(c + error + error.T, order, sizes=[2, 10, 30], ridge=0.0)
    expected = oracle.residual_correlation_heldout(x, order[:2])
    assert found.heldout[0] == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(found.paper).all()


def test_ridge_does_not_bias_the_residuals_near_full_size() -> None:
    c = moments(layer(width=40, noise=0.01)).comoment  # residual variance 1e-4 of the whole
    order = random_subsets(40, subsets=1, seed=0)[0]
    a = residual_correlations(c, order, sizes=[20, 37, 38], ridge=1e-8)
    b = residual_correlations(c, order, sizes=[20, 37, 38], ridge=0.0)
    np.testing.assert_allclose(a.heldout, b.heldout, rtol=1e-4)


def test_sizes_come_back_in_the_order_asked_for() -> None:
    c = moments(layer()).comoment
    order = random_subsets(20, subsets=1, seed=4)[0]
    mixed = residual_correlations(c, order, sizes=[9, 3, 20, 9, 1])
    for k, w in enumerate([9, 3, 20, 9, 1]):
        alone = residual_correlations(c, order, sizes=[w])
        np.testing.assert_allclose(mixed.heldout[k], alone.heldout[0], rtol=1e-10)
    assert np.isnan(mixed.largest_eigenvalue).all()
    assert residual_correlations(c, order, sizes=[]).heldout.shape == (0,)


@given(seeds, st.integers(1, 19))
@settings(max_examples=30)
def test_residual_covariance_is_the_covariance_of_the_residuals(seed: int, size: int) -> None:
    x = layer(samples=60, seed=seed)
    order = np.random.default_rng(seed).permutation(20)
    c = moments(x).comoment
    found = residual_covariance(c, order, size)
    left = oracle.residuals(x, order[:size])[:, order[size:]]
    np.testing.assert_allclose(found, left.T @ left, atol=1e-7 * np.trace(c))
    sse = np.trace(found) / np.trace(c)
    assert 1 - sse == pytest.approx(prefix_r2(c, order)[0][size - 1], abs=1e-7)


@given(seeds, st.floats(0.01, 100))
@settings(max_examples=30)
def test_scale_and_order_within_the_subset_do_not_matter(seed: int, scale: float) -> None:
    c = moments(layer()).comoment
    rng = np.random.default_rng(seed)
    order = rng.permutation(20)
    shuffled = np.concatenate([rng.permutation(order[:8]), rng.permutation(order[8:])])
    a = residual_correlations(c, order, sizes=[8], eigenvalues=True)
    b = residual_correlations(scale * c, shuffled, sizes=[8], eigenvalues=True)
    np.testing.assert_allclose(a, b, rtol=1e-8)


def test_sizes_out_of_range_and_dead_layers_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match="size 0 is out of range"):
        residual_correlations(np.eye(4), np.arange(4), sizes=[0])
    with pytest.raises(InvalidParameterError, match="choose 1 to 4"):
        residual_covariance(np.eye(4), np.arange(4), 5)
    with pytest.raises(InvalidDataError, match="nothing to explain"):
        residual_correlations(np.zeros((4, 4)), np.arange(4), sizes=[1])
    assert residual_covariance(np.eye(4), np.arange(4), 4).shape == (0, 0)


def test_floor_and_edge_are_those_of_independent_noise() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 200))
    r = np.corrcoef(x.T)
    measured = np.abs(r[np.tril_indices(200, -1)]).mean()
    assert measured == pytest.approx(sampling_floor(1999), rel=0.01)
    assert np.linalg.eigvalsh(r)[-1] == pytest.approx(marchenko_pastur_edge(200, 1999), rel=0.03)


def test_floor_and_edge_take_arrays_and_are_nan_without_degrees_of_freedom() -> None:
    assert sampling_floor([100, 400]) == pytest.approx(np.sqrt(2 / np.pi) / np.array([10, 20]))
    assert np.isnan(sampling_floor(0))
    assert marchenko_pastur_edge([1, 4], 4).tolist() == [2.25, 4.0]
    assert np.isnan(marchenko_pastur_edge(5, -1))
