"""BLAS without the interpreter's lock: the numbers of NumPy, while other threads run."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from actstore.kernels import unlocked
from actstore.kernels.unlocked import add_gram, solve_right, symmetric_times


@pytest.fixture(params=["unlocked", "as SciPy has it"])
def routines(request, monkeypatch):
    if request.param == "as SciPy has it":
        monkeypatch.setattr(unlocked, "_dsyrk", None)
        monkeypatch.setattr(unlocked, "_dtrsm", None)
        monkeypatch.setattr(unlocked, "_dsymv", None)
    else:
        assert unlocked._dsyrk is not None


@pytest.mark.usefixtures("routines")
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 7), (40, 5), (5, 0)])
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_products_are_added_to_the_lower_triangle_only(n, k, scale):
    rng = np.random.default_rng(n + k)
    a, before = rng.normal(size=(k, n)).T, np.asfortranarray(rng.normal(size=(n, n)))
    c = before.copy(order="F")
    add_gram(c, a, scale=scale)
    np.testing.assert_allclose(np.tril(c), np.tril(before + scale * a @ a.T), atol=1e-12)
    np.testing.assert_array_equal(np.triu(c, 1), np.triu(before, 1))


@pytest.mark.usefixtures("routines")
@pytest.mark.parametrize(("m", "k"), [(1, 1), (9, 4), (4, 9), (0, 3)])
def test_a_triangle_is_divided_out_from_the_right(m, k):
    rng = np.random.default_rng(m + k)
    whole = np.asfortranarray(rng.normal(size=(k, k)) + 4 * np.eye(k))
    b = rng.normal(size=(m, k))
    kept = b.copy()
    x = solve_right(whole, b)
    np.testing.assert_allclose(x @ np.tril(whole).T, b, atol=1e-12)
    np.testing.assert_array_equal(b, kept)


@pytest.mark.usefixtures("routines")
@pytest.mark.parametrize("n", [1, 2, 33])
def test_the_lower_triangle_stands_for_both(n):
    rng = np.random.default_rng(n)
    a, x = np.asfortranarray(rng.normal(size=(n, n))), rng.normal(size=n)
    whole = np.tril(a) + np.tril(a, -1).T
    np.testing.assert_allclose(symmetric_times(a, x), whole @ x, atol=1e-12)


@pytest.mark.parametrize(
    "a", [np.zeros((2, 3)), np.zeros((2, 3), "f4", order="F"), np.zeros((4, 6), order="F")[::2]]
)
def test_what_does_not_lie_in_fortran_order_is_refused(a):
    with pytest.raises(ValueError, match="not float64 in Fortran order"):
        add_gram(np.zeros((2, 2), order="F"), a)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="for the products of 3 rows"):
        add_gram(np.zeros((2, 2), order="F"), np.zeros((3, 1), order="F"))
    with pytest.raises(ValueError, match="for 2 columns"):
        solve_right(np.eye(3, order="F"), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="for a float64 vector of 2"):
        symmetric_times(np.eye(3, order="F"), np.zeros(2))


def test_other_threads_run_while_products_are_added():
    a, c = np.ones((6000, 600)).T, np.zeros((600, 600), order="F")
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    spans = []
    for _ in range(10):
        start = time.perf_counter()
        add_gram(c, a)
        spans.append((start, time.perf_counter()))
    done.set()
    thread.join()
    # A call that held the lock would let no thread run between its beginning and its end.
    inside = [any(start < t < stop for t in ticks) for start, stop in spans]
    assert any(inside)
