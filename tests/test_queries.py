"""Queries say what scikit-learn says of the same subsets, whatever they are asked of."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import actstore
from actstore import queries
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError
from actstore.kernels.reconstruction import random_subsets
from actstore.testing import planted_clones, planted_dataset, planted_layer

from . import oracle
from .planted import CLONE_SIZE, EPOCHS, SAMPLES, SEEDS, THRESHOLD, WIDTHS, activations
from .strategies import dataset

RUN = {"width": 16, "seed": 1, "weight_decay": 0.005}
SIZES = [1, 3, 4, 8, 14]
THRESHOLDS = [0.3, 0.6, THRESHOLD, 1.0]


def layer(split: str = "test", *, epoch: int = EPOCHS[-1]) -> NDArray[np.float64]:
    x = activations(RUN["width"], RUN["weight_decay"], RUN["seed"], epoch, split)
    return np.asarray(x, np.float64)


def by_brute_force(
    measure: Callable[..., float], *layers: NDArray[np.float64], subsets: int, rng_seed: int = 0
) -> NDArray[np.float64]:
    """Apply an oracle to the subsets that a query draws, (subset, subset_size)."""
    orders = random_subsets(layers[0].shape[1], subsets=subsets, seed=rng_seed)
    return np.array([[measure(*layers, order[:w]) for w in SIZES] for order in orders])


# reconstruction


@pytest.mark.parametrize("epoch", EPOCHS)
def test_r2_of_a_stored_layer_is_what_ridge_regression_gives(
    planted: actstore.Store, epoch: int
) -> None:
    answer = planted.sel(**RUN, epoch=epoch).reconstruction(subset_size=SIZES, subsets=4).compute()
    x = layer(epoch=epoch)
    r2 = by_brute_force(oracle.r2, x, subsets=4)
    heldout = by_brute_force(oracle.r2_heldout, x, subsets=4)
    np.testing.assert_allclose(answer.r2.isel(run=0, epoch=0), r2, atol=1e-5)
    np.testing.assert_allclose(answer.r2_heldout.isel(run=0, epoch=0), heldout, atol=1e-5)


def test_a_regression_fitted_on_one_split_is_scored_on_the_other(planted: actstore.Store) -> None:
    answer = planted.sel(**RUN, epoch=-1).reconstruction(
        subset_size=SIZES, subsets=3, fit_split="train", score_split="test"
    )
    both = layer("train"), layer("test")
    for name, measure in (("r2", oracle.cross_r2), ("r2_heldout", oracle.cross_r2_heldout)):
        found = answer[name].isel(run=0, epoch=0).values
        np.testing.assert_allclose(found, by_brute_force(measure, *both, subsets=3), atol=1e-5)
    assert (answer.attrs["fit_split"], answer.attrs["split"]) == ("train", "test")


def test_a_fit_split_alone_is_scored_on_itself(planted: actstore.Store) -> None:
    chosen = planted.sel(**RUN, epoch=-1)
    options: dict[str, Any] = {"subset_size": SIZES, "subsets": 2}
    xr.testing.assert_equal(
        chosen.reconstruction(fit_split="train", **options).compute(),
        chosen.reconstruction(split="train", **options).compute(),
    )


def test_sizes_default_to_the_width_and_its_halves(planted: actstore.Store) -> None:
    answer = planted.sel(width=[8, 16]).reconstruction()
    assert answer.subset_size.values.tolist() == [1, 2, 4, 8, 16]


def test_all_sizes_agree_with_some_sizes(planted: actstore.Store) -> None:
    chosen = planted.sel(**RUN, epoch=-1)
    every = chosen.reconstruction(subset_size="all", subsets=3)
    some = chosen.reconstruction(subset_size=[3, 8], subsets=3)
    assert every.sizes["subset_size"] == RUN["width"]
    xr.testing.assert_allclose(every.r2.sel(subset_size=[3, 8]).compute(), some.r2.compute())


def test_a_size_wider_than_a_run_is_nan_there_and_a_number_elsewhere(
    planted: actstore.Store,
) -> None:
    chosen = planted.sel(epoch=-1, seed=0, width=[16, 32])
    answer = chosen.reconstruction(subset_size=32, subsets=2).compute()
    exists = answer.width >= 32
    assert bool(answer.r2.where(~exists, drop=True).isnull().all())
    assert bool(answer.r2.where(exists, drop=True).notnull().all())


def test_another_rng_seed_draws_other_subsets_and_the_same_seed_the_same(
    planted: actstore.Store,
) -> None:
    chosen = planted.sel(**RUN, epoch=-1)
    first, again, other = (
        chosen.reconstruction(subset_size=4, subsets=3, rng_seed=seed).r2.values
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


# noise


def test_residual_correlations_are_the_papers_to_1e_4() -> None:
    x = planted_layer(samples=500, width=16, signals=3, seed=3, dtype=np.float64)
    answer = queries.noise(dataset(x), subset_size=SIZES, subsets=4, factors=None).compute()
    paper = by_brute_force(oracle.residual_correlation, x, subsets=4)
    heldout = by_brute_force(oracle.residual_correlation_heldout, x, subsets=4)
    one = answer.isel(run=0, epoch=0)
    np.testing.assert_allclose(one.residual_correlation, paper, atol=1e-4)
    np.testing.assert_allclose(one.residual_correlation_heldout, heldout, atol=1e-4)


def test_one_neuron_outside_a_subset_makes_no_pair(planted: actstore.Store) -> None:
    answer = planted.sel(**RUN, epoch=-1).noise(subset_size=[15, 16], subsets=2, factors=None)
    assert bool(answer.residual_correlation_heldout.isnull().all())
    assert answer.residual_correlation.values.ravel().tolist() == [0.0] * 4


def test_the_floor_and_the_edge_are_those_of_independent_noise(planted: actstore.Store) -> None:
    answer = planted.sel(width=32, seed=0, weight_decay=0.0, epoch=0).noise(
        subset_size=[8], subsets=5, eigenvalues=True, factors=None
    )
    one = answer.isel(run=0, epoch=0, subset_size=0).compute()
    dof = SAMPLES["test"] - 1 - 8
    assert float(one.sampling_floor) == pytest.approx(np.sqrt(2 / (np.pi * dof)))
    assert float(one.marchenko_pastur_edge) == pytest.approx((1 + np.sqrt(24 / dof)) ** 2)
    # neurons that are independent noise lie on both
    measured = float(one.residual_correlation_heldout.mean())
    assert measured == pytest.approx(float(one.sampling_floor), rel=0.1)
    assert float(one.largest_eigenvalue.max()) < 1.15 * float(one.marchenko_pastur_edge)


# clones


def mean_curve(x: NDArray[Any], criterion: str, *, subsets: int = 40) -> NDArray[np.float64]:
    name = {"heldout": "r2_heldout", "paper": "r2"}[criterion]
    curves = queries.reconstruction(dataset(x), subset_size="all", subsets=subsets)
    return np.asarray(curves[name].mean("subset").values.ravel())


@pytest.mark.parametrize("criterion", ["heldout", "paper"])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97])
def test_the_critical_size_is_the_first_integer_that_reaches_the_threshold(
    criterion: Any, threshold: float
) -> None:
    x = planted_layer(samples=300, width=24, signals=5, seed=1)
    answer = queries.clones(dataset(x), threshold=threshold, criterion=criterion)
    curve = mean_curve(x, criterion)
    reached = [w for w in range(1, 24) if curve[w - 1] >= threshold]
    assert answer.critical_size.values.item() == min(reached, default=24)


@pytest.fixture(scope="module")
def counted(planted: actstore.Store) -> xr.Dataset:
    """Count the clones of every run at every epoch by four thresholds, once."""
    return planted.clones(threshold=THRESHOLDS).compute()


def test_planted_clones_are_counted_and_noise_has_none(counted: xr.Dataset) -> None:
    answer = counted.sel(threshold=THRESHOLD, epoch=EPOCHS[-1])
    decayed = answer.isel(run=(answer.weight_decay > 0).values)
    # 4 signals: no smaller subset, and a random one needs at most two neurons more
    assert bool(((decayed.critical_size >= 4) & (decayed.critical_size <= 6)).all())
    assert bool((decayed.has_clones == (decayed.width >= 2 * decayed.critical_size)).all())
    assert bool(decayed.has_clones[(decayed.width >= 16).values].all())
    undecayed = answer.isel(run=(answer.weight_decay == 0).values)
    assert not undecayed.has_clones.any()
    assert bool(undecayed.n_clones.isnull().all())


def test_below_two_there_are_no_clones_rather_than_a_fraction(counted: xr.Dataset) -> None:
    answer, ratio = counted, counted.width_ratio
    assert bool((ratio.min() < 2) & (ratio.max() > 2))
    np.testing.assert_array_equal(answer.has_clones, ratio >= 2)
    np.testing.assert_array_equal(answer.n_clones, ratio.where(ratio >= 2))
    np.testing.assert_allclose(ratio, answer.alive / answer.critical_size)


def test_an_untrained_layer_has_no_clones_and_the_trained_one_has(counted: xr.Dataset) -> None:
    chosen = (counted.width == 32) & (counted.weight_decay > 0)
    has = counted.has_clones.sel(threshold=THRESHOLD).isel(run=chosen.values)
    assert has.values.tolist() == [[False, False, True]] * len(SEEDS)


@pytest.mark.parametrize("criterion", ["heldout", "paper"])
def test_every_part_has_the_r2_and_the_correlation_of_its_own_neurons(criterion: Any) -> None:
    x, _ = planted_clones(samples=400, clones=5, clone_size=3, noise=0.3, seed=2, dtype=np.float64)
    answer = queries.clones(dataset(x), threshold=0.7, criterion=criterion)
    one = answer.isel(run=0, epoch=0, threshold=0).compute()
    labels = one.clone_label.values
    parts = [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]
    assert len(parts) >= 2
    for k, part in enumerate(parts):
        assert one.clone_size[k] == len(part)
        assert float(one.clone_r2[k]) == pytest.approx(oracle.r2(x, part), abs=1e-5)
        assert float(one.clone_r2_heldout[k]) == pytest.approx(oracle.r2_heldout(x, part), abs=1e-5)
        correlation = oracle.residual_correlation_heldout(x, part)
        assert float(one.clone_residual_correlation[k]) == pytest.approx(correlation, abs=1e-4)
        reached = one.clone_r2_heldout[k] if criterion == "heldout" else one.clone_r2[k]
        assert bool(one.is_clone[k]) == bool(reached >= 0.7)
    assert int(one.certified_clones) == int(one.is_clone.sum())
    assert bool(one.clone_r2[len(parts) :].isnull().all())


def test_clone_to_clone_r2_is_of_the_other_from_the_first() -> None:
    x, _ = planted_clones(samples=300, clones=3, clone_size=4, noise=0.2, seed=5, dtype=np.float64)
    answer = queries.clones(dataset(x), parts=3).isel(run=0, epoch=0, threshold=0).compute()
    labels = answer.clone_label.values
    parts = [np.flatnonzero(labels == k) for k in range(3)]
    for i, j in ((0, 1), (1, 0), (0, 2)):
        both = x[:, [*parts[i], *parts[j]]]
        first = np.arange(len(parts[i]))
        expected = oracle.r2_heldout(both, first)
        assert float(answer.clone_to_clone_r2[i, j]) == pytest.approx(expected, abs=1e-5)


def test_parts_cut_the_layer_into_that_many_equal_parts(planted: actstore.Store) -> None:
    answer = planted.sel(**RUN, epoch=-1).clones(parts=4)
    labels = answer.clone_label.values.ravel()
    assert np.bincount(labels).tolist() == [4, 4, 4, 4]


def test_parts_of_a_layer_with_dead_neurons_stay_equal_and_as_many() -> None:
    data = planted_dataset(samples=200, width=32, signals=3, dead=2, noise=[0.3])
    answer = queries.clones(data, parts=8, threshold=0.5).isel(run=0, epoch=0, threshold=0)
    sizes = answer.clone_size.values
    assert sizes[np.isfinite(sizes)].tolist() == [3.0] * 8  # 30 that are alive, 6 left over


def test_greedy_certifies_the_planted_clones_that_random_parts_miss(
    planted: actstore.Store,
) -> None:
    chosen = planted.sel(width=64, seed=0, weight_decay=0.005, epoch=-1)
    random = chosen.clones(threshold=THRESHOLD).compute()
    greedy = chosen.clones(threshold=THRESHOLD, strategy="greedy").compute()
    found = {"random": random.certified_clones.item(), "greedy": greedy.certified_clones.item()}
    bound = random.component_bound.item()
    assert bound == 64 // CLONE_SIZE
    assert found["random"] < found["greedy"] <= bound
    assert found["greedy"] >= 0.85 * bound


def test_clones_chosen_on_one_split_are_certified_on_the_other(planted: actstore.Store) -> None:
    chosen = planted.sel(width=32, seed=0, weight_decay=0.005, epoch=-1)
    options: dict[str, Any] = {"threshold": THRESHOLD, "strategy": "greedy"}
    answer = chosen.clones(select_split="train", score_split="test", **options).compute()
    on_train = chosen.clones(split="train", **options).compute()
    xr.testing.assert_equal(answer.clone_label, on_train.clone_label)
    x = np.asarray(activations(32, 0.005, 0, 10, "test"), np.float64)
    part = np.flatnonzero(answer.clone_label.values.ravel() == 0)
    expected = oracle.r2_heldout(x, part)
    assert answer.clone_r2_heldout.isel(clone=0).item() == pytest.approx(expected, abs=1e-5)
    assert (answer.attrs["select_split"], answer.attrs["score_split"]) == ("train", "test")


def test_more_parts_than_max_clones_are_counted_and_not_listed(planted: actstore.Store) -> None:
    chosen = planted.sel(width=64, seed=0, weight_decay=0.005, epoch=-1)
    whole = chosen.clones(threshold=THRESHOLD).compute()
    short = chosen.clones(threshold=THRESHOLD, max_clones=3).compute()
    assert short.sizes["clone"] == 3
    assert short.certified_clones.item() == whole.certified_clones.item() > 3
    xr.testing.assert_equal(short.clone_label, whole.clone_label)


def test_the_interval_of_the_critical_size_contains_it(counted: xr.Dataset) -> None:
    answer = counted
    assert bool((answer.critical_size_low <= answer.critical_size).all())
    assert bool((answer.critical_size <= answer.critical_size_high).all())
    assert bool((answer.critical_size_low < answer.critical_size_high).any())


# scaling


@pytest.fixture(scope="module")
def grown(planted: actstore.Store) -> xr.Dataset:
    """Count the clones by width for four thresholds, once."""
    return planted.scaling(threshold=THRESHOLDS).compute()


def test_scaling_counts_what_clones_counts_averaged_over_seeds(
    grown: xr.Dataset, counted: xr.Dataset
) -> None:
    by_run = counted.sel(epoch=EPOCHS[-1])
    for setting in grown.setting.values:
        one = grown.sel(setting=setting)
        for width in WIDTHS[float(one.weight_decay)]:
            chosen = (by_run.width == width) & (by_run.weight_decay == one.weight_decay)
            runs = by_run.isel(run=chosen.values)
            assert runs.sizes["run"] == int(one.seeds.sel(width=width)) == len(SEEDS)
            for name in ("critical_size", "width_ratio"):
                np.testing.assert_allclose(one[name].sel(width=width), runs[name].mean("run"))


def test_scaling_of_planted_clones_is_linear_and_of_noise_none(grown: xr.Dataset) -> None:
    answer = grown.sel(threshold=THRESHOLD)
    linear = answer.sel(setting="weight_decay=0.005")
    np.testing.assert_allclose(linear.n_clones, [np.nan, 3.2, 6.4, 12.8])
    assert float(linear.exponent) == pytest.approx(1, abs=1e-9)
    assert (float(linear.window_low), float(linear.window_high)) == (16, 64)
    flat = answer.sel(setting="weight_decay=0.0")
    assert not flat.has_clones.any()
    assert bool(flat.exponent.isnull())


def test_a_setting_that_lacks_a_width_is_nan_there(grown: xr.Dataset) -> None:
    missing = grown.sel(setting="weight_decay=0.0", width=64)
    assert int(missing.seeds) == 0
    assert not missing.has_clones.any()
    for name in ("critical_size", "width_ratio", "n_clones", "n_clones_low", "train_error"):
        assert bool(missing[name].isnull().all()), name


def test_the_window_of_the_exponent_is_the_one_asked_for(planted: actstore.Store) -> None:
    answer = planted.scaling(threshold=THRESHOLD, window=(8, 32)).isel(threshold=0).compute()
    for setting in answer.setting.values:
        one = answer.sel(setting=setting)
        assert (float(one.window_low), float(one.window_high)) == (8, 32)
        widths = np.array([8, 16, 32])
        ratio = one.width_ratio.sel(width=widths)
        slope = np.polyfit(np.log(widths), np.log(ratio), 1)[0]
        assert float(one.exponent) == pytest.approx(slope)
        assert float(one.exponent_low) <= slope <= float(one.exponent_high)
    assert answer.attrs["window"] == [8, 32]


def test_intervals_of_the_clones_contain_the_estimate(grown: xr.Dataset) -> None:
    answer = grown
    for name in ("critical_size", "width_ratio", "n_clones"):
        held = answer[name].notnull()
        inside = (answer[f"{name}_low"] <= answer[name]) & (answer[name] <= answer[f"{name}_high"])
        assert bool(inside.where(held, True).all()), name


def test_errors_in_scaling_are_the_last_ones_logged_averaged_over_seeds(
    planted: actstore.Store, grown: xr.Dataset
) -> None:
    answer = grown.sel(setting="weight_decay=0.005", width=16)
    assert float(answer.train_error) == pytest.approx(0.0)
    assert float(answer.test_error) == pytest.approx(0.155)
    early = (
        planted.sel(epoch=[0, 5], width=16).scaling().sel(setting="weight_decay=0.005", width=16)
    )
    assert float(early.train_error) == pytest.approx(0.3)


# dead neurons


def test_dead_neurons_are_counted_and_left_out_of_everything() -> None:
    x = planted_layer(samples=300, width=16, signals=3, seed=4)
    with_dead = np.insert(x, [0, 5, 16], 0.0, axis=1)
    whole, padded = dataset(x), dataset(with_dead)
    for name, options in (
        ("reconstruction", {"subset_size": SIZES, "subsets": 3}),
        ("noise", {"subset_size": SIZES, "subsets": 3, "factors": None}),
        ("clones", {"threshold": [0.5, 0.9]}),
    ):
        query = getattr(queries, name)
        a, b = query(whole, **options).compute(), query(padded, **options).compute()
        assert b.alive.item() == 16
        compared = [v for v in a.data_vars if not {"neuron", "clone"} & set(a[v].dims)]
        assert compared
        for variable in compared:
            np.testing.assert_allclose(b[variable], a[variable], err_msg=f"{name}.{variable}")
    labels = queries.clones(padded, threshold=0.5).clone_label.values.ravel()
    assert labels[[0, 6, 18]].tolist() == [-1, -1, -1]


def test_a_size_above_the_neurons_that_live_has_no_answer() -> None:
    data = planted_dataset(samples=200, width=16, signals=3, dead=4, noise=[0.3])
    answer = queries.reconstruction(data, subset_size=[12, 13], subsets=2).compute()
    assert bool(answer.r2.sel(subset_size=12).notnull().all())
    assert bool(answer.r2.sel(subset_size=13).isnull().all())


def test_a_layer_of_dead_neurons_only_is_an_error_that_says_where() -> None:
    x = np.zeros((2, 50, 8), "float32")
    x[0] = planted_layer(samples=50, width=8, signals=2, seed=0)
    data = xr.Dataset({"activations": (("epoch", "sample", "neuron"), x)}, {"epoch": [3, 7]})
    answer = queries.reconstruction(data, subsets=2)
    with pytest.raises(InvalidDataError, match=r"all 8 neurons are dead .* epoch 7"):
        answer.compute()


# the same answer from every kind of data


@pytest.fixture(scope="module")
def kinds(planted: actstore.Store) -> dict[str, Any]:
    """One layer at one epoch: selected from a store, and as datasets in and out of memory."""
    chosen = planted.sel(**RUN, epoch=-1)
    lazy = chosen.dataset("test")
    memory = lazy.compute()
    return {
        "store": planted.sel(**RUN),
        "dataset of the store": lazy,
        "numpy": memory,
        "numpy without epoch": memory.isel(epoch=0, drop=True),
        "dask, blocks of samples": memory.chunk(sample=37),
        "dask, blocks of neurons": memory.chunk(neuron=5, sample=50),
        "other order of dims": memory.transpose("neuron", "epoch", "sample"),
        "float64": memory.astype("float64"),
    }


@pytest.mark.parametrize("name", ["reconstruction", "clones", "noise", "moments"])
def test_every_kind_of_data_gives_the_same_answer(kinds: dict[str, Any], name: str) -> None:
    options: dict[str, Any] = {"subsets": 5} if name != "moments" else {}
    if name == "noise":
        options["factors"] = None
    query = getattr(queries, name)
    expected = query(kinds["store"].sel(epoch=-1), **options).compute()
    for kind, data in kinds.items():
        answer = query(data.sel(epoch=-1) if kind == "store" else data, **options).compute()
        # a dataset has no labels and no readout to count errors with
        without = {str(v) for v in expected if "error" not in str(v)}
        assert without <= set(answer) <= set(expected)
        for variable in answer:
            np.testing.assert_allclose(
                answer[variable].values, expected[variable].values, rtol=1e-9, atol=1e-9,
                err_msg=f"{name}.{variable} of {kind}",
            )  # fmt: skip


def test_scaling_takes_the_last_epoch_of_a_selection_and_a_dataset_too(
    planted: actstore.Store,
) -> None:
    chosen = planted.sel(**RUN)
    expected = chosen.scaling(threshold=THRESHOLD).compute()
    for data in (chosen.sel(epoch=-1), chosen.dataset("test")):
        answer = queries.scaling(data, threshold=THRESHOLD).compute()
        np.testing.assert_allclose(answer.critical_size, expected.critical_size)
        np.testing.assert_allclose(answer.width_ratio_low, expected.width_ratio_low)


def test_a_question_of_the_store_is_the_function_of_the_same_name(planted: actstore.Store) -> None:
    for name in queries.__all__:
        assert getattr(actstore.Store, name) is getattr(queries, name)
        assert getattr(actstore, name) is getattr(queries, name)


def test_an_answer_explains_itself(planted: actstore.Store) -> None:
    chosen = planted.sel(epoch=-1, width=[8, 16], seed=0, weight_decay=0.005)
    for name in queries.__all__:
        answer = getattr(queries, name)(planted if name == "ensemble" else chosen)
        assert answer.attrs["query"] == name
        assert answer.attrs["actstore_version"] == actstore.__version__
        for key, variable in answer.data_vars.items():
            assert {"long_name", "units"} <= set(variable.attrs), f"{name}.{key}"
        asked = {
            key
            for key, p in inspect.signature(getattr(queries, name)).parameters.items()
            if p.kind is p.KEYWORD_ONLY and p.default is not None
        }
        # a list of values is a coordinate; fit_split of errors counts with a refit only
        assert asked - {"cache", "splits", "fit_split"} <= {*answer.attrs, *answer.coords}, name


def test_runs_stand_side_by_side_with_their_settings(planted: actstore.Store) -> None:
    answer = planted.moments()
    assert answer.run.values.tolist() == list(planted)
    assert answer.epoch.values.tolist() == list(EPOCHS)
    table = planted.runs
    for key in ("width", "seed", "weight_decay"):
        assert answer[key].values.tolist() == table[key].tolist()


def test_runs_with_other_epochs_have_nan_where_they_have_none(planted: actstore.Store) -> None:
    one, other = planted.sel(**RUN, epoch=[0, 5]), planted.sel(**{**RUN, "seed": 0}, epoch=10)
    both = one._with({**one, **other})
    answer = both.moments().total_variance.compute()
    assert answer.epoch.values.tolist() == [0, 5, 10]
    assert answer.isnull().values.tolist() == [[False, False, True], [True, True, False]]


# bad questions


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("reconstruction", {"subset_size": 0}, "subset size 0 .* between 1 and the width, 64"),
        ("reconstruction", {"subset_size": [4, 65]}, "subset size 65 .* 64 neurons"),
        ("reconstruction", {"subset_size": "some"}, "'some' .* numbers or 'all'"),
        ("reconstruction", {"subsets": 0}, "subsets=0 .* at least 1"),
        ("noise", {"subset_size": -1}, "subset size -1 .* between 1"),
        ("clones", {"threshold": 0.0}, r"threshold 0.0 .* \(0, 1\]"),
        ("clones", {"threshold": 1.5}, r"threshold 1.5 .* \(0, 1\]"),
        ("clones", {"threshold": float("nan")}, r"threshold nan .* \(0, 1\]"),
        ("clones", {"threshold": []}, "no threshold"),
        ("clones", {"criterion": "best"}, "'best' .* 'heldout' or 'paper'"),
        ("clones", {"strategy": "best"}, "'best' .* 'random' or 'greedy'"),
        ("clones", {"parts": 3}, "3 parts of run .* width 8 does not divide by 3; .* 1, 2, 4, 8"),
        ("clones", {"parts": 0}, "parts=0 .* at least 1"),
        ("clones", {"max_clones": 0}, "max_clones=0"),
        ("scaling", {"threshold": [0.9, 2]}, "threshold 2"),
        ("scaling", {"window": (64, 8)}, r"window \(64, 8\)"),
        ("scaling", {"window": (0, 8)}, r"window \(0, 8\)"),
        ("reconstruction", {"ridge": -1.0}, "ridge=-1.0 .* from 0"),
        ("clones", {"ridge": float("inf")}, "ridge=inf .* finite"),
        ("noise", {"rng_seed": -1}, "rng_seed=-1 .* from 0"),
        ("scaling", {"rng_seed": -1}, "rng_seed=-1 .* from 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused_before_anything_is_read(
    planted: actstore.Store, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        getattr(planted, name)(**options)


@pytest.mark.parametrize("name", ["reconstruction", "clones", "noise", "scaling", "moments"])
def test_a_split_or_layer_that_is_not_there_names_those_that_are(
    planted: actstore.Store, name: str
) -> None:
    with pytest.raises(NotInStoreError, match=r"no split 'val' .* holds test, train"):
        getattr(planted, name)(split="val")
    with pytest.raises(NotInStoreError, match=r"no layer 'conv1' .* holds last_hidden"):
        getattr(planted, name)(layer="conv1")


def test_a_second_split_that_is_not_there_is_refused_at_once(planted: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match=r"no split 'val'"):
        planted.reconstruction(fit_split="train", score_split="val")
    with pytest.raises(NotInStoreError, match=r"no split 'val'"):
        planted.clones(select_split="train", score_split="val")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("chunks", [{}, {"sample": 20}])
def test_activations_that_are_not_finite_have_no_answer(bad: float, chunks: dict[str, int]) -> None:
    x = planted_layer(samples=50, width=8, signals=2, seed=0)
    x[30, 3] = bad
    answer = queries.reconstruction(dataset(x).chunk(chunks), subsets=2)
    with pytest.raises(InvalidDataError, match=r"NaN or infinite|not finite"):
        answer.compute()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (xr.Dataset({"x": ("sample", [1.0, 2.0])}), "holds x; a variable 'activations'"),
        (xr.Dataset(), "holds nothing; a variable 'activations'"),
        (dataset(np.zeros((2, 4))), "2 samples; at least 3"),
        (
            xr.Dataset({"activations": (("sample", "unit"), np.zeros((4, 4)))}),
            r"dims \('sample', 'unit'\); expected \(sample, neuron\)",
        ),
    ],
)
def test_a_dataset_that_is_not_a_layer_says_what_is_needed(data: xr.Dataset, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        queries.reconstruction(data)


def test_something_that_is_no_data_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="asked of a ndarray; give a Store"):
        queries.reconstruction(np.zeros((4, 4)))


def test_a_dataset_has_no_second_split_to_score_on() -> None:
    data = planted_dataset()
    with pytest.raises(InvalidParameterError, match="one split"):
        queries.reconstruction(data, fit_split="train", score_split="test")
    with pytest.raises(InvalidParameterError, match="one split"):
        queries.clones(data, select_split="train", score_split="test")


def test_the_split_of_a_dataset_is_the_one_that_it_names(planted: actstore.Store) -> None:
    data = planted.sel(**RUN, epoch=-1).dataset("train")
    answer = queries.reconstruction(data, subsets=2)
    assert answer.attrs["split"] == "train"


@pytest.mark.parametrize("question", queries.__all__)
def test_a_question_says_where_in_the_paper_it_is_or_that_it_is_not(question: str) -> None:
    said = " ".join((getattr(queries, question).__doc__ or "").partition("References")[2].split())
    where = r"arXiv 2106\.03485, (figure|abstract)|Not a measurement of arXiv 2106\.03485"
    assert re.search(where, said), said
