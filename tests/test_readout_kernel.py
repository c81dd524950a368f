"""Errors of subsets and refitted readouts against the plain loop and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels import margins
from actstore.kernels.readout import (
    cross_entropy,
    error,
    logits,
    plain_and_rescaled_errors,
    readout_errors,
    subset_errors,
)
from actstore.kernels.refit import merge_cross_moments, one_hot_cross_moment, refit_weights


def layer(samples=300, neurons=20, outputs=4, *, seed=0, dtype=np.float64, scale=1.0):
    """Return activations, labels and a readout that is right on most of them."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(samples, neurons)), 0).astype(dtype) * dtype(scale)
    weight, bias = rng.normal(size=(outputs, neurons)), rng.normal(size=outputs)
    labels = (x @ weight.T + bias).argmax(axis=1)
    labels[::5] = rng.integers(outputs, size=len(labels[::5]))
    return x, labels, weight, bias


def orders_of(neurons, subsets, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(neurons) for _ in range(subsets)])


def loop(x, labels, weight, bias, orders, sizes, *, rescale=False):
    """Return wrong counts, losses and correctness as the paper's script computes them."""
    x, neurons = x.astype(np.float64), x.shape[1]
    correct = np.empty((len(orders), len(sizes), len(x)), bool)
    loss = np.empty((len(orders), len(sizes)))
    for t, order in enumerate(orders):
        for k, size in enumerate(sizes):
            chosen = order[:size]
            scale = neurons / size if rescale else 1.0
            z = scale * (x[:, chosen] @ weight[:, chosen].T) + bias
            correct[t, k] = z.argmax(axis=1) == labels
            # not log_loss, which clips probabilities
            loss[t, k] = (logsumexp(z, axis=1) - z[np.arange(len(z)), labels]).mean()
    return (~correct).sum(axis=-1), loss, correct


# -- nested subsets -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _restored_block_sizes(monkeypatch):
    """Undo what a test does to the sizes of blocks."""
    for name in ("_BLOCK", "_FEW", "_MARGINS"):
        monkeypatch.setattr(margins, name, getattr(margins, name))


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("sizes", [[1, 2, 5, 20], [3, 19], [20]])
def test_subset_errors_are_those_of_the_plain_loop(sizes, rescale, few):
    margins._FEW = few  # blocks of one label, or of many
    x, labels, weight, bias = layer()
    orders = orders_of(20, 7)
    answer = subset_errors(
        x, labels, weight, bias, orders=orders, sizes=sizes, rescale=rescale, keep_correct=True
    )
    wrong, loss, correct = loop(x, labels, weight, bias, orders, sizes, rescale=rescale)
    assert answer.wrong.dtype == np.int64
    np.testing.assert_array_equal(answer.wrong, wrong)
    np.testing.assert_array_equal(answer.correct, correct)
    np.testing.assert_allclose(answer.loss, loss, rtol=1e-10)
    both = plain_and_rescaled_errors(x, labels, weight, bias, orders=orders, sizes=sizes)
    np.testing.assert_array_equal(both[rescale].wrong, answer.wrong)
    np.testing.assert_array_equal(both[rescale].loss, answer.loss)


def test_float32_activations_agree_with_float64_to_a_millionth():
    x, labels, weight, bias = layer(2000, 64, 10, dtype=np.float32)
    orders = orders_of(64, 5)
    sizes = [1, 4, 16, 63, 64]
    answer = subset_errors(x, labels, weight, bias, orders=orders, sizes=sizes)
    wrong, loss, _ = loop(x, labels, weight, bias, orders, sizes)
    np.testing.assert_array_equal(answer.wrong, wrong)
    np.testing.assert_allclose(answer.loss, loss, rtol=1e-6)


