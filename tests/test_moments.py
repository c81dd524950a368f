"""Moments against numpy.cov, and the laws that make merging safe."""

import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from actstore.errors import InvalidDataError
from actstore.kernels.moments import Moments, accumulate, alive, merge, moments

Array = NDArray[np.float64]
layers = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30),
    elements=st.floats(-1e3, 1e3),
)


def assert_same(a: Moments, b: Moments, scale: float = 1e6) -> None:
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-13 * scale)
    np.testing.assert_allclose(a.comoment, b.comoment, rtol=1e-11, atol=1e-11 * scale)


def brute_force(x: Array) -> Array:
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    return np.asarray(np.einsum("ij,ik->jk", centred, centred))


@pytest.mark.parametrize("width", [1, 5, 127, 128, 129, 300])
@pytest.mark.parametrize("samples", [1, 2, 1500])
def test_moments_equal_numpy_at_every_buffer_edge(samples: int, width: int) -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (samples, width))
    m = moments(x)
    assert m.count == samples
    np.testing.assert_allclose(m.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(m.comoment, brute_force(x), rtol=1e-10, atol=1e-9)
    np.testing.assert_array_equal(m.comoment, m.comoment.T)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_type_and_memory_order_of_the_activations_do_not_matter(dtype: str, order: str) -> None:
    x = np.random.default_rng(1).integers(-8, 8, (3000, 7)).astype(dtype)
    m = moments(np.asarray(x, order="F" if order == "F" else "C"))
    np.testing.assert_allclose(m.comoment, np.cov(x.T.astype("f8")) * 2999, rtol=1e-12)
    assert m.mean.dtype == m.comoment.dtype == np.float64


def test_strided_views_are_read_right_and_left_alone() -> None:
    whole = np.random.default_rng(2).normal(size=(4000, 20)).astype(np.float32)
    before = whole.copy()
    view = whole[::-3, 1:15:2]
    assert_same(moments(view), moments(view.copy()))
    np.testing.assert_array_equal(whole, before)


def test_large_mean_with_small_spread_loses_no_digits() -> None:
    x = np.random.default_rng(3).normal(size=(5000, 3))
    shifted = 1e7 + x
    exact = brute_force(shifted - 1e7)  # the same rounded numbers, brought back to zero
    # A mean of 1e7 is itself rounded by 1e-9: that much of the largest entry, and no more.
    np.testing.assert_allclose(moments(shifted).comoment, exact, atol=1e-9 * exact.max())


def test_sorted_samples_lose_no_digits() -> None:
    x = np.sort(np.random.default_rng(4).normal(0.0, 1e4, (5000, 2)), axis=0)
    np.testing.assert_allclose(moments(x).comoment, brute_force(x), rtol=1e-11)


@given(layers, st.data())
def test_merging_two_blocks_equals_one_block(x: Array, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(x)))
    assert_same(merge(moments(x[:cut]), moments(x[cut:])), moments(x))


@given(layers, st.integers(1, 7))
def test_streaming_equals_one_block(x: Array, rows: int) -> None:
    assert_same(accumulate(x[i : i + rows] for i in range(0, len(x), rows)), moments(x))


@given(layers, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(x: Array, random: object) -> None:
    order = list(range(len(x)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert_same(moments(x[order]), moments(x))


@given(layers, st.floats(-100, 100), st.floats(-10, 10))
def test_shift_leaves_the_comoment_and_scale_squares_it(x: Array, shift: float, by: float) -> None:
    a, b = moments(x), moments(shift + by * x)
    np.testing.assert_allclose(b.mean, shift + by * a.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(b.comoment, by**2 * a.comoment, rtol=1e-7, atol=1e-4)


@given(layers)
def test_comoment_is_symmetric_with_eigenvalues_not_below_zero(x: Array) -> None:
    c = moments(x).comoment
    np.testing.assert_array_equal(c, c.T)
    assert np.linalg.eigvalsh(c).min() >= -1e-12 * np.trace(c)


def test_no_sample_is_the_neutral_element_of_merging() -> None:
    x = np.arange(12.0).reshape(4, 3)
    nothing = moments(x[:0])
    assert nothing.count == 0
    for m in (merge(nothing, moments(x)), merge(moments(x), nothing)):
        np.testing.assert_array_equal(m.mean, moments(x).mean)
        np.testing.assert_array_equal(m.comoment, moments(x).comoment)
    assert merge(nothing, nothing).count == 0


def test_temporary_memory_does_not_grow_with_the_samples() -> None:
    x = np.zeros((60_000, 256), np.float32)
    tracemalloc.start()
    moments(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * (1024 * 256 + 3 * 256**2)  # against 123 MB for a float64 copy


def test_nan_and_infinity_are_counted_and_the_first_is_named() -> None:
    x = np.zeros((5000, 4), np.float32)
    x[3000, 2] = np.nan
    x[4000, 1] = np.inf
    with pytest.raises(InvalidDataError, match=r"^2 of 20000 .* first at sample 3000, neuron 2"):
        moments(x)
    with pytest.raises(InvalidDataError, match="sample 5004, neuron 0"):
        accumulate([np.zeros((5000, 1)), np.array([[0], [0], [0], [0], [-np.inf]])])


@pytest.mark.parametrize("huge", [1e200, 1.7e308])
def test_overflow_is_an_error_not_an_infinite_comoment(huge: float) -> None:
    with pytest.raises(InvalidDataError, match="overflow"):
        moments(np.array([[huge], [huge], [-huge]]))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(InvalidDataError, match="3-dimensional"):
        moments(np.zeros((2, 3, 4)))
    with pytest.raises(InvalidDataError, match=r"3 neurons wide .* 4"):
        accumulate([np.zeros((2, 4)), np.zeros((2, 3))])
    with pytest.raises(InvalidDataError, match="no block"):
        accumulate([])
    with pytest.raises(InvalidDataError, match="4 and of 3"):
        merge(moments(np.zeros((2, 4))), moments(np.zeros((2, 3))))


def test_neurons_that_do_not_vary_are_dead() -> None:
    x = np.random.default_rng(5).normal(size=(100, 4)) * [1.0, 0.0, 1e-4, 1e-7]
    x[:, 1] = 0.1  # a constant whose mean is not exact in binary
    m = moments(x)
    assert alive(m).tolist() == [True, False, True, False]
    assert alive(m, tolerance=1e-15).tolist() == [True, False, True, True]
    for constant in (0.0, 0.1, -1e5):
        assert not alive(moments(np.full((100, 3), constant))).any()
    assert alive(moments(np.zeros((2, 0)))).shape == (0,)
    both = [moments(x), moments(x[:, ::-1])]
    stacked = Moments(*(np.stack([getattr(one, name) for one in both])
                        for name in ("count", "mean", "comoment")))  # fmt: skip
    np.testing.assert_array_equal(alive(stacked), [alive(one) for one in both])
