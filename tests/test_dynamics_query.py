"""Along training, clones are counted as at each epoch alone, and events at their first epoch."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import actstore
from actstore import queries, schema
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError
from actstore.storage.writer import RunWriter
from actstore.testing import planted_clones, planted_dataset, raise_if_computes

from .command_line import Answer
from .planted import SAMPLES as SAMPLES_OF_PLANTED
from .recordings import attributes

WIDTH, CLONE_SIZE, SAMPLES = 16, 4, 150
EPOCHS = (0, 2, 5, 9, 14)
THRESHOLD = 0.9
SIZES = [2, 4, 8]
NAN = np.nan
#: by seed: train error at each epoch, and the epoch from which on the layer holds clones
RUNS: dict[int, tuple[Sequence[float], int]] = {
    0: ((0.7, 0.2, 0.0, 0.0, 0.0), 9),  # interpolation at 5, clones at 9
    1: ((0.7, 0.3, 0.2, 0.1, 0.0), 5),  # clones come first
    2: ((0.7, 0.3, 0.2, 0.1, 0.05), 5),  # never interpolates
    3: ((0.7, 0.0, 0.0, 0.1, 0.0), 99),  # never has clones, and interpolates for a while
    4: ((0.7, NAN, NAN, 0.0, NAN), 14),  # not logged at every epoch
}


def layer(seed: int, epoch: int) -> Any:
    """Return planted clones from the run's epoch on, private noise before."""
    if epoch < RUNS[seed][1]:
        return np.random.default_rng([seed, epoch]).normal(size=(SAMPLES, WIDTH)).astype("float32")
    x, _ = planted_clones(
        samples=SAMPLES, clones=WIDTH // CLONE_SIZE, clone_size=CLONE_SIZE, noise=0.1, seed=seed
    )
    return x