@pytest.mark.parametrize("few", [0, 10**6])
def test_a_loss_far_below_float32_rounding_is_still_resolved(few):
    margins._FEW = few
    x = np.array([[20.0, 0.0], [25.0, 0.0]], dtype=np.float32)
    weight, bias = np.eye(2), np.zeros(2)
    answer = subset_errors(x, [0, 0], weight, bias, orders=[[0, 1]], sizes=[2])
    exact = np.log1p(np.exp([-20.0, -25.0])).mean()
    assert answer.loss[0, 0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_margins_do_not_overflow(dtype, few):
    margins._FEW = few
    x, labels, weight, bias = layer(scale=1000.0, dtype=dtype)
    orders = orders_of(20, 3)
    answer = subset_errors(x, labels, weight, bias, orders=orders, sizes=[1, 10, 20], rescale=True)
    for t, order in enumerate(orders):
        for k, size in enumerate([1, 10, 20]):
            chosen = order[:size]
            z = 20 / size * (x[:, chosen].astype(float) @ weight[:, chosen].T) + bias
            expected = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), labels]
            assert answer.loss[t, k] == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("few", [0, 10**6])
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), outputs=st.integers(2, 5))
def test_of_equal_logits_the_first_output_wins_as_in_argmax(few, seed, outputs):
    # with blocks of one label, and with blocks of many
    margins._FEW = few
    rng = np.random.default_rng(seed)
    # small integers: sums are exact and ties are many
    x = rng.integers(0, 2, size=(30, 4)).astype(np.float32)
    weight = rng.integers(-1, 2, size=(outputs, 4)).astype(float)
    bias = rng.integers(0, 2, size=outputs).astype(float)
    labels = rng.integers(outputs, size=30)
    orders = orders_of(4, 3, seed)
    answer = subset_errors(x, labels, weight, bias, orders=orders, sizes=[1, 2, 4])
    wrong, _, _ = loop(x, labels, weight, bias, orders, [1, 2, 4])
    np.testing.assert_array_equal(answer.wrong, wrong)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_permuting_samples_permutes_correctness_and_changes_no_count(seed):
    x, labels, weight, bias = layer(60, seed=seed)
    orders, turn = orders_of(20, 2), np.random.default_rng(seed).permutation(60)
    options = {"orders": orders, "sizes": [4, 20], "keep_correct": True}
    first = subset_errors(x, labels, weight, bias, **options)
    turned = subset_errors(x[turn], labels[turn], weight, bias, **options)
    np.testing.assert_array_equal(first.wrong, turned.wrong)
    np.testing.assert_array_equal(first.correct[..., turn], turned.correct)
    np.testing.assert_allclose(first.loss, turned.loss, rtol=1e-12)


@pytest.mark.parametrize(("block", "held"), [(1, 1), (7, 100), (64, 10**6)])
@pytest.mark.parametrize("few", [0, 10**6])
def test_blocks_and_threads_change_nothing(block, held, few):
    x, labels, weight, bias = layer()
    options = {"orders": orders_of(20, 9), "sizes": [1, 6, 20], "keep_correct": True}
    whole = subset_errors(x, labels, weight, bias, **options)
    margins._BLOCK, margins._MARGINS, margins._FEW = block, held, few
    for threads in (1, 3):
        parts = subset_errors(x, labels, weight, bias, threads=threads, **options)
        np.testing.assert_array_equal(parts.wrong, whole.wrong)
        np.testing.assert_array_equal(parts.correct, whole.correct)
        np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-12)


def test_the_subset_of_all_neurons_is_the_network():
    x, labels, weight, bias = layer()
    answer = subset_errors(x, labels, weight, bias, orders=orders_of(20, 3), sizes=[20])
    z = logits(x, weight, bias)
    np.testing.assert_array_equal(answer.wrong[:, 0], round(error(z, labels) * len(x)))
    np.testing.assert_allclose(answer.loss[:, 0], cross_entropy(z, labels), rtol=1e-12)


def test_correctness_is_kept_only_when_asked_for():
    x, labels, weight, bias = layer()
    answer = subset_errors(x, labels, weight, bias, orders=orders_of(20, 1), sizes=[2])
    assert answer.correct is None


# -- whole readouts -----------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 10**6])
def test_readout_errors_are_those_of_each_readout(few):
    x, labels, _, _ = layer()
    rng = np.random.default_rng(1)
    weights, biases = rng.normal(size=(6, 4, 20)), rng.normal(size=(6, 4))
    margins._MARGINS, margins._FEW = 500, few
    answer = readout_errors(x, labels, weights, biases, keep_correct=True)
    for k in range(6):
        z = x @ weights[k].T + biases[k]
        np.testing.assert_array_equal(answer.correct[k], z.argmax(axis=1) == labels)
        assert answer.wrong[k] == (z.argmax(axis=1) != labels).sum()
        assert answer.loss[k] == pytest.approx(cross_entropy(z, labels), rel=1e-10)


def test_error_and_cross_entropy_are_those_of_scikit_learn():
    x, labels, weight, bias = layer()
    z = logits(x, weight, bias)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert error(z, labels) == pytest.approx(1 - accuracy_score(labels, z.argmax(axis=1)))
    assert cross_entropy(z, labels) == pytest.approx(log_loss(labels, p))
    assert cross_entropy(z + 1e4, labels) == pytest.approx(cross_entropy(z, labels))


# -- refit --------------------------------------------------------------------------------


def moments_of(x):
    centred = x - x.mean(axis=0)
    return centred.T @ centred


