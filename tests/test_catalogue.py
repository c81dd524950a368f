"""The table of runs, and choosing among them."""

from pathlib import Path

import numpy as np
import pytest
import zarr

import actstore
from actstore import schema
from actstore.errors import InvalidParameterError, NotInStoreError, StoreCorruptError
from actstore.storage.location import open_or_create_root
from actstore.storage.writer import RunWriter

from .recordings import one_epoch, record


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("catalogue") / "runs.zarr"
    for width, seed, decay in ((8, 0, 0.0), (8, 1, 0.0), (16, 0, 0.0), (8, 0, 5e-3)):
        record(
            store,
            f"w{width}-s{seed}-d{decay}",
            epochs=(0, 5, 10),
            layers={"last_hidden": width},
            splits={"test": 40},
            seed=seed,
            weight_decay=decay,
            hidden=[32, 32] if decay else [64],
        )
    return store


@pytest.fixture
def store(path: Path) -> actstore.Store:
    return actstore.open(path)


def names(store: actstore.Store) -> list[str]:
    return list(store)


def test_the_table_has_a_row_a_run_with_its_settings_and_last_metrics(
    store: actstore.Store,
) -> None:
    table = store.runs
    assert table.index.name == "run"
    assert len(table) == 4
    row = table.loc["w16-s0-d0.0"]
    assert (row.width, row.seed, row.weight_decay, row.epochs, row.last_epoch) == (16, 0, 0, 3, 10)
    assert row.complete
    last = one_epoch(10, layers={"last_hidden": 16}, splits={"test": 40})
    assert row.train_error == last["metrics"]["train_error"]


def test_runs_are_in_the_order_of_hyper_parameters_width_and_seed(store: actstore.Store) -> None:
    assert names(store) == ["w8-s0-d0.005", "w8-s0-d0.0", "w8-s1-d0.0", "w16-s0-d0.0"]


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({"width": 8}, 3),
        ({"width": [8, 16]}, 4),
        ({"width": np.array([8, 16])}, 4),
        ({"width": np.int64(16)}, 1),
        ({"width": range(8, 9)}, 3),
        ({"seed": 1}, 1),
        ({"width": 8, "seed": 0}, 2),
        ({"weight_decay": 0.005}, 1),
        ({"weight_decay": 0}, 3),
        ({"hidden": [64]}, 3),
        ({"hidden": [[64], [32, 32]]}, 4),
        ({"run": "w8-s1-d0.0"}, 1),
        ({"run": ["w8-s1-d0.0", "w16-s0-d0.0"]}, 2),
        ({}, 4),
    ],
)
def test_a_selection_keeps_the_runs_that_match(
    store: actstore.Store, selection: dict[str, object], count: int
) -> None:
    chosen = store.sel(**selection)  # type: ignore[arg-type]
    assert isinstance(chosen, actstore.Store)
    assert len(chosen) == count
    assert len(store) == 4


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"width": 96}, "no run of width 96 in .*; it holds width 8, 16"),
        ({"width": [8, 96]}, "no run of width 96 "),
        ({"seed": 7}, "no run of seed 7 in .*; it holds seed 0, 1"),
        ({"width": 16, "seed": 1}, "no run of seed 1 in .* with width 16; it holds seed 0"),
        ({"weight_decay": 0.1}, "it holds weight_decay 0.0, 0.005"),
        ({"lr": 0.1}, "its runs have no lr, but width, seed, weight_decay, hidden"),
        ({"run": "x"}, "no run of run x .*; it holds run w16-s0-d0.0, w8-s0-d0.0, "),
        ({"epoch": 3}, "no epoch 3 in run .*; it holds 0, 5, 10"),
        ({"epoch": [0, 7]}, "no epoch 7"),
        ({"epoch": -4}, "no epoch -4"),
    ],
)
def test_an_empty_selection_names_what_the_store_holds(
    store: actstore.Store, selection: dict[str, object], words: str
) -> None:
    with pytest.raises(NotInStoreError, match=words):
        store.sel(**selection)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (5, [5]),
        (-1, [10]),
        (-3, [0]),
        ([0, 10], [0, 10]),
        ([0, -1], [0, 10]),
        (slice(1, 10), [5, 10]),
        (slice(None, 5), [0, 5]),
        (slice(6, None), [10]),
        (np.array([5]), [5]),
        (np.int64(-1), [10]),
        (None, [0, 5, 10]),
    ],
)
def test_epochs_are_chosen_by_number_by_place_from_the_end_or_by_range(
    store: actstore.Store, epoch: object, expected: list[int]
) -> None:
    chosen = store.sel(width=16, epoch=epoch)  # type: ignore[arg-type]
    assert chosen.only().epochs.tolist() == expected
    assert chosen.dataset().epoch.values.tolist() == expected
    x = chosen.dataset().activations.isel(epoch=-1).values
    shape = {"layers": {"last_hidden": 16}, "splits": {"test": 40}}
    known = one_epoch(expected[-1], **shape)  # type: ignore[arg-type]
    assert np.array_equal(x, known["activations"]["test"]["last_hidden"])


