"""Errors of subsets are those that a loop over X[:, S] @ A[:, S].T + b finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import least_squares
from sklearn.linear_model import LinearRegression, Ridge

import actstore
from actstore import schema
from actstore.errors import (
    InvalidDataError,
    InvalidParameterError,
    NotInStoreError,
    UndecidedWarning,
)
from actstore.kernels.reconstruction import random_subsets
from actstore.storage.writer import RunWriter
from actstore.testing import planted_dataset, raise_if_computes

from .command_line import Answer
from .planted_networks import (
    CLASSES,
    EPOCHS,
    SAMPLES,
    Network,
    error,
    loss,
    network,
    record_networks,
)
from .recordings import attributes, record

WIDTH, SEED = 16, 1
SIZES = [1, 3, 8, 16]
SUBSETS = 4
DEAD = 3
SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("networks") / "networks.zarr"
    record_networks(store, widths=(8, WIDTH), seeds=(0, SEED), weight_decay=0.005)
    dead = {"dead": DEAD}
    return record_networks(store, widths=[12], seeds=[5], epochs=[9], options=dead, dead_ones=DEAD)


@pytest.fixture(scope="module")
def store(path: Path) -> actstore.Store:
    return actstore.open(path)


@pytest.fixture(scope="module")
def answer(store: actstore.Store) -> xr.Dataset:
    one = store.sel(width=WIDTH, seed=SEED)
    return one.error(subset_size=SIZES, subsets=SUBSETS, refit=2).compute()


def cut(net: Network, split: str, subset: NDArray[np.int64], *, scale: float = 1.0) -> Any:
    """Logits of a subset, as the paper writes them."""
    x = net.x[split].astype(np.float64)
    return scale * (x[:, subset] @ net.weight[:, subset].T) + net.bias


# the trained readout


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("split", SPLITS)
def test_error_and_loss_are_those_of_a_loop_over_subsets(
    answer: xr.Dataset, split: str, epoch: int
) -> None:
    net = network(WIDTH, SEED, epoch)
    found = answer.isel(run=0).sel(epoch=epoch, split=split)
    for t, order in enumerate(random_subsets(WIDTH, subsets=SUBSETS, seed=0)):
        for w in SIZES:
            one = found.sel(subset=t, subset_size=w)
            for suffix, scale in (("", 1.0), ("_rescaled", WIDTH / w)):
                logits = cut(net, split, order[:w], scale=scale)
                assert float(one[f"error{suffix}"]) == error(logits, net.label[split])
                expected = loss(logits, net.label[split])
                np.testing.assert_allclose(one[f"loss{suffix}"], expected, rtol=1e-5)


def test_dead_neurons_are_drawn_like_others_and_act_as_a_bias(store: actstore.Store) -> None:
    net = network(12, 5, dead=DEAD)
    found = store.sel(width=12).error(subset_size=[1, 6, 12], subsets=8, splits="test").compute()
    drawn_dead = 0
    for t, order in enumerate(random_subsets(12, subsets=8, seed=0)):
        for w in (1, 6, 12):
            expected = error(cut(net, "test", order[:w]), net.label["test"])
            assert found.error.sel(subset=t, subset_size=w).item() == expected
        drawn_dead += int((order[:6] >= 12 - DEAD).sum())
    assert drawn_dead


def test_the_error_of_all_neurons_is_the_one_that_training_logged(store: actstore.Store) -> None:
    chosen = store.sel(weight_decay=0.005)
    found = chosen.error(subsets=2).compute()
    for name in found.run.values:
        logged = chosen[str(name)].metrics()
        whole = found.sel(run=name, subset_size=chosen[str(name)].width)
        for split in SPLITS:
            for t in range(2):
                one = whole.sel(split=split, subset=t)
                assert one.error.values.tolist() == logged[f"{split}_error"].values.tolist()
                np.testing.assert_allclose(one.loss, logged[f"{split}_loss"], rtol=1e-5)
                np.testing.assert_array_equal(one.error_rescaled, one.error)


def test_dims_are_run_epoch_split_subset_and_size_whatever_is_asked(answer: xr.Dataset) -> None:
    whole = ("run", "epoch", "split", "subset", "subset_size")
    for name in ("error", "loss", "error_rescaled", "loss_rescaled"):
        assert answer[name].dims == whole
        assert answer[name].attrs["units"] == "1"
    assert answer.error_refit.dims == ("run", "epoch", "split", "refit_subset", "subset_size")
    for name in ("gamma", "gamma_low", "gamma_high", "error_inf", "window_low", "window_high"):
        assert answer[name].dims == ("run", "epoch", "split")
        assert answer[name].attrs["long_name"]
    assert answer.window_low.attrs["units"] == "neurons"


def test_splits_come_in_the_order_asked_for_and_once(store: actstore.Store) -> None:
    one = store.sel(width=8, seed=0, epoch=-1)
    found = one.error(splits=["test", "train", "test"], subsets=2)
    assert found.split.values.tolist() == ["test", "train"]
    alone = one.error(splits="train", subsets=2)
    np.testing.assert_array_equal(alone.error.isel(split=0), found.error.sel(split="train"))


@pytest.mark.parametrize("held", [("train",), ("test",), ("train", "test", "more")])
def test_errors_are_counted_where_every_run_can_be_asked(
    held: tuple[str, ...], tmp_path: Path
) -> None:
    path = record(tmp_path / "s.zarr", "one", epochs=[0], splits=dict.fromkeys(held, 30))
    record(path, "other", epochs=[0], seed=1, splits={"train": 30, "test": 30})
    store = actstore.open(path)
    shared = [split for split in held if split in SPLITS]
    assert store.error(subsets=2).split.values.tolist() == shared
    # bytes of the layer, and as many operations as if the same splits had been named
    asked = [store.explain("error", subsets=2, **named) for named in ({}, {"splits": shared})]
    assert asked[0] == asked[1]


def test_without_the_usual_splits_one_is_named(tmp_path: Path) -> None:
    store = actstore.open(record(tmp_path / "s.zarr", epochs=[0], splits={"more": 30}))
    with pytest.raises(NotInStoreError, match="it holds more"):
        store.error()


def test_a_size_wider_than_a_run_is_nan_there_and_a_number_elsewhere(
    store: actstore.Store,
) -> None:
    found = store.sel(weight_decay=0.005, epoch=-1).error(subset_size=WIDTH, subsets=2, refit=1)
    for name in ("error", "loss_rescaled", "error_refit"):
        missing = found[name].isnull().any(["epoch", "split", "subset_size"])
        np.testing.assert_array_equal(missing.any(missing.dims[1:]), found.width < WIDTH)
        np.testing.assert_array_equal(missing.all(missing.dims[1:]), found.width < WIDTH)


def test_more_subsets_leave_the_first_ones_and_another_seed_draws_others(
    store: actstore.Store,
) -> None:
    one = store.sel(width=WIDTH, seed=0, epoch=-1)
    few = one.error(subset_size=4, subsets=3).loss
    many = one.error(subset_size=4, subsets=9).loss.isel(subset=slice(3))
    other = one.error(subset_size=4, subsets=3, rng_seed=1).loss
    np.testing.assert_array_equal(few, many)
    assert not np.isclose(few, other).any()


def test_how_many_runs_share_the_cores_does_not_change_the_answer(store: actstore.Store) -> None:
    """Few epochs are cut into blocks of subsets, many are not."""
    alone = store.sel(width=WIDTH, seed=0, epoch=-1).error(subsets=7)
    among = store.sel(weight_decay=0.005).error(subsets=7).sel(run=alone.run.values, epoch=[9])
    sizes = alone.subset_size.values
    for name in ("error", "loss", "gamma"):
        both = [one[name].sel(subset_size=sizes) if "subset_size" in one[name].dims else one[name]
                for one in (alone, among)]  # fmt: skip
        np.testing.assert_array_equal(*both)


# a readout fitted anew


@pytest.mark.parametrize(("fit_split", "score"), [("train", "test"), ("test", "train")])
def test_a_refitted_readout_is_that_of_linear_regression(
    store: actstore.Store, fit_split: str, score: str
) -> None:
    one = store.sel(width=WIDTH, seed=SEED, epoch=[0, 9])
    found = one.error(
        subset_size=SIZES, subsets=1, refit=3, fit_split=fit_split, splits=score
    ).error_refit.compute()
    for epoch in (0, 9):
        net = network(WIDTH, SEED, epoch)
        target = np.eye(CLASSES)[net.label[fit_split]]
        for t, order in enumerate(random_subsets(WIDTH, subsets=3, seed=0)):
            for w in SIZES:
                model = LinearRegression().fit(net.x[fit_split][:, order[:w]], target)
                expected = error(model.predict(net.x[score][:, order[:w]]), net.label[score])
                assert found.sel(epoch=epoch, refit_subset=t, subset_size=w).item() == expected


def test_the_ridge_of_a_refit_is_relative_to_the_mean_variance(store: actstore.Store) -> None:
    net, ridge = network(WIDTH, SEED), 0.3
    x = net.x["train"].astype(np.float64)
    strength = ridge * np.square(x - x.mean(0)).sum() / WIDTH
    order = random_subsets(WIDTH, subsets=1, seed=0)[0]
    found = (
        store.sel(width=WIDTH, seed=SEED, epoch=-1)
        .error(subset_size=[8, 16], subsets=1, refit=1, ridge=ridge, splits="test")
        .compute()
    )
    for w in (8, 16):
        target = np.eye(CLASSES)[net.label["train"]]
        model = Ridge(alpha=strength).fit(x[:, order[:w]], target)
        predicted = model.predict(net.x["test"][:, order[:w]].astype(np.float64))
        expected = error(predicted, net.label["test"])
        assert found.error_refit.sel(subset_size=w).item() == expected


def test_a_dead_neuron_does_not_spoil_a_refit(store: actstore.Store) -> None:
    net = network(12, 5, dead=DEAD)
    found = store.sel(width=12).error(subset_size=12, subsets=1, refit=1, splits="test").compute()
    model = LinearRegression().fit(net.x["train"][:, :-DEAD], np.eye(CLASSES)[net.label["train"]])
    expected = error(model.predict(net.x["test"][:, :-DEAD]), net.label["test"])
    assert found.error_refit.item() == expected


def test_without_refit_nothing_is_fitted_anew(store: actstore.Store) -> None:
    plain = store.sel(width=8, seed=0).error(subsets=1)
    assert "error_refit" not in plain
    assert "fit_split" not in plain.attrs


# the law


def by_least_squares(w: Any, y: Any, error_inf: float) -> float:
    """Exponent of ``y = error_inf + a w^-gamma`` with relative residuals, by scipy."""
    fit = least_squares(
        lambda p: (error_inf + np.exp(p[0]) * w ** -p[1]) / y - 1, [0.0, 0.3], xtol=1e-12
    )
    return float(fit.x[1])


def test_gamma_is_that_of_a_least_squares_fit_of_the_mean_error(store: actstore.Store) -> None:
    one = store.sel(width=WIDTH, seed=SEED, epoch=-1)
    found = one.error(subset_size="all", error_inf=0.01, window=(3, 14), splits="test").compute()
    w = np.arange(3.0, 15)
    mean = found.error.mean("subset").sel(subset_size=w).values.ravel()
    np.testing.assert_allclose(found.gamma.item(), by_least_squares(w, mean, 0.01), rtol=1e-4)
    assert found.gamma_low.item() < found.gamma.item() < found.gamma_high.item()
    assert (found.window_low.item(), found.window_high.item(), found.error_inf.item()) == (
        3, 14, 0.01,
    )  # fmt: skip
    assert (found.attrs["error_inf"], found.attrs["window"]) == (0.01, [3, 14])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> actstore.Store:
    """Make networks that mistake enough for a law, of a setting whose widest is 16 and one of 8."""
    store = tmp_path_factory.mktemp("noisy") / "noisy.zarr"
    options = {"noise": 1.6}
    record_networks(store, widths=(8, 16), seeds=(0, 1, 2), options=options, decay=1)
    return actstore.open(record_networks(store, widths=[8], seeds=(3, 4), options=options, decay=0))


@pytest.mark.parametrize("decay", [0, 1])
def test_the_error_of_infinite_size_is_that_of_the_widest_seeds_at_the_same_epoch(
    noisy: actstore.Store, decay: int
) -> None:
    """The logits of all seeds of the widest width of the setting, added up by brute force."""
    chosen = noisy.sel(decay=decay)
    options: dict[str, Any] = {"subset_size": [2, 3, 4, 6, 8], "subsets": 20}
    found = chosen.error(error_inf="ensemble", **options).compute()
    width, seeds = {0: (8, (3, 4)), 1: (16, (0, 1, 2))}[decay]
    told = 0
    for epoch in EPOCHS:
        nets = [network(width, seed, epoch, noise=1.6) for seed in seeds]
        for split in SPLITS:
            together = np.sum([net.logits(split) for net in nets], axis=0)
            expected = error(together, nets[0].label[split])
            given = chosen.sel(epoch=epoch).error(splits=split, error_inf=expected, **options)
            given = given.sel(epoch=epoch, split=split).compute()
            one = found.sel(epoch=epoch, split=split)
            # where errors do not decay to that floor, there is no law and no floor either way
            for name in ("gamma", "gamma_low", "gamma_high", "error_inf"):
                np.testing.assert_array_equal(one[name], given[name], err_msg=f"{name} {epoch}")
            known = one.error_inf.values[np.isfinite(one.error_inf)]
            assert (known == expected).all()
            told += known.size
    assert told >= 4


def test_each_split_and_setting_has_its_own_ensemble(noisy: actstore.Store) -> None:
    found = noisy.sel(epoch=-1).error(subsets=20, error_inf="ensemble").compute().squeeze("epoch")
    limits = found.error_inf.groupby("decay").max().values
    assert len(np.unique(limits)) == limits.size == 4


def test_blocks_of_samples_do_not_change_the_ensemble(noisy: actstore.Store) -> None:
    one = noisy.sel(decay=1, epoch=-1)
    blocks = one.narrow(lambda run: run.in_blocks(1))
    options: dict[str, Any] = {"subsets": 3, "error_inf": "ensemble"}
    whole, cut = (data.error(**options).error_inf for data in (one, blocks))
    np.testing.assert_array_equal(whole, cut)


def test_an_ensemble_needs_two_seeds_that_hold_the_epoch(
    noisy: actstore.Store, tmp_path: Path
) -> None:
    with pytest.raises(InvalidParameterError, match="width 16, the widest of decay=1, has one"):
        noisy.sel(decay=1, seed=0).error(error_inf="ensemble")
    path = tmp_path / "s.zarr"
    for seed, epochs in ((0, [4, 9]), (1, [4])):
        record_networks(path, widths=[8], seeds=[seed], epochs=epochs)
    store = actstore.open(path)
    with pytest.raises(NotInStoreError, match=r"no epoch 9 in run .*; it holds 4"):
        store.error(error_inf="ensemble")
    with pytest.warns(UndecidedWarning, match="compared at different last epochs, 4 .*, 9 "):
        store.sel(epoch=-1).error(error_inf="ensemble")


def test_the_window_defaults_to_all_sizes_above_one(answer: xr.Dataset) -> None:
    assert (answer.window_low == 3).all()
    assert (answer.window_high == WIDTH).all()


def test_too_few_sizes_have_no_law(store: actstore.Store) -> None:
    found = store.sel(width=8, seed=0, epoch=-1).error(subset_size=[2, 4], subsets=2)
    for name in ("gamma", "gamma_low", "gamma_high", "error_inf"):
        assert bool(found[name].isnull().all())


def test_sizes_without_errors_are_left_out_of_the_law_and_the_window_says_so(
    tmp_path: Path,
) -> None:
    path = record_networks(
        tmp_path / "easy.zarr",
        widths=[16],
        seeds=[0],
        epochs=[9],
        options={"noise": 0.1, "spread": 4.0},
    )
    found = actstore.open(path).error(subset_size=[2, 4, 8, 12, 16], subsets=20).compute()
    mean = found.error.mean("subset").isel(run=0, epoch=0).sel(split="train")
    zero = mean.subset_size.values[mean.values == 0]
    assert zero.size, "the planted network must have learnt its training set"
    assert float(found.window_high.sel(split="train").item()) < zero.min()


# laziness


def test_building_the_question_computes_nothing_and_carries_no_data(store: actstore.Store) -> None:
    chosen = store.sel(weight_decay=0.005)
    with raise_if_computes():
        built = chosen.error(refit=2)
    assert all(v.chunks is not None for v in built.data_vars.values())
    carried = len(cloudpickle.dumps(dict(built.error.data.dask)))
    activations = 4 * sum(
        sum(SAMPLES.values()) * run.width * len(run.epochs) for run in chosen.values()
    )
    assert carried < activations / 2


def test_every_scheduler_gives_the_same_errors(store: actstore.Store) -> None:
    built = store.sel(width=8, seed=0).error(subsets=5, refit=2)
    with dask.config.set(scheduler="synchronous"):
        one = built.compute()
    with dask.config.set(scheduler="threads", num_workers=4):
        xr.testing.assert_identical(one, built.compute())


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset_size": 17}, "subset size 17 was asked for; sizes lie between 1 and the width"),
        ({"subset_size": 0}, "subset size 0 was asked for"),
        ({"subsets": 0}, "subsets=0 was asked for"),
        ({"refit": -1}, "refit=-1 was asked for"),
        ({"splits": []}, "no split was given"),
        ({"error_inf": -0.1}, r"error_inf=-0.1 was asked for; give a number in \[0, 1\]"),
        ({"error_inf": 2}, "error_inf=2 was asked for"),
        ({"error_inf": "best"}, "error_inf='best' was asked for; give a number"),
        ({"window": (8, 2)}, r"window \(8, 2\) was asked for; give the smallest"),
        ({"window": (0, np.nan)}, "was asked for; give the smallest"),
        ({"rng_seed": -1}, "rng_seed=-1 was asked for"),
    ],
)
def test_a_parameter_out_of_range_is_refused_before_anything_is_read(
    store: actstore.Store, options: dict[str, Any], message: str
) -> None:
    with raise_if_computes(), pytest.raises(InvalidParameterError, match=message):
        store.sel(weight_decay=0.005).error(**options)


@pytest.mark.parametrize(
    "options",
    [{"splits": "valid"}, {"splits": ["test", "valid"]}, {"refit": 1, "fit_split": "valid"}],
)
def test_a_split_that_is_not_there_names_those_that_are(
    store: actstore.Store, options: dict[str, Any]
) -> None:
    with pytest.raises(NotInStoreError, match=r"no split 'valid' in run .*; it holds test, train"):
        store.error(**options)


def test_a_run_without_readout_says_that_it_has_none(tmp_path: Path) -> None:
    path = record_networks(tmp_path / "bare.zarr", widths=[8], seeds=[0], epochs=[9], readout=False)
    with pytest.raises(NotInStoreError, match="was recorded without its readout"):
        actstore.open(path).error()


def test_a_dataset_has_no_readout() -> None:
    with pytest.raises(InvalidDataError, match="asked of a dataset, which has no readout"):
        actstore.error(planted_dataset())


def test_a_layer_that_the_readout_does_not_read_is_refused(tmp_path: Path) -> None:
    layers = {"last_hidden": 8, "first_hidden": 6}
    path = record(tmp_path / "two.zarr", layers=layers)
    with pytest.raises(InvalidDataError, match="has 6 neurons and its readout takes 8"):
        actstore.open(path).error(layer="first_hidden")


@pytest.mark.parametrize("label", [[-1, 1], [0, 7]])
def test_labels_that_are_no_outputs_are_an_error(tmp_path: Path, label: list[int]) -> None:
    rng = np.random.default_rng(0)
    writer = RunWriter.create(tmp_path / "s.zarr", "run", slots=1, attributes=attributes(width=4))
    writer.write(
        1,
        {"test": {schema.DEFAULT_LAYER: rng.normal(size=(20, 4)).astype("float32")}},
        labels={"test": np.tile(label, 10)},
        readout=(rng.normal(size=(3, 4)), rng.normal(size=3)),
    )
    writer.close(complete=True)
    found = actstore.open(tmp_path / "s.zarr").error(splits="test", subsets=2)
    with pytest.raises(InvalidDataError, match=f"labels from {label[0]} to {label[1]} .*3 outputs"):
        found.compute()


# the command


def test_the_command_says_what_the_function_says(path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli(
        "query", "error", path, "--width", WIDTH, "--seed", SEED, "--subset-size", "4,8,16",
        "--subsets", 6, "--refit", 2, "--splits", "test", "--window", 4, 16, "--error-inf", 0,
        "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = answer.json
    assert found["query"] == "error"
    assert (found["parameters"]["refit"], found["parameters"]["error_inf"]) == (2, 0.0)
    assert [row["subset_size"] for row in found["rows"]] == [4, 8, 16]
    expected = actstore.open(path).sel(width=WIDTH, seed=SEED, epoch=-1).error(
        subset_size=[4, 8, 16], subsets=6, refit=2, splits="test", window=(4, 16), error_inf=0.0
    ).compute()  # fmt: skip
    for row in found["rows"]:
        one = expected.sel(subset_size=row["subset_size"])
        assert row["error"] == pytest.approx(float(one.error.mean()))
        assert row["error_refit"] == pytest.approx(float(one.error_refit.mean()))
        assert row["error_low"] <= row["error"] <= row["error_high"]
        assert row["gamma"] == pytest.approx(one.gamma.item())


def test_the_command_takes_the_ensemble_as_the_function_does(
    noisy: actstore.Store, cli: Callable[..., Answer]
) -> None:
    answer = cli(
        "query", "error", noisy.path, "--width", 16, "--subsets", 9, "--error-inf", "ensemble",
        "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.json["parameters"]["error_inf"] == "ensemble"
    found = noisy.sel(width=16, epoch=-1).error(subsets=9, error_inf="ensemble").compute()
    told = {(row["run"], row["split"]): row["error_inf"] for row in answer.json["rows"]}
    for (run, split), value in told.items():
        expected = found.error_inf.sel(run=run, split=split).item()
        assert value == (pytest.approx(expected) if np.isfinite(expected) else None)
    assert any(told.values())


def test_the_table_has_a_row_a_split_and_size(path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("query", "error", path, "--width", WIDTH, "--seed", 0, "--subsets", 2)
    assert answer.code == 0, answer.err
    for split in SPLITS:
        rows = [line for line in answer.out.splitlines() if f" {split} " in f" {line} "]
        assert len(rows) == 5 + 1  # of the sizes, and of their law
    one = actstore.open(path).sel(width=WIDTH, seed=0, epoch=-1).error(subsets=2, splits="train")
    law = answer.out.partition("size^-gamma")[2]
    assert f"{one.gamma.values.item():.4g} (" in law
    assert law.count("…") >= 2
    few = cli("query", "error", path, "--width", WIDTH, "--subset-size", "2,4", "--subsets", 2)
    assert "these sizes do not tell gamma" in few.out


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--splits", "valid"), 1, "no split 'valid'"),
        (("--subset-size", "99"), 1, "subset size 99 was asked for"),
        (("--subset-size", "few"), 2, "'few' is not a number"),
        (("--error-inf", "3"), 1, "error_inf=3 was asked for"),
        (("--error-inf", "best"), 1, "error_inf='best' was asked for"),
        (("--width", "12", "--error-inf", "ensemble"), 1, "width 12, the widest of"),
        (("--window", "8", "2"), 1, "window (8.0, 2.0) was asked for"),
    ],
)
def test_a_wrong_command_ends_with_one_sentence(
    path: Path, cli: Callable[..., Answer], options: tuple[str, ...], code: int, sentence: str
) -> None:
    answer = cli("query", "error", path, *options)
    assert (answer.code, answer.out) == (code, "")
    assert sentence in answer.err
    assert "Traceback" not in answer.err