def test_refit_is_least_squares_to_one_hot_labels():
    x, labels, _, _ = layer()
    subset = [7, 2, 11, 5]
    moment = one_hot_cross_moment(x, labels, 4)
    weight, intercept = refit_weights(
        moments_of(x), moment.cross, moment.mean_x, moment.mean_y, subset, ridge=0
    )
    fit = LinearRegression().fit(x[:, subset], np.eye(4)[labels])
    np.testing.assert_allclose(weight, fit.coef_, atol=1e-12)
    np.testing.assert_allclose(intercept, fit.intercept_, atol=1e-12)


def test_refit_with_a_penalty_is_ridge_regression():
    x, labels, _, _ = layer()
    comoment = moments_of(x)
    moment = one_hot_cross_moment(x, labels, 4)
    weight, intercept = refit_weights(
        comoment, moment.cross, moment.mean_x, moment.mean_y, range(20), ridge=0.1
    )
    fit = Ridge(alpha=0.1 * np.trace(comoment) / 20).fit(x, np.eye(4)[labels])
    np.testing.assert_allclose(weight, fit.coef_, atol=1e-12)
    np.testing.assert_allclose(intercept, fit.intercept_, atol=1e-12)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 49), shift=st.floats(-1e4, 1e4))
def test_cross_moments_of_two_blocks_merge_to_that_of_both(seed, cut, shift):
    x, labels, _, _ = layer(50, 6, 3, seed=seed)
    x = x + shift
    whole = one_hot_cross_moment(x, labels, 3)
    both = merge_cross_moments(
        one_hot_cross_moment(x[:cut], labels[:cut], 3),
        one_hot_cross_moment(x[cut:], labels[cut:], 3),
    )
    y = np.eye(3)[labels]
    expected = (x - x.mean(axis=0)).T @ (y - y.mean(axis=0))
    for moment in (whole, both):
        assert moment.count == 50
        np.testing.assert_allclose(moment.mean_x, x.mean(axis=0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(moment.mean_y, y.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moment.cross, expected, atol=1e-8)


def test_float32_cross_moments_are_summed_in_float64():
    x, labels, _, _ = layer(20_000, 3, 2)
    x = (x + 1000).astype(np.float32)
    exact = one_hot_cross_moment(x.astype(np.float64), labels, 2)
    np.testing.assert_allclose(one_hot_cross_moment(x, labels, 2).cross, exact.cross, rtol=1e-9)


# -- bad input ----------------------------------------------------------------------------

X, LABELS, WEIGHT, BIAS = layer(10, 4, 3)
ORDERS = orders_of(4, 2)


def ask(x=X, labels=LABELS, weight=WEIGHT, bias=BIAS, orders=ORDERS, sizes=(1, 4)):
    return subset_errors(x, labels, weight, bias, orders=orders, sizes=sizes)


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: ask(labels=LABELS[:-1]), InvalidParameterError, r"\(sample,\)"),
        (lambda: ask(labels=LABELS + 3), InvalidDataError, "for 3 outputs"),
        (lambda: ask(labels=LABELS * 1.0), InvalidDataError, "integers"),
        (lambda: ask(weight=WEIGHT[:, :3]), InvalidParameterError, "on 4 neurons"),
        (lambda: ask(bias=BIAS[:2]), InvalidParameterError, r"\(output,\)"),
        (lambda: ask(orders=[[0, 1, 2, 2]]), InvalidParameterError, "permutations"),
        (lambda: ask(sizes=[2, 1]), InvalidParameterError, "ascending"),
        (lambda: ask(sizes=[0, 1]), InvalidParameterError, "between 1 and 4"),
        (lambda: ask(sizes=[5]), InvalidParameterError, "between 1 and 4"),
        (lambda: ask(sizes=[]), InvalidParameterError, "between 1 and 4"),
        (lambda: ask(x=np.where(X > 1, np.nan, X)), InvalidDataError, "NaN or infinite"),
        (lambda: ask(x=np.where(X > 1, np.inf, X)), InvalidDataError, "NaN or infinite"),
        (lambda: ask(weight=WEIGHT * np.nan), InvalidDataError, "readout holds NaN"),
        (
            lambda: readout_errors(X, LABELS, WEIGHT, BIAS),
            InvalidParameterError,
            r"\(readout, output, neuron\)",
        ),
        (lambda: one_hot_cross_moment(X, LABELS % 2 + 1, 2), InvalidDataError, "for 2 outputs"),
        (lambda: one_hot_cross_moment(X * np.nan, LABELS, 3), InvalidDataError, "NaN"),
        (
            lambda: refit_weights(np.eye(4), np.ones((3, 3)), np.ones(4), np.ones(3), [0]),
            InvalidParameterError,
            r"\(neuron, output\)",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
