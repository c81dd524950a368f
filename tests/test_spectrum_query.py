"""Directions of a layer are those of scikit-learn's principal components."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.decomposition import PCA

import actstore
from actstore import queries
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError
from actstore.testing import planted_dataset, planted_layer

from .command_line import Answer
from .planted import EPOCHS, activations
from .strategies import dataset

RUN = {"width": 16, "seed": 1, "weight_decay": 0.005}
FRACTIONS = [0.5, 0.9, 0.99, 1.0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_eigenvalues_are_the_variances_of_the_principal_components(
    planted: actstore.Store, split: str
) -> None:
    found = planted.sel(**RUN).spectrum(fraction=FRACTIONS, split=split).isel(run=0).compute()
    assert found.eigenvalue.dims == ("epoch", "component")
    assert found.components_needed.dims == ("epoch", "fraction")
    for epoch in EPOCHS:
        x = activations(16, 0.005, 1, epoch, split).astype(np.float64)
        variances = PCA().fit(x).explained_variance_
        one = found.sel(epoch=epoch)
        np.testing.assert_allclose(one.eigenvalue, variances, rtol=1e-6, atol=1e-9)
        ratio = variances.sum() ** 2 / np.square(variances).sum()
        np.testing.assert_allclose(one.participation_ratio, ratio, rtol=1e-6)
        rank = np.exp(entropy(variances / variances.sum()))
        np.testing.assert_allclose(one.effective_rank, rank, rtol=1e-6)


def test_components_needed_are_those_that_scikit_learn_keeps() -> None:
    x = planted_layer(samples=300, width=24, signals=5, noise=0.4, seed=2, dtype=np.float64)
    found = queries.spectrum(dataset(x), fraction=[0.5, 0.9, 0.95, 0.99]).components_needed
    kept = [PCA(share).fit(x).n_components_ for share in (0.5, 0.9, 0.95, 0.99)]
    assert found.values.ravel().tolist() == kept


def test_signals_without_noise_are_the_directions_of_the_layer() -> None:
    found = queries.spectrum(
        planted_dataset(width=24, signals=4, noise=[0.0, 1.0]), fraction=0.999
    ).compute()
    assert found.components_needed.isel(run=0, fraction=0).values.tolist()[0] == 4
    assert float(found.participation_ratio.sel(epoch=0)[0]) <= 4 + 1e-6
    assert float(found.effective_rank.sel(epoch=1)[0]) > 12


def test_dead_neurons_have_no_component() -> None:
    x = planted_layer(samples=200, width=10, signals=3, dead=4, seed=0)
    found = queries.spectrum(dataset(x), fraction=1.0).isel(run=0, epoch=0).compute()
    alone = queries.spectrum(dataset(x[:, :6]), fraction=1.0).isel(run=0, epoch=0).compute()
    assert (int(found.alive), int(found.components_needed[0])) == (6, 6)
    np.testing.assert_allclose(found.eigenvalue[:6], alone.eigenvalue, rtol=1e-9)
    assert bool(found.eigenvalue[6:].isnull().all())


def test_fewer_samples_than_neurons_leave_directions_without_variance() -> None:
    x = planted_layer(samples=9, width=20, signals=3, seed=0, dtype=np.float64)
    values = queries.spectrum(dataset(x)).eigenvalue.values.ravel()
    assert (values >= 0).all()
    assert (values[8:] < 1e-9 * values[0]).all()
    assert values[7] > 1e-6 * values[0]


def test_runs_of_other_widths_are_padded_with_nan(planted: actstore.Store) -> None:
    found = planted.sel(epoch=-1, seed=0, weight_decay=0.005).spectrum().compute()
    assert found.component.values.tolist() == list(range(1, 65))
    held = found.eigenvalue.isel(epoch=0).notnull().sum("component")
    np.testing.assert_array_equal(held, found.width)


def test_the_bound_of_clones_is_what_its_components_allow(planted: actstore.Store) -> None:
    chosen = planted.sel(epoch=-1, weight_decay=0.005)
    needed = chosen.spectrum(fraction=0.9).components_needed.isel(fraction=0, drop=True)
    bound = chosen.clones(threshold=0.9, subsets=2).component_bound.isel(threshold=0, drop=True)
    np.testing.assert_array_equal(bound, needed.width // needed)


@pytest.mark.parametrize("fraction", [0, 1.01, -0.5, [0.9, 2], float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(planted: actstore.Store, fraction: Any) -> None:
    with pytest.raises(InvalidParameterError, match=r"of the variance was asked for; it lies in"):
        planted.spectrum(fraction=fraction)


def test_no_fraction_at_all_is_refused(planted: actstore.Store) -> None:
    with pytest.raises(InvalidParameterError, match="no fraction was given"):
        planted.spectrum(fraction=[])


def test_a_split_that_is_not_there_names_those_that_are(planted: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match="it holds test, train"):
        planted.spectrum(split="valid")


def test_a_layer_of_dead_neurons_has_no_spectrum() -> None:
    found = queries.spectrum(dataset(np.ones((20, 3))))
    with pytest.raises(InvalidDataError, match="all 3 neurons are dead"):
        found.compute()


def test_the_command_says_what_the_function_says(
    planted_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli(
        "query", "spectrum", planted_path, "--width", 16, "--seed", 1, "--where",
        "weight_decay=0.005", "--fraction", 0.9, "--fraction", 0.5, "--epoch", "all",
        "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    rows = answer.json["rows"]
    expected = actstore.open(planted_path).sel(**RUN).spectrum(fraction=[0.9, 0.5]).compute()
    assert [(r["epoch"], r["fraction"]) for r in rows] == [
        (e, f) for e in EPOCHS for f in (0.9, 0.5)
    ]
    for row in rows:
        one = expected.isel(run=0).sel(epoch=row["epoch"])
        assert row["components_needed"] == float(
            one.components_needed.sel(fraction=row["fraction"])
        )
        assert row["effective_rank"] == pytest.approx(float(one.effective_rank))


def test_a_wrong_fraction_ends_with_one_sentence(
    planted_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("query", "spectrum", planted_path, "--fraction", 1.5)
    assert (answer.code, answer.out) == (1, "")
    assert "fraction 1.5 of the variance was asked for" in answer.err
