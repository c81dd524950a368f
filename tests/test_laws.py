"""Laws that hold of every layer: what may change in the data without a change of the answer."""

from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actstore import queries
from actstore.kernels.moments import moments
from actstore.kernels.reconstruction import prefix_r2
from actstore.testing import planted_clones

from .strategies import Layer, chunkings, dataset, layers, permutations

lawful = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
SUBSETS = 4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Layers are so small that threads would only cost time."""
    with dask.config.set(scheduler="synchronous"):
        yield


def curves(x: NDArray[Any] | xr.Dataset) -> xr.Dataset:
    data = x if isinstance(x, xr.Dataset) else dataset(x)
    return queries.reconstruction(data, subset_size="all", subsets=SUBSETS).compute()


def agree(a: xr.Dataset, b: xr.Dataset, *, tolerance: float = 1e-6) -> None:
    for name in ("r2", "r2_heldout"):
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance, err_msg=name)


@lawful
@given(st.data(), layers())
def test_permuting_the_samples_changes_nothing(data: st.DataObject, x: Layer) -> None:
    agree(curves(x), curves(x[data.draw(permutations(len(x)))]))


@lawful
@given(layers())
def test_showing_every_sample_twice_changes_nothing(x: Layer) -> None:
    agree(curves(x), curves(np.concatenate([x, x])))


@lawful
@given(st.data(), layers())
def test_permuting_the_neurons_permutes_the_answer(data: st.DataObject, x: Layer) -> None:
    order = np.array(data.draw(permutations(x.shape[1])))
    whole, mixed = moments(x), moments(x[:, order])
    np.testing.assert_allclose(mixed.comoment, whole.comoment[np.ix_(order, order)], rtol=1e-9)
    # neuron order[i] of the layer is neuron i of the permuted one
    straight = prefix_r2(whole.comoment, order)
    permuted = prefix_r2(mixed.comoment, np.arange(len(order)))
    np.testing.assert_allclose(straight, permuted, atol=1e-9)
    a, b = (queries.spectrum(dataset(one)).compute() for one in (x, x[:, order]))
    np.testing.assert_allclose(a.eigenvalue, b.eigenvalue, rtol=1e-6)


@lawful
@given(st.data(), layers())
def test_shifting_scaling_and_flipping_leave_r2_unchanged(data: st.DataObject, x: Layer) -> None:
    scale = data.draw(st.floats(1e-3, 1e3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    signs = rng.choice([-1, 1], x.shape[1])  # neurons of opposite sign tell as much
    shift = rng.normal(size=x.shape[1]) * x.std()
    agree(curves(x), curves(scale * (signs * x + shift)))


@lawful
@given(layers())
def test_r2_never_falls_as_a_subset_grows_and_ends_at_one(x: Layer) -> None:
    r2 = curves(x).r2.values
    assert (np.diff(r2, axis=-1) >= -1e-9).all()
    np.testing.assert_allclose(r2[..., -1], 1, atol=1e-6)


@lawful
@given(layers())
def test_r2_lies_between_none_and_all_and_held_out_below_the_papers(x: Layer) -> None:
    found = curves(x)
    assert ((found.r2 >= 0) & (found.r2 <= 1 + 1e-9)).all()
    heldout = found.r2_heldout.isel(subset_size=slice(None, -1))
    assert (heldout <= found.r2.isel(subset_size=slice(None, -1)) + 1e-9).all()
    assert found.r2_heldout.isel(subset_size=-1).isnull().all()


@lawful
@given(st.data(), layers())
def test_cutting_the_samples_into_blocks_changes_nothing(data: st.DataObject, x: Layer) -> None:
    blocks = data.draw(chunkings(len(x)))
    agree(curves(x), curves(dataset(x).chunk(sample=blocks)), tolerance=1e-9)
    a, b = (queries.moments(d).compute() for d in (dataset(x), dataset(x).chunk(sample=blocks)))
    np.testing.assert_allclose(a.comoment, b.comoment, rtol=1e-9, atol=1e-9 * x.var())
    np.testing.assert_array_equal(a["count"], b["count"])


@lawful
@given(layers())
def test_the_papers_residual_correlation_is_the_held_out_one_times_the_share_of_pairs(
    x: Layer,
) -> None:
    n = x.shape[1]
    found = queries.noise(dataset(x), subset_size="all", subsets=SUBSETS, factors=None).compute()
    w = found.subset_size
    share = (n - w) * (n - w - 1) / (n * (n - 1))
    expected = found.residual_correlation_heldout * share
    held = found.residual_correlation_heldout.notnull()
    np.testing.assert_allclose(
        found.residual_correlation.where(held), expected.where(held), atol=1e-9
    )


@lawful
@given(layers(), st.lists(st.floats(0.05, 1.0), min_size=2, max_size=4, unique=True))
def test_a_higher_threshold_never_finds_more_clones(x: Layer, thresholds: list[float]) -> None:
    found = queries.clones(dataset(x), threshold=sorted(thresholds), subsets=SUBSETS).compute()
    size = found.critical_size.values.ravel()
    assert (np.diff(size) >= 0).all()
    assert ((size >= 1) & (size <= x.shape[1])).all()
    assert (np.diff(found.has_clones.values.ravel().astype(int)) <= 0).all()
    assert (found.certified_clones <= found.component_bound).all()


@lawful
@given(
    st.integers(3, 8), st.integers(2, 4), st.floats(0.0, 0.1), st.integers(0, 1000),
    st.sampled_from(["heldout", "paper"]),
)  # fmt: skip
def test_planted_clones_are_found(
    clones: int, size: int, noise: float, seed: int, criterion: Any
) -> None:
    x, _ = planted_clones(samples=400, clones=clones, clone_size=size, noise=noise, seed=seed)
    found = queries.clones(
        dataset(x), threshold=0.85, criterion=criterion, strategy="greedy", subsets=SUBSETS
    ).compute()
    # as many as were planted can be certified; a clone may lose its last neuron to another
    certified = found.certified_clones.values.item()
    assert clones - 1 <= certified <= found.component_bound.values.item()
    assert found.critical_size.values.item() >= size - 1


@lawful
@given(st.integers(4, 24), st.integers(0, 1000))
def test_independent_neurons_have_no_clones(width: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(300, width))
    found = queries.clones(dataset(x), threshold=[0.6, 0.9], subsets=SUBSETS).compute()
    assert not found.has_clones.any()
    assert found.n_clones.isnull().all()
    assert not found.is_clone.any()
