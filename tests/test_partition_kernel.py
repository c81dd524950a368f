"""Partitions and greedy clones against regressions, brute force and planted layers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.greedy import greedy_partition, largest_random_partition
from actstore.kernels.partition import (
    clone_to_clone_r2,
    partition_r2,
    partition_residual_correlation,
    random_partition,
    subset_r2,
)
from actstore.kernels.spectrum import component_bound, components_needed, spectrum


def planted(neurons, signals, noise, *, seed=0, samples=1500, decay=1.0):
    """Return activations of dense random mixtures of signals plus independent noise."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(neurons, signals)) * decay ** np.arange(signals)
    x = rng.normal(size=(samples, signals)) @ mixing.T
    return x + noise * rng.normal(size=(samples, neurons)) + rng.normal(size=neurons)


def comoment_of(x):
    centred = x - x.mean(axis=0)
    return centred.T @ centred


def regression(x, subset, *, ridge=1e-8):
    """Return the residuals of regressing every neuron on the subset, by scikit-learn."""
    alpha = ridge * np.trace(comoment_of(x)) / x.shape[1]
    fit = Ridge(alpha=alpha).fit(x[:, subset], x)
    return x - fit.predict(x[:, subset])


def heldout_by_regression(x, subset, predicted):
    residuals = regression(x, subset)
    return r2_score(x[:, predicted], (x - residuals)[:, predicted], multioutput="variance_weighted")


# -- subsets ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 8, 23])
def test_subset_r2_equals_ridge_regression(size):
    x = planted(24, 5, 0.3)
    subset = np.random.default_rng(size).permutation(24)[:size]
    outside = np.setdiff1d(np.arange(24), subset)
    r2, heldout = subset_r2(comoment_of(x), subset)
    assert r2 == pytest.approx(heldout_by_regression(x, subset, np.arange(24)), abs=1e-7)
    assert heldout == pytest.approx(heldout_by_regression(x, subset, outside), abs=1e-7)


def test_subset_of_all_neurons_explains_everything_and_leaves_nothing_outside():
    r2, heldout = subset_r2(comoment_of(planted(12, 3, 0.5)), range(12))
    assert r2 == pytest.approx(1, abs=1e-12)
    assert np.isnan(heldout)


