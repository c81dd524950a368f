"""R² of subsets against scikit-learn's ridge regression, and its laws."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.moments import Moments, accumulate, alive, moments
from actstore.kernels.reconstruction import (
    critical_size,
    cross_prefix_r2,
    prefix_factor,
    prefix_r2,
    r2_curves,
    random_subsets,
)
from actstore.testing import planted_clones, planted_layer

from . import oracle

Array = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def layer(**kwargs: Any) -> Array:
    options = {"samples": 400, "width": 20, "signals": 4, "seed": 0, "dtype": np.float64}
    return planted_layer(**(options | kwargs))


def comoment(x: Array) -> Array:
    return moments(x).comoment


@pytest.mark.parametrize("kind", ["planted", "low noise", "duplicates", "rank deficient", "wide"])
def test_r2_equals_ridge_regression_at_every_size(kind: str) -> None:
    x = {
        "planted": lambda: layer(),
        "low noise": lambda: layer(noise=1e-3),
        "duplicates": lambda: layer(duplicates=8),
        "rank deficient": lambda: layer(noise=0.0),
        "wide": lambda: layer(samples=15),  # fewer samples than neurons
    }[kind]()
    order = random_subsets(20, subsets=1, seed=1)[0]
    r2, r2_heldout = prefix_r2(comoment(x), order)
    for w in range(1, 21):
        assert r2[w - 1] == pytest.approx(oracle.r2(x, order[:w]), abs=1e-5)
        if w < 20:
            assert r2_heldout[w - 1] == pytest.approx(oracle.r2_heldout(x, order[:w]), abs=1e-5)
    assert np.isnan(r2_heldout[-1])


def test_r2_of_float32_activations_equals_ridge_regression_in_float64() -> None:
    x = layer(samples=2000, width=64, signals=10, dtype=np.float32)
    order = random_subsets(64, subsets=1, seed=2)[0]
    r2, r2_heldout = prefix_r2(comoment(x), order)
    for w in (1, 4, 16, 32, 63):
        exact = x.astype(np.float64)  # the tolerance is the relative ridge; scikit-learn has none
        assert r2[w - 1] == pytest.approx(oracle.r2(exact, order[:w]), abs=1e-8)
        assert r2_heldout[w - 1] == pytest.approx(oracle.r2_heldout(exact, order[:w]), abs=1e-8)


def test_a_large_ridge_equals_the_same_ridge_regression_outside_the_subset() -> None:
    # The closed form leaves λ‖β‖² out of account, a relative error of order λ: seen only here.
    x = layer()
    c = comoment(x)
    order = np.arange(20)
    previous = None
    for ridge in (1e-2, 1e-3, 1e-4):
        model = Ridge(alpha=ridge * np.trace(c) / 20).fit(x[:, :10], x[:, 10:])
        expected = r2_score(x[:, 10:], model.predict(x[:, :10]), multioutput="variance_weighted")
        error = abs(prefix_r2(c, order, ridge=ridge)[1][9] - expected)
        assert error < ridge
        assert previous is None or error < previous / 5
        previous = error


@pytest.mark.parametrize("ridge", [0.0, 1e-8])
def test_rank_deficient_layer_is_explained_by_as_many_neurons_as_it_has_signals(
    ridge: float,
) -> None:
    c = comoment(layer(samples=100, width=30, signals=5, noise=0.0))
    r2, r2_heldout = r2_curves(c, subsets=4, seed=0, ridge=ridge)
    assert (r2[:, 3] < 0.999).all()
    np.testing.assert_allclose(r2[:, 4:], 1, atol=1e-5)
    np.testing.assert_allclose(r2_heldout[:, 4:-1], 1, atol=1e-5)


def test_fallback_without_cholesky_gives_the_same_factor() -> None:
    c = comoment(layer())
    order = random_subsets(20, subsets=1, seed=3)[0]
    singular = comoment(layer(duplicates=5))
    factor = prefix_factor(singular, order, jitter=0.0)
    np.testing.assert_array_equal(factor, np.tril(factor))
    np.testing.assert_allclose(factor @ factor.T, singular[np.ix_(order, order)], atol=1e-10)
    np.testing.assert_allclose(
        prefix_factor(c, order, jitter=0.5),
        np.linalg.cholesky(c[np.ix_(order, order)] + 0.5 * np.eye(20)),
        rtol=1e-10,
    )


def test_matrix_that_is_no_comoment_is_refused() -> None:
    with pytest.raises(InvalidDataError, match="negative eigenvalue -1"):
        prefix_r2(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([0, 1]))


def test_layer_of_dead_neurons_is_refused() -> None:
    with pytest.raises(InvalidDataError, match="nothing to explain"):
        prefix_r2(np.zeros((3, 3)), np.arange(3))
    with pytest.raises(InvalidDataError, match="nothing to explain"):
        prefix_r2(np.full((2, 2), np.nan), np.arange(2))
    with pytest.raises(InvalidParameterError, match="ridge"):
        prefix_r2(np.eye(3), np.arange(3), ridge=-1.0)


def test_single_neuron_explains_itself() -> None:
    r2, r2_heldout = prefix_r2(np.array([[3.0]]), np.array([0]))
    assert r2.tolist() == [1.0]
    assert np.isnan(r2_heldout).all()


@given(seeds, st.integers(1, 12), st.integers(1, 30), st.floats(0, 2))
@settings(max_examples=50)
def test_r2_never_falls_as_a_subset_grows(seed: int, k: int, samples: int, noise: float) -> None:
    c = comoment(layer(samples=samples + 1, width=12, signals=k, noise=noise, seed=seed))
    r2, r2_heldout = prefix_r2(c, np.random.default_rng(seed).permutation(12))
    assert (np.diff(r2) >= 0).all()
    assert r2[-1] == 1
    assert ((r2 >= 0) & (r2 <= 1)).all()
    assert (r2_heldout[:-1] <= r2[:-1] + 1e-12).all()


@given(seeds, st.floats(-50, 50), st.floats(0.01, 100))
@settings(max_examples=30)
def test_shift_and_scale_leave_r2_unchanged(seed: int, shift: float, scale: float) -> None:
    x = layer(samples=50, seed=seed)
    order = np.random.default_rng(seed).permutation(20)
    np.testing.assert_allclose(
        prefix_r2(comoment(shift + scale * x), order), prefix_r2(comoment(x), order), atol=1e-7
    )


@given(seeds)
@settings(max_examples=30)
def test_permuting_neurons_permutes_the_answer(seed: int) -> None:
    x = layer(samples=50)
    shuffle = np.random.default_rng(seed).permutation(20)
    np.testing.assert_allclose(
        prefix_r2(comoment(x[:, shuffle]), np.arange(20)), prefix_r2(comoment(x), shuffle)
    )


@given(seeds)
@settings(max_examples=30)
def test_order_within_the_subset_does_not_matter(seed: int) -> None:
    c = comoment(layer())
    rng = np.random.default_rng(seed)
    order = rng.permutation(20)
    shuffled = np.concatenate([rng.permutation(order[:8]), rng.permutation(order[8:])])
    np.testing.assert_allclose(
        np.array(prefix_r2(c, order))[:, 7], np.array(prefix_r2(c, shuffled))[:, 7], rtol=1e-9
    )


def test_random_subsets_are_permutations_and_more_of_them_keep_the_first() -> None:
    orders = random_subsets(30, subsets=5, seed=7)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(30), (5, 1)))
    np.testing.assert_array_equal(random_subsets(30, subsets=2, seed=7), orders[:2])
    assert len({tuple(row) for row in orders.tolist()}) == 5
    with pytest.raises(InvalidParameterError, match="at least 1"):
        random_subsets(30, subsets=0, seed=7)


def test_every_neuron_is_equally_likely_in_a_random_subset() -> None:
    orders = random_subsets(8, subsets=4000, seed=0)
    counts = np.bincount(orders[:, :3].ravel(), minlength=8)
    assert abs(counts / 4000 - 3 / 8).max() < 5 * np.sqrt(3 / 8 * 5 / 8 / 4000)


def test_curves_are_the_rows_of_the_random_subsets() -> None:
    c = comoment(layer())
    curves = r2_curves(c, subsets=3, seed=5)
    for t, order in enumerate(random_subsets(20, subsets=3, seed=5)):
        np.testing.assert_array_equal(curves[0][t], prefix_r2(c, order)[0])
        np.testing.assert_array_equal(curves[1][t], prefix_r2(c, order)[1])


def test_dead_neurons_left_out_change_nothing() -> None:
    x = layer(width=25, dead=5)
    m = moments(x)
    live = alive(m)
    assert live.sum() == 20
    order = random_subsets(20, subsets=1, seed=0)[0]
    np.testing.assert_allclose(
        prefix_r2(m.comoment[np.ix_(live, live)], order), prefix_r2(comoment(x[:, :20]), order)
    )


def split(**kwargs: Any) -> tuple[Array, Array]:
    x = layer(samples=600, **kwargs)
    x[400:] += np.linspace(-1, 1, x.shape[1])  # the second split has other means
    return x[:400], x[400:]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_r2_across_splits_equals_ridge_regression(noise: float) -> None:
    fit, score = split(noise=noise)
    order = random_subsets(20, subsets=1, seed=1)[0]
    sizes = list(range(1, 21))
    r2, r2_heldout = cross_prefix_r2(moments(fit), moments(score), order, sizes=sizes)
    if noise == 0:  # the shift is outside what the signals span: coefficients of order 1/λ there
        sizes = [1, 2, 3]
    for k, w in enumerate(sizes[:19]):
        assert r2[k] == pytest.approx(oracle.cross_r2(fit, score, order[:w]), abs=1e-5)
        expected = oracle.cross_r2_heldout(fit, score, order[:w])
        assert r2_heldout[k] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(r2_heldout[-1])


def test_r2_across_splits_with_fewer_fitted_samples_than_neurons_equals_ridge_regression() -> None:
    fit, score = split()
    order = random_subsets(20, subsets=1, seed=1)[0]
    r2, r2_heldout = cross_prefix_r2(moments(fit[:13]), moments(score), order, sizes=[4, 16])
    for k, w in enumerate([4, 16]):
        assert r2[k] == pytest.approx(oracle.cross_r2(fit[:13], score, order[:w]), abs=1e-5)
        expected = oracle.cross_r2_heldout(fit[:13], score, order[:w])
        assert r2_heldout[k] == pytest.approx(expected, rel=1e-5)  # it is −6


def test_r2_scored_on_the_split_it_was_fitted_on_is_plain_r2() -> None:
    m = moments(layer())
    order = random_subsets(20, subsets=1, seed=1)[0]
    across = cross_prefix_r2(m, m, order, sizes=range(1, 21))
    np.testing.assert_allclose(across, prefix_r2(m.comoment, order), atol=1e-7)


def test_splits_and_sizes_that_do_not_fit_are_refused() -> None:
    m = moments(layer())
    with pytest.raises(InvalidParameterError, match="size 21 is out of range"):
        cross_prefix_r2(m, m, np.arange(20), sizes=[1, 21])
    with pytest.raises(InvalidDataError, match="20 neurons and the other 19"):
        cross_prefix_r2(m, moments(layer(width=19)), np.arange(20), sizes=[1])
    with pytest.raises(InvalidDataError, match="nothing to explain"):
        cross_prefix_r2(moments(np.zeros((5, 20))), m, np.arange(20), sizes=[1])


def test_r2_across_splits_with_duplicates_equals_r2_without() -> None:
    fit, score = np.split(layer(samples=600, duplicates=5), 2)
    twice, once = np.array([0, 15, 1, 16, 2, 3]), np.array([0, 1, 2, 3])
    order = np.concatenate([twice, np.setdiff1d(np.arange(20), twice)])
    for ridge in (0.0, 1e-8):
        r2, _ = cross_prefix_r2(moments(fit), moments(score), order, sizes=[6], ridge=ridge)
        assert r2[0] == pytest.approx(oracle.cross_r2(fit, score, once), abs=1e-5)


def test_critical_size_is_the_first_size_at_the_threshold() -> None:
    curve = np.array([0.1, 0.5, 0.8, 0.9, np.nan])
    assert [critical_size(curve, t) for t in (0.1, 0.11, 0.8, 0.9, 0.95, 1.0)] == [1, 2, 3, 4, 5, 5]
    assert critical_size(np.array([0.2, 0.3]), 0.9) == 2
    for threshold in (0.0, 1.01, np.nan):
        with pytest.raises(InvalidParameterError, match="threshold"):
            critical_size(curve, threshold)
    with pytest.raises(InvalidParameterError, match="average first"):
        critical_size(np.zeros((2, 3)), 0.5)


def test_planted_clones_each_explain_the_layer_and_no_smaller_part_does() -> None:
    x, labels = planted_clones(samples=3000, clones=4, clone_size=8, noise=0.05, seed=0)
    c = moments(x).comoment
    for clone in range(4):
        order = np.argsort(labels != clone, kind="stable")
        _, r2_heldout = prefix_r2(c, order)
        assert r2_heldout[7] > 0.99
        assert critical_size(r2_heldout, 0.98) == 8


def test_moments_summed_in_blocks_give_the_same_curve() -> None:
    x = layer(samples=1000)
    whole, blocks = moments(x), accumulate(np.array_split(x, 7))
    assert isinstance(blocks, Moments)
    np.testing.assert_allclose(
        r2_curves(blocks.comoment, subsets=2, seed=0),
        r2_curves(whole.comoment, subsets=2, seed=0),
        rtol=1e-9,
    )