def record_run(store: Path, seed: int, *, metrics: bool = True) -> None:
    writer = RunWriter.create(
        store, f"seed={seed}", slots=len(EPOCHS), attributes=attributes(width=WIDTH, seed=seed)
    )
    for epoch, error in zip(EPOCHS, RUNS[seed][0], strict=True):
        logged = {"train_loss": 1 / (1 + epoch)} | (
            {} if np.isnan(error) else {"train_error": error}
        )
        writer.write(
            epoch,
            {"test": {schema.DEFAULT_LAYER: layer(seed, epoch)}},
            labels={"test": np.arange(SAMPLES) % 3},
            metrics=logged if metrics else None,
        )
    writer.close(complete=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("dynamics") / "dynamics.zarr"
    for seed in RUNS:
        record_run(store, seed)
    return store


@pytest.fixture(scope="module")
def store(path: Path) -> actstore.Store:
    return actstore.open(path)


@pytest.fixture(scope="module")
def answer(store: actstore.Store) -> xr.Dataset:
    options: dict[str, Any] = {"threshold": [THRESHOLD, 1.0], "subset_size": SIZES, "subsets": 5}
    return store.dynamics(**options).compute().swap_dims(run="seed")


# events


@pytest.mark.parametrize(
    ("seed", "interpolation", "clones"),
    [(0, 5, 9), (1, 14, 5), (2, NAN, 5), (3, 2, NAN), (4, 9, 14)],
)
def test_events_are_the_first_recorded_epochs_of_the_planted_ones(
    answer: xr.Dataset, seed: int, interpolation: float, clones: float
) -> None:
    one = answer.sel(seed=seed)
    at = one.sel(threshold=THRESHOLD)
    np.testing.assert_equal(float(one.interpolation_epoch), interpolation)
    np.testing.assert_equal(float(at.clone_epoch), clones)
    np.testing.assert_equal(float(at.lag), clones - interpolation)
    # no subset explains everything beside noise
    assert bool(one.clone_epoch.sel(threshold=1.0).isnull())


def test_an_event_is_looked_for_among_the_selected_epochs_only(store: actstore.Store) -> None:
    found = store.sel(seed=0, epoch=[0, 9, 14]).dynamics(threshold=THRESHOLD, subsets=5).compute()
    assert (found.interpolation_epoch.item(), found.clone_epoch.item(), found.lag.item()) == (
        9,
        9,
        0,
    )


def test_dims_are_those_that_are_documented(answer: xr.Dataset) -> None:
    whole = answer.swap_dims(seed="run")
    dims = {
        ("run", "epoch", "threshold"): ["critical_size", "width_ratio", "n_clones", "has_clones"],
        ("run", "epoch"): ["train_error", "train_loss", "participation_ratio", "effective_rank",
                           "alive"],
        ("run",): ["interpolation_epoch"],
        ("run", "threshold"): ["clone_epoch", "lag"],
        ("run", "epoch", "subset", "subset_size"): ["r2", "r2_heldout",
                                                    "residual_correlation_heldout"],
    }  # fmt: skip
    for expected, names in dims.items():
        for name in names:
            assert whole[name].dims == expected, name
            assert whole[name].attrs["long_name"]
            assert whole[name].attrs["units"]
    assert whole.lag.attrs["units"] == "epochs"


# the same as each question alone


def test_clones_at_every_epoch_are_those_of_the_question_about_clones(
    store: actstore.Store, answer: xr.Dataset
) -> None:
    alone = store.clones(threshold=[THRESHOLD, 1.0], subsets=5).compute().swap_dims(run="seed")
    for name in ("critical_size", "critical_size_low", "critical_size_high", "n_clones",
                 "has_clones", "width_ratio", "alive"):  # fmt: skip
        np.testing.assert_array_equal(answer[name], alone[name], err_msg=name)


def test_curves_and_ranks_are_those_of_their_own_questions(
    store: actstore.Store, answer: xr.Dataset
) -> None:
    curves = store.reconstruction(subset_size=SIZES, subsets=5).compute()
    noise = store.noise(subset_size=SIZES, subsets=5, factors=None).compute()
    ranks = store.spectrum().compute()
    for name, alone in [
        ("r2", curves), ("r2_heldout", curves), ("residual_correlation_heldout", noise),
        ("participation_ratio", ranks), ("effective_rank", ranks),
    ]:  # fmt: skip
        np.testing.assert_allclose(answer[name], alone[name], rtol=1e-12, err_msg=name)


def test_metrics_stand_beside_the_clones_as_they_were_logged(answer: xr.Dataset) -> None:
    for seed, (errors, _) in RUNS.items():
        one = answer.sel(seed=seed)
        np.testing.assert_array_equal(one.train_error, errors)
        np.testing.assert_allclose(one.train_loss, [1 / (1 + e) for e in EPOCHS])


@pytest.mark.parametrize("factors", ["gap", ["bic", 3]])
def test_errors_and_nulls_are_those_of_their_own_questions(
    planted: actstore.Store, factors: Any
) -> None:
    chosen = planted.sel(width=[8, 16], seed=0, weight_decay=0.005)
    drawn: dict[str, Any] = {"subset_size": [2, 6], "subsets": 4}
    null = {"factors": factors, "repeats": 4}
    followed = chosen.dynamics(**drawn, splits=("train", "test"), **null).compute()
    errors = chosen.error(**drawn).compute()
    noise = chosen.noise(**drawn, **null).compute()
    for name in ("error", "loss", "error_rescaled", "loss_rescaled"):
        xr.testing.assert_identical(followed[name], errors[name])
    for name in ("residual_correlation_heldout", "residual_correlation", "sampling_floor", "null",
                 "null_low", "null_high", "n_factors", "factors_converged", "excess",
                 "consistent", "verdict"):  # fmt: skip
        xr.testing.assert_identical(followed[name], noise[name])
    assert followed.attrs["splits"] == ["train", "test"]


def test_what_is_costly_is_followed_on_request_only(planted: actstore.Store) -> None:
    chosen = planted.sel(width=16, seed=0, weight_decay=0.005)
    plain = chosen.dynamics(subsets=3)
    assert not {"subset_size", "split", "subset"} & set(plain.dims)
    assert {"r2", "residual_correlation_heldout", "null"}.isdisjoint(plain.data_vars)
    sized = chosen.dynamics(subsets=3, subset_size=4)
    assert {"error", "null", "excess"}.isdisjoint(sized.data_vars)
    # sizes are the width and its halves, as in the questions themselves
    for followed in (chosen.dynamics(subsets=3, splits="test"),
                     chosen.dynamics(subsets=3, factors=2)):  # fmt: skip
        assert followed.subset_size.values.tolist() == [1, 2, 4, 8, 16]
    plans = [
        chosen.explain("dynamics", **options)
        for options in ({}, {"subset_size": 4}, {"subset_size": 4, "splits": "test"},
                        {"subset_size": 4, "factors": "gap"})
    ]  # fmt: skip
    assert plans[0].flops < plans[1].flops < min(plans[2].flops, plans[3].flops)
    read = 3 * SAMPLES_OF_PLANTED["test"] * 16 * 4
    assert plans[2].bytes_to_read - plans[1].bytes_to_read == read


def test_errors_are_not_followed_without_a_readout(store: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match="was recorded without its readout"):
        store.dynamics(splits="test")
    with pytest.raises(InvalidDataError, match="a dataset, which has no readout"):
        queries.dynamics(planted_dataset(), splits="test")


# what may be missing


def test_a_run_without_metrics_has_clones_and_no_interpolation(tmp_path: Path) -> None:
    record_run(tmp_path / "bare.zarr", 0, metrics=False)
    found = actstore.open(tmp_path / "bare.zarr").dynamics(threshold=THRESHOLD, subsets=5).compute()
    assert "train_error" not in found
    assert found.clone_epoch.item() == 9
    assert bool(found.interpolation_epoch.isnull().all())
    assert bool(found.lag.isnull().all())


def test_runs_of_different_epochs_stand_side_by_side(store: actstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "ragged.zarr"
    record_run(path, 0)
    writer = RunWriter.create(path, "short", slots=1, attributes=attributes(width=8, seed=9))
    writer.write(
        3, {"test": {schema.DEFAULT_LAYER: layer(0, 0)[:, :8]}},
        labels={"test": np.arange(SAMPLES) % 3}, metrics={"train_error": 0.0},
    )  # fmt: skip
    writer.close(complete=True)
    found = actstore.open(path).dynamics(threshold=THRESHOLD, subsets=5).compute()
    assert found.epoch.values.tolist() == sorted({*EPOCHS, 3})
    short, long = (found.isel(run=(found.width == w).values).isel(run=0) for w in (8, WIDTH))
    assert short.epoch[short.critical_size.notnull()[:, 0]].values.tolist() == [3]
    assert short.epoch[short.train_error.notnull()].values.tolist() == [3]
    assert (float(short.interpolation_epoch), float(long.interpolation_epoch)) == (3, 5)
    assert float(long.clone_epoch[0]) == 9
    assert bool(short.clone_epoch.isnull().all())


def test_a_dataset_has_dynamics_without_metrics() -> None:
    found = queries.dynamics(planted_dataset(), threshold=0.8, subset_size=4, subsets=3).compute()
    assert found.clone_epoch.item() == 1
    assert bool(found.interpolation_epoch.isnull().all())


# laziness and bad input


def test_building_the_question_computes_nothing(store: actstore.Store) -> None:
    with raise_if_computes():
        built = store.dynamics(subset_size=SIZES)
        queries.dynamics(planted_dataset())
    known = {"train_error", "train_loss", "interpolation_epoch"}
    assert {k for k, v in built.data_vars.items() if v.chunks is None} == known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.2}, "threshold 1.2 was asked for"),
        ({"criterion": "best"}, "criterion 'best' was asked for"),
        ({"subset_size": 17}, "subset size 17 was asked for"),
        ({"subsets": 0}, "subsets=0 was asked for"),
        ({"factors": "best"}, "factors='best' was asked for"),
        ({"factors": 2, "repeats": 0}, "repeats=0 was asked for"),
        ({"splits": []}, "no split was given"),
    ],
)
def test_a_parameter_out_of_range_is_refused(
    store: actstore.Store, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        store.dynamics(**options)


def test_a_split_that_is_not_there_names_those_that_are(store: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match=r"no split 'train' in run .*; it holds test"):
        store.dynamics(split="train")


# the command


def test_the_command_takes_all_epochs_and_gives_a_row_each(
    path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli(
        "query", "dynamics", path, "--seed", 0, "--threshold", THRESHOLD, "--subsets", 5,
        "--format", "csv",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [int(row["epoch"]) for row in rows] == list(EPOCHS)
    assert [row["has_clones"] for row in rows] == ["False"] * 3 + ["True"] * 2
    assert [float(row["train_error"]) for row in rows] == list(RUNS[0][0])
    assert {row["lag"] for row in rows} == {"4.0"}
    table = cli("query", "dynamics", path, "--seed", 0, "--subset-size", 4, "--subsets", 5)
    assert table.code == 0
    assert "criterion: held-out" in table.out
    nulls = cli("query", "dynamics", path, "--seed", 0, "--subset-size", 4, "--subsets", 5,
                "--factors", "3", "--repeats", 4, "--format", "csv")  # fmt: skip
    assert nulls.code == 0, nulls.err
    assert all(float(row["null"]) > 0 for row in csv.DictReader(io.StringIO(nulls.out)))


def test_a_wrong_threshold_ends_with_one_sentence(path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("query", "dynamics", path, "--threshold", 95)
    assert (answer.code, answer.out) == (1, "")
    assert "threshold 95.0 was asked for" in answer.err