def test_duplicate_neurons_are_no_error_with_a_ridge_and_one_sentence_without():
    x = planted(6, 3, 0.2)
    x = np.concatenate([x, x], axis=1)
    comoment = comoment_of(x)
    r2, heldout = subset_r2(comoment, [0, 6, 1])
    assert r2 == pytest.approx(subset_r2(comoment, [0, 1])[0], abs=1e-6)
    assert 0 < heldout < 1
    exact = np.array([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(InvalidDataError, match="positive ridge"):
        subset_r2(exact, [0, 1], ridge=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 9), scale=st.floats(1e-3, 1e3))
def test_r2_does_not_depend_on_neuron_order_or_scale_and_grows_with_the_subset(seed, size, scale):
    comoment = comoment_of(planted(10, 4, 0.5, seed=seed, samples=60))
    order = np.random.default_rng(seed).permutation(10)
    r2, heldout = subset_r2(comoment, order[:size])
    assert heldout <= r2 + 1e-12
    turned = np.argsort(order)
    permuted = comoment[np.ix_(order, order)] * scale
    assert subset_r2(permuted, turned[order[:size]]) == pytest.approx((r2, heldout), abs=1e-7)
    if size < 9:
        assert subset_r2(comoment, order[: size + 1])[0] >= r2 - 1e-9


# -- partitions ---------------------------------------------------------------------------


@settings(max_examples=50)
@given(n=st.integers(1, 60), data=st.data())
def test_random_partition_has_equal_disjoint_parts_and_a_remainder(n, data):
    size = data.draw(st.integers(1, n))
    labels = random_partition(n, size, seed=3)
    assert labels.shape == (n,)
    assert labels.dtype == np.int64
    assert np.array_equal(np.bincount(labels[labels >= 0]), np.full(n // size, size))
    assert (labels == -1).sum() == n % size
    assert np.array_equal(labels, random_partition(n, size, seed=3))


def test_random_partitions_are_uniform_over_neurons():
    counts = sum(random_partition(10, 3, seed=seed) == -1 for seed in range(2000))
    # a neuron is left over in a tenth of the draws: binomial sd 13
    assert np.abs(counts - 200).max() < 5 * 13.4


def test_partition_r2_is_subset_r2_of_every_part():
    comoment = comoment_of(planted(20, 4, 0.3))
    labels = random_partition(20, 6, seed=1)
    r2, heldout = partition_r2(comoment, labels)
    expected = [subset_r2(comoment, np.flatnonzero(labels == part)) for part in range(3)]
    np.testing.assert_allclose(np.stack([r2, heldout], axis=1), expected, rtol=1e-12)


def test_clone_to_clone_r2_equals_regression_of_one_part_on_another():
    x = planted(18, 4, 0.4, seed=2)
    labels = random_partition(18, 5, seed=0)
    result = clone_to_clone_r2(comoment_of(x), labels)
    expected = [
        [
            heldout_by_regression(x, np.flatnonzero(labels == i), np.flatnonzero(labels == j))
            for j in range(3)
        ]
        for i in range(3)
    ]
    np.testing.assert_allclose(result, expected, atol=1e-7)
    np.testing.assert_allclose(np.diagonal(result), 1, atol=1e-6)


def test_residual_correlation_equals_that_of_regression_residuals():
    x = planted(18, 4, 0.4, seed=3)
    labels = random_partition(18, 7, seed=0)
    expected = []
    for part in range(2):
        outside = np.flatnonzero(labels != part)
        correlation = np.corrcoef(regression(x, np.flatnonzero(labels == part))[:, outside].T)
        expected.append(np.abs(correlation[np.tril_indices(len(outside), -1)]).mean())
    result = partition_residual_correlation(comoment_of(x), labels)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_copies_of_a_clone_leave_no_residual_to_correlate():
    x = planted(8, 8, 0.5)
    comoment = comoment_of(np.concatenate([x, x], axis=1))
    assert np.isnan(partition_residual_correlation(comoment, np.repeat([0, 1], 8))).all()


def test_a_partition_without_parts_has_no_values():
    comoment = np.eye(4)
    labels = np.full(4, -1)
    assert partition_r2(comoment, labels)[0].shape == (0,)
    assert clone_to_clone_r2(comoment, labels).shape == (0, 0)
    assert partition_residual_correlation(comoment, labels).shape == (0,)


# -- the bound ----------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99, 1.0])
def test_components_needed_are_those_of_the_singular_values(threshold):
    x = planted(15, 4, 0.3)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    share = np.cumsum(values) / values.sum()
    expected = next(k for k in range(1, 16) if share[k - 1] >= threshold - 1e-12)
    eigenvalues = spectrum(comoment_of(x), len(x))
    assert components_needed(eigenvalues, threshold) == expected
    assert component_bound(eigenvalues, threshold) == 15 // expected


@pytest.mark.parametrize("seed", range(5))
def test_no_subset_smaller_than_the_components_reaches_the_threshold(seed):
    comoment = comoment_of(planted(9, 4, 0.2, seed=seed))
    smaller = components_needed(spectrum(comoment, 2), 0.9) - 1
    best = max(subset_r2(comoment, s)[0] for s in itertools.combinations(range(9), smaller))
    assert best < 0.9


# -- greedy -------------------------------------------------------------------------------


def most_clones(comoment, threshold, criterion):
    """Return the largest number of disjoint clones, by looking at every subset."""
    n = len(comoment)
    clones = [
        sum(1 << i for i in s)
        for w in range(1, n)
        for s in itertools.combinations(range(n), w)
        if subset_r2(comoment, s)[criterion == "heldout"] >= threshold
    ]
    minimal = [c for c in clones if not any(d != c and d & c == d for d in clones)]

    def search(used, start):
        rest = [
            1 + search(used | minimal[i], i + 1)
            for i in range(start, len(minimal))
            if not used & minimal[i]
        ]
        return max(rest, default=0)

    return search(0, 0)


@pytest.mark.parametrize("criterion", ["heldout", "paper"])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_finds_nearly_as_many_clones_as_exist(seed, criterion):
    comoment = comoment_of(planted(9, 2, 0.25, seed=seed, samples=300))
    exist = most_clones(comoment, 0.9, criterion)
    found = greedy_partition(comoment, 0.9, criterion=criterion).max() + 1
    assert exist <= component_bound(spectrum(comoment, 2), 0.9)
    assert exist - 1 <= found <= exist


@pytest.mark.parametrize("criterion", ["heldout", "paper"])
@pytest.mark.parametrize("improve", [True, False])
def test_every_greedy_clone_reaches_the_threshold(criterion, improve):
    comoment = comoment_of(planted(64, 6, 0.3, decay=0.8))
    labels = greedy_partition(comoment, 0.85, criterion=criterion, improve=improve)
    values = [
        subset_r2(comoment, np.flatnonzero(labels == clone))[criterion == "heldout"]
        for clone in range(labels.max() + 1)
    ]
    assert len(values) >= 2
    assert min(values) >= 0.85


@pytest.mark.parametrize(
    ("neurons", "signals", "noise", "decay", "threshold"),
    [
        (128, 8, 0.1, 1.0, 0.95),
        (256, 10, 0.1, 1.0, 0.95),
        (256, 10, 0.3, 1.0, 0.9),
        (256, 10, 0.1, 0.8, 0.95),
    ],
)
def test_greedy_certifies_most_of_the_bound_on_planted_layers(
    neurons, signals, noise, decay, threshold
):
    comoment = comoment_of(planted(neurons, signals, noise, decay=decay))
    bound = component_bound(spectrum(comoment, 2), threshold)
    greedy = greedy_partition(comoment, threshold).max() + 1
    assert greedy >= 0.85 * bound
    assert greedy > largest_random_partition(comoment, threshold, repeats=1).max() + 1


def test_improvement_never_loses_a_clone():
    for seed in range(3):
        comoment = comoment_of(planted(80, 6, 0.3, seed=seed, decay=0.7))
        plain = greedy_partition(comoment, 0.9, improve=False).max()
        assert greedy_partition(comoment, 0.9).max() >= plain


def test_greedy_finds_exact_copies():
    x = planted(7, 7, 0.1)
    comoment = comoment_of(np.tile(x, (1, 5)))
    assert greedy_partition(comoment, 0.999).max() + 1 == 5


@pytest.mark.parametrize("find", [greedy_partition, largest_random_partition])
def test_independent_neurons_hold_no_clones(find):
    x = np.random.default_rng(0).normal(size=(3000, 40))
    assert find(comoment_of(x), 0.9).max() == -1


def test_max_clones_stops_the_search():
    labels = greedy_partition(comoment_of(planted(60, 4, 0.1)), 0.9, max_clones=3)
    assert labels.max() + 1 == 3


def test_greedy_is_the_same_for_the_same_seed():
    comoment = comoment_of(planted(90, 6, 0.3, decay=0.8))
    first, second = (greedy_partition(comoment, 0.9, seed=4) for _ in range(2))
    assert np.array_equal(first, second)


def test_greedy_does_not_change_the_comoment():
    comoment = comoment_of(planted(40, 4, 0.2))
    before = comoment.copy()
    greedy_partition(comoment, 0.9)
    partition_r2(comoment, random_partition(40, 5, seed=0))
    assert np.array_equal(comoment, before)


def test_the_clones_of_the_random_partition_reach_the_threshold():
    comoment = comoment_of(planted(60, 5, 0.2))
    labels = largest_random_partition(comoment, 0.9)
    assert labels.max() >= 1
    assert partition_r2(comoment, labels)[1].min() >= 0.9


# -- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: subset_r2(np.eye(3), []), InvalidParameterError, "between 0 and 2"),
        (lambda: subset_r2(np.eye(3), [3]), InvalidParameterError, "between 0 and 2"),
        (lambda: subset_r2(np.eye(3), [1, 1]), InvalidParameterError, "twice"),
        (lambda: subset_r2(np.ones((2, 3)), [0]), InvalidDataError, "square"),
        (lambda: subset_r2(np.full((2, 2), np.nan), [0]), InvalidDataError, "NaN"),
        (lambda: subset_r2(np.zeros((2, 2)), [0]), InvalidDataError, "dead"),
        (lambda: subset_r2(np.eye(3), [0], ridge=-1), InvalidParameterError, "negative"),
        (lambda: random_partition(4, 5, seed=0), InvalidParameterError, "between 1 and 4"),
        (lambda: partition_r2(np.eye(3), [0, 2, -1]), InvalidParameterError, "gap"),
        (lambda: partition_r2(np.eye(3), [0, 1]), InvalidParameterError, "one label"),
        (lambda: greedy_partition(np.eye(3), np.nan), InvalidParameterError, "threshold"),
        (
            lambda: greedy_partition(np.eye(3), 0.9, criterion="best"),
            InvalidParameterError,
            "'heldout' or 'paper'",
        ),
        (
            lambda: greedy_partition(np.eye(3), 0.9, max_clones=0),
            InvalidParameterError,
            "at least 1",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
