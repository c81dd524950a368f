"""Averages, paired tests and bias and variance against scipy, brute force and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from actstore.errors import InvalidParameterError
from actstore.kernels.ensembles import (
    average_logits,
    average_probabilities,
    bias_variance,
    mcnemar,
)

# -- averages -----------------------------------------------------------------------------


def test_averages_are_means_over_members():
    members = np.random.default_rng(0).normal(size=(3, 5, 4)) * 3
    softmax = np.exp(members) / np.exp(members).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(average_logits(members), members.mean(axis=0))
    np.testing.assert_allclose(average_probabilities(members), softmax.mean(axis=0))
    np.testing.assert_array_equal(average_logits(list(members)), average_logits(members))


def test_probabilities_of_huge_logits_are_finite_and_sum_to_one():
    members = np.random.default_rng(0).normal(size=(2, 6, 4)) * 1e5
    answer = average_probabilities(members.astype(np.float32))
    np.testing.assert_allclose(answer.sum(axis=-1), 1, rtol=1e-12)


def test_one_member_is_its_own_ensemble():
    z = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_array_equal(average_logits([z]), z)


# -- paired test --------------------------------------------------------------------------


def paired(both, only_a, only_b, neither):
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    turn = np.random.default_rng(0).permutation(len(a))
    return a[turn], b[turn]


@settings(max_examples=60)
@given(cells=st.tuples(*[st.integers(0, 40)] * 4).filter(lambda c: sum(c) > 0))
def test_p_value_is_the_exact_binomial_one(cells):
    _, only_a, only_b, neither = cells
    answer = mcnemar(*paired(*cells))
    n = only_a + only_b
    # two-sided by brute force: all outcomes no likelier than the one seen
    outcomes = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    expected = outcomes[outcomes <= outcomes[only_a] * (1 + 1e-7)].sum()
    assert (answer.only_a, answer.only_b, answer.n_samples) == (only_a, only_b, sum(cells))
    assert answer.p_value == pytest.approx(min(1, expected), rel=1e-9)
    error_a, error_b = only_b + neither, only_a + neither
    assert answer.difference == pytest.approx((error_a - error_b) / sum(cells))
    assert -1 <= answer.low <= answer.high <= 1


def test_statistic_is_the_chi_square_of_the_discordant_counts():
    answer = mcnemar(*paired(50, 30, 12, 8))
    chi2 = stats.chisquare([30, 12]).statistic
    assert answer.statistic == pytest.approx(chi2)


def test_interval_is_walds_on_cells_with_half_a_sample_more():
    cells = np.array([50, 30, 12, 8])
    answer = mcnemar(*paired(*cells), level=0.9)
    p = (cells + 0.5) / (cells + 0.5).sum()
    middle = p[2] - p[1]
    half = stats.norm.ppf(0.95) * np.sqrt((p[1] + p[2] - middle**2) / (cells.sum() + 2))
    assert (answer.low, answer.high) == pytest.approx((middle - half, middle + half))


def test_swapping_the_two_swaps_the_sides():
    a, b = paired(50, 30, 12, 8)
    one, two = mcnemar(a, b), mcnemar(b, a)
    assert (one.only_a, one.only_b) == (two.only_b, two.only_a)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert one.p_value == two.p_value


def test_equal_answers_say_nothing_but_leave_an_interval():
    a, _ = paired(90, 0, 0, 10)
    answer = mcnemar(a, a)
    assert (answer.p_value, answer.statistic, answer.difference) == (1.0, 0.0, 0.0)
    assert answer.low < 0 < answer.high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "p_a", "p_b", "least"),
    [
        (200, 0.1, 0.05, 0.938),
        (1000, 0.02, 0.02, 0.938),
        (60, 0.25, 0.05, 0.938),
        # where b is never the only one that is right the interval is a little short: summed
        # over all outcomes, its exact coverage is 93.3 %
        (60, 0.3, 0.0, 0.92),
    ],
)
def test_interval_covers_the_true_difference_in_95_of_100_simulations(n, p_a, p_b, least):
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [1 - p_a - p_b - 0.1, p_a, p_b, 0.1], size=3000)
    hits = 0
    for cells in draws:
        answer = mcnemar(*paired(*cells))
        hits += answer.low <= p_b - p_a <= answer.high
    # the binomial sd of 3000 is 0.4 %; Agresti and Min's interval errs on the wide side
    assert least <= hits / 3000 <= 0.995


# -- bias and variance --------------------------------------------------------------------


def softmax_outputs(seeds=6, samples=40, outputs=5, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, outputs)) + rng.normal(size=(seeds, samples, outputs))
    p = np.exp(z)
    return p / p.sum(axis=-1, keepdims=True), rng.integers(outputs, size=samples)


@pytest.mark.parametrize("unbiased", [True, False])
def test_bias_and_variance_add_up_to_the_loss(unbiased):
    p, labels = softmax_outputs()
    loss = np.square(p - np.eye(5)[labels]).sum(axis=-1).mean()
    assert sum(bias_variance(p, labels, unbiased=unbiased)) == pytest.approx(loss, rel=1e-12)


def test_plug_in_terms_are_the_definitions():
    p, labels = softmax_outputs()
    bias2, variance = bias_variance(p, labels, unbiased=False)
    assert bias2 == pytest.approx(np.square(p.mean(0) - np.eye(5)[labels]).sum(-1).mean())
    assert variance == pytest.approx(p.var(axis=0).sum(axis=-1).mean())


def test_unbiased_variance_is_half_the_mean_squared_distance_between_two_seeds():
    p, labels = softmax_outputs()
    distances = [np.square(a - b).sum(axis=-1).mean() / 2 for a, b in itertools.combinations(p, 2)]
    assert bias_variance(p, labels).variance == pytest.approx(np.mean(distances))


def test_unbiased_terms_do_not_depend_on_the_number_of_seeds():
    p, labels = softmax_outputs(seeds=6)
    whole = bias_variance(p, labels)
    # the mean over all pairs of the estimator from two seeds is the estimator from all seeds
    pairs = [bias_variance(p[list(two)], labels) for two in itertools.combinations(range(6), 2)]
    assert np.mean(pairs, axis=0) == pytest.approx(tuple(whole))


def test_a_single_seed_has_no_unbiased_variance():
    p, labels = softmax_outputs(seeds=1)
    assert np.isnan(bias_variance(p, labels)).all()
    assert bias_variance(p, labels, unbiased=False).variance == 0


# -- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: average_logits([]), "at least one"),
        (lambda: average_logits([np.ones((2, 3)), np.ones((2, 4))]), "shapes"),
        (lambda: average_probabilities(np.ones((2, 3))), "sample, output"),
        (lambda: mcnemar([True], [True, False]), "same samples"),
        (lambda: mcnemar([], []), "same samples"),
        (lambda: mcnemar([True], [True], level=1), "level"),
        (lambda: bias_variance(np.ones((2, 3)), [0, 1]), "seed, sample, output"),
        (lambda: bias_variance(np.ones((2, 3, 4)), [0, 1, 4]), "for 4 outputs"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(InvalidParameterError, match=message):
        call()
