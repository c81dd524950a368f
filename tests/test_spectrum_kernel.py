"""Spectra against numpy and scikit-learn's principal components."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.decomposition import PCA

from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.moments import moments
from actstore.kernels.reconstruction import r2_curves
from actstore.kernels.spectrum import (
    component_bound,
    components_needed,
    effective_rank,
    participation_ratio,
    spectrum,
)
from actstore.testing import planted_layer

Array = NDArray[np.float64]
spectra = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-6, 1e6)).map(
    lambda e: np.sort(e)[::-1]
)


def layer(**kwargs: Any) -> Array:
    options = {"samples": 300, "width": 15, "signals": 4, "seed": 0, "dtype": np.float64}
    return planted_layer(**(options | kwargs))


def test_spectrum_is_that_of_the_principal_components() -> None:
    x = layer()
    found = spectrum(moments(x).comoment, 300)
    np.testing.assert_allclose(found, PCA().fit(x).explained_variance_, rtol=1e-10)


def test_spectrum_of_a_layer_of_lower_rank_has_zeros_and_nothing_negative() -> None:
    found = spectrum(moments(layer(noise=0.0)).comoment, 300)
    assert (found[:4] > 0.1).all()
    np.testing.assert_allclose(found[4:], 0, atol=1e-12)
    assert (found >= 0).all()


@given(spectra, st.floats(0.01, 100))
def test_dimensions_lie_between_one_and_the_width_and_know_no_scale(e: Array, by: float) -> None:
    for dimension in (participation_ratio, effective_rank):
        assert 1 - 1e-9 <= dimension(e) <= e.size * (1 + 1e-9)
        assert dimension(by * e) == pytest.approx(dimension(e))
    # Rényi entropies of order 2 and 1: the first is never the larger one.
    assert participation_ratio(e) <= effective_rank(e) * (1 + 1e-9)
    assert effective_rank(e) == pytest.approx(np.exp(entropy(e)))


@given(spectra, st.floats(0.01, 1))
def test_components_needed_are_enough_and_one_fewer_is_not(e: Array, fraction: float) -> None:
    needed = components_needed(e, fraction)
    assert e[:needed].sum() >= fraction * e.sum() * (1 - 1e-12)
    assert e[: needed - 1].sum() < fraction * e.sum() * (1 + 1e-12)


def test_all_variance_takes_the_components_that_have_any() -> None:
    assert components_needed(np.full(10, 0.1), 1.0) == 10
    assert components_needed(np.array([3.0, 1.0, 0.0, 0.0]), 1.0) == 2
    assert components_needed(np.array([3.0, 1.0, 0.0, 0.0]), 0.75) == 1


def test_no_subset_explains_more_than_as_many_principal_components() -> None:
    c = moments(layer()).comoment
    e = spectrum(c, 300)
    r2, r2_heldout = r2_curves(c, subsets=20, seed=0)
    bound = np.cumsum(e) / e.sum()
    assert (r2 <= bound + 1e-9).all()
    assert (r2_heldout[:, :-1] <= bound[:-1] + 1e-9).all()


def test_bound_is_the_width_over_the_components_needed() -> None:
    e = np.repeat([1.0, 0.0], [9, 247])
    assert component_bound(e, 0.95) == 28  # 256 // 9


def test_layer_without_variance_has_no_dimension_and_no_clone() -> None:
    e = np.zeros(4)
    assert np.isnan(participation_ratio(e))
    assert np.isnan(effective_rank(e))
    assert components_needed(e, 0.9) == component_bound(e, 0.9) == 0
    assert spectrum(np.empty((0, 0)), 5).shape == (0,)


def test_impossible_requests_are_named() -> None:
    with pytest.raises(InvalidDataError, match="at least 2 samples, not 1"):
        spectrum(np.eye(2), 1)
    with pytest.raises(InvalidParameterError, match=r"\(0, 1\], not 0"):
        components_needed(np.ones(3), 0)
    with pytest.raises(InvalidParameterError, match=r"\(0, 1\], not 1.1"):
        component_bound(np.ones(3), 1.1)