def test_a_range_that_holds_no_epoch_is_an_error(store: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match=r"no epoch from 6 to 9 .*; it holds 0, 5, 10"):
        store.sel(width=16, epoch=slice(6, 9))


def test_a_slice_with_a_step_is_refused(store: actstore.Store) -> None:
    with pytest.raises(InvalidParameterError, match="takes no step"):
        store.sel(epoch=slice(0, 10, 5))


def test_a_selection_narrows_the_one_before_it(store: actstore.Store) -> None:
    narrowed = store.sel(width=16, epoch=[0, 5]).sel(epoch=-1)
    assert narrowed.only().epochs.tolist() == [5]
    with pytest.raises(NotInStoreError, match=r"no epoch 10 in run .*; it holds 0, 5"):
        store.sel(width=16, epoch=[0, 5]).sel(epoch=10)


def test_only_and_dataset_ask_for_one_run(store: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match=r"4 runs of .* are selected, one is needed"):
        store.dataset()


def test_a_store_is_a_mapping_of_names_to_runs(store: actstore.Store) -> None:
    assert "w8-s1-d0.0" in store
    assert "x" not in store
    assert store["w8-s1-d0.0"].seed == 1
    assert store["w8-s1-d0.0"].coords() == {
        "width": 8,
        "seed": 1,
        "weight_decay": 0.0,
        "hidden": [64],
    }


def test_a_store_without_a_run_has_an_empty_table(tmp_path: Path) -> None:
    open_or_create_root(tmp_path / "s")
    store = actstore.open(tmp_path / "s")
    assert len(store.runs) == 0
    with pytest.raises(NotInStoreError, match="holds none"):
        store["x"]
    with pytest.raises(NotInStoreError, match="0 runs"):
        store.only()


def test_a_run_before_its_first_epoch_shows_nothing(tmp_path: Path) -> None:
    record(tmp_path / "s", epochs=(), slots=3, complete=False)
    store = actstore.open(tmp_path / "s")
    assert store.only().splits == ()
    assert store.runs.loc["run"].last_epoch == -1
    assert not store.runs.loc["run"].complete
    assert list(store.tree()["run"].children) == []
    with pytest.raises(NotInStoreError, match="it holds none"):
        store.dataset()


def test_a_run_that_has_only_begun_is_left_out_when_an_epoch_is_asked_for(tmp_path: Path) -> None:
    record(tmp_path / "s", "begun", epochs=(), slots=3, complete=False, seed=1)
    with pytest.raises(NotInStoreError, match="no epoch -1 in run 'begun'; it holds none"):
        actstore.open(tmp_path / "s").sel(epoch=-1)
    record(tmp_path / "s", "done")
    assert list(actstore.open(tmp_path / "s").sel(epoch=-1)) == ["done"]


def test_a_damaged_marker_is_an_error_and_not_an_empty_run(tmp_path: Path) -> None:
    record(tmp_path / "s")
    marker = tmp_path / "s/run/epoch/c/0"
    data = bytearray(marker.read_bytes())
    data[3] ^= 1
    marker.write_bytes(data)
    with pytest.raises(StoreCorruptError, match=r"'run/epoch'.*cannot be read"):
        actstore.open(tmp_path / "s").runs  # noqa: B018


def test_a_group_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    record(tmp_path / "s")
    zarr.open_group(tmp_path / "s", mode="r+").create_group("notes", attributes={"by": "me"})
    assert list(actstore.open(tmp_path / "s")) == ["run"]


def test_a_metric_does_not_hide_the_setting_of_its_name(tmp_path: Path) -> None:
    attributes = schema.run_attributes(
        width=4, seed=0, hyper_parameters={"learning_rate": 0.1}, layers={}
    )
    writer = RunWriter.create(tmp_path / "s.zarr", "run", slots=1, attributes=attributes)
    x = np.random.default_rng(0).normal(size=(9, 4))
    writer.write(
        1, {"test": {"last_hidden": x}}, labels={"test": [0] * 9}, metrics={"learning_rate": 0.01}
    )
    writer.close(complete=True)
    row = actstore.open(tmp_path / "s.zarr").runs.loc["run"]
    assert (row["learning_rate"], row["last_learning_rate"]) == (0.1, 0.01)
