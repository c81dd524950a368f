"""What lies on the disk, and that xarray and actstore read it alike."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import actstore
from actstore import schema
from actstore.errors import (
    ActstoreError,
    NotInStoreError,
    StoreCorruptError,
    StoreFormatError,
    StoreNotFoundError,
)
from actstore.storage.layout import is_sparse
from actstore.storage.writer import RunWriter
from actstore.testing import raise_if_computes

from .recordings import every_byte, one_epoch, record


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded") / "runs.zarr")


@pytest.fixture
def store(tmp_path: Path, recorded: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "runs.zarr"))


def document(store: Path, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / path / "zarr.json").read_text())
    return found


# ---------------------------------------------------------------- layout


def test_a_run_has_exactly_the_groups_and_arrays_of_format_1(store: Path) -> None:
    nodes = {
        str(p.parent.relative_to(store)): json.loads(p.read_text())["node_type"]
        for p in store.rglob("zarr.json")
    }
    assert nodes == {
        ".": "group",
        "run": "group",
        "run/epoch": "array",
        "run/train_error": "array",
        "run/test_loss": "array",
        "run/readout": "group",
        "run/readout/weight": "array",
        "run/readout/bias": "array",
        **{f"run/{split}": "group" for split in ("train", "test")},
        **{f"run/{split}/label": "array" for split in ("train", "test")},
        **{f"run/{split}/sample": "array" for split in ("train", "test")},
        **{f"run/{split}/last_hidden": "group" for split in ("train", "test")},
        **{f"run/{split}/last_hidden/activations": "array" for split in ("train", "test")},
    }


@pytest.mark.parametrize(
    ("path", "dims", "dtype", "fill"),
    [
        ("epoch", ["epoch"], "int64", -1),
        ("train_error", ["epoch"], "float64", "NaN"),
        ("readout/weight", ["epoch", "output", "neuron"], "float64", "NaN"),
        ("readout/bias", ["epoch", "output"], "float64", "NaN"),
        ("test/label", ["sample"], "int64", -1),
        ("test/sample", ["sample"], "int64", -1),
        ("test/last_hidden/activations", ["epoch", "sample", "neuron"], "float32", "NaN"),
    ],
)
def test_every_array_names_its_dims_and_cannot_confuse_absence_with_zero(
    store: Path, path: str, dims: list[str], dtype: str, fill: object
) -> None:
    found = document(store, f"run/{path}")
    assert (found["dimension_names"], found["data_type"], found["fill_value"]) == (
        dims,
        dtype,
        fill,
    )
    assert {"long_name", "units"} <= set(found["attributes"])


def test_a_shard_is_one_epoch_of_one_split_with_a_checksum_last(tmp_path: Path) -> None:
    record(tmp_path / "s", epochs=[0], splits={"test": 5000}, layers={"last_hidden": 300})
    found = document(tmp_path / "s", "run/test/last_hidden/activations")
    assert found["chunk_grid"]["configuration"]["chunk_shape"] == [1, 5001, 300]
    (sharding,) = found["codecs"]
    inner = sharding["configuration"]
    assert inner["chunk_shape"] == [1, 1667, 150]
    assert [codec["name"] for codec in inner["codecs"]] == ["bytes", "crc32c"]
    assert [codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"]
    files = (tmp_path / "s/run/test/last_hidden/activations/c").rglob("*")
    assert [p.name for p in files if p.is_file()] == ["0"]


def test_an_epoch_that_fits_one_chunk_is_stored_without_a_shard(store: Path) -> None:
    found = document(store, "run/test/last_hidden/activations")
    assert found["chunk_grid"]["configuration"]["chunk_shape"] == [1, 60, 8]
    assert [codec["name"] for codec in found["codecs"]] == ["bytes", "crc32c"]


def test_activations_after_a_relu_are_compressed_by_zstd(tmp_path: Path) -> None:
    writer = RunWriter.create(
        tmp_path / "s", "run", slots=1, attributes=schema.run_attributes(width=8, seed=0)
    )
    epoch = one_epoch(0)
    for layers in epoch["activations"].values():
        layers["last_hidden"] = np.maximum(layers["last_hidden"], 0)
    writer.write(0, **epoch)
    found = document(tmp_path / "s", "run/test/last_hidden/activations")
    assert [codec["name"] for codec in found["codecs"]] == ["bytes", "zstd", "crc32c"]


def test_a_layer_is_sparse_when_three_in_ten_values_are_zero() -> None:
    x = np.ones((1000, 10), "float32")
    x[:299] = 0
    assert not is_sparse(x)
    x[:300] = 0
    assert is_sparse(x)


def test_slots_are_preallocated_and_given_back_at_the_end(tmp_path: Path) -> None:
    for complete, length in ((False, 7), (True, 3)):
        path = record(tmp_path / f"s{complete}", slots=7, complete=complete)
        root = zarr.open_group(path, mode="r")
        arrays = [a for _, a in root.members(None) if isinstance(a, zarr.Array)]
        lengths = [a.shape[0] for a in arrays if a.metadata.dimension_names[0] == "epoch"]
        assert lengths == [length] * 7
        xr.open_datatree(path, engine="zarr", consolidated=False)  # lengths agree in each group


def test_no_host_name_and_no_path_is_stored(recorded: Path) -> None:
    everything = b"".join(every_byte(recorded).values())
    assert socket.gethostname().encode() not in everything
    assert str(recorded.parent).encode() not in everything


# ---------------------------------------------------------------- reading


def test_xarray_alone_reads_what_was_recorded(store: Path) -> None:
    for slot, epoch in enumerate((0, 5, 10)):
        expected = one_epoch(epoch)
        for split in ("train", "test"):
            leaf = xr.open_zarr(store, group=f"run/{split}/last_hidden", consolidated=False)
            x = leaf.activations.isel(epoch=slot).values
            assert np.array_equal(x, expected["activations"][split]["last_hidden"])
            group = xr.open_zarr(store, group=f"run/{split}", consolidated=False)
            assert np.array_equal(group.label, expected["labels"][split])
            assert np.array_equal(group.sample, expected["samples"][split])
        run = xr.open_zarr(store, group="run", consolidated=False)
        assert run.epoch.dtype == "int64"
        assert run.epoch.values[slot] == epoch
        assert float(run.train_error[slot]) == expected["metrics"]["train_error"]
        readout = xr.open_zarr(store, group="run/readout", consolidated=False)
        assert np.array_equal(readout.weight[slot], expected["readout"][0])
        assert np.array_equal(readout.bias[slot], expected["readout"][1])


def test_xarray_opens_the_whole_store_as_a_tree(store: Path) -> None:
    tree = xr.open_datatree(store, engine="zarr", consolidated=False)
    assert tree["run/test/last_hidden"].activations.shape == (3, 60, 8)
    assert tree["run"].attrs["width"] == 8


def test_an_epoch_is_one_dask_chunk_and_nothing_is_read_on_opening(store: Path) -> None:
    with raise_if_computes():
        data = actstore.open(store).dataset("test")
        tree = actstore.open(store).tree()
    assert data.activations.chunks == ((1, 1, 1), (60,), (8,))
    assert data.activations.dims == ("epoch", "sample", "neuron")
    assert tree["run/test/last_hidden"].activations.chunks == ((1, 1, 1), (60,), (8,))


def test_a_dataset_carries_labels_metrics_and_where_it_came_from(store: Path) -> None:
    data = actstore.open(store).dataset("train")
    expected = one_epoch(5)
    chosen = data.sel(epoch=5)
    assert np.array_equal(chosen.activations, expected["activations"]["train"]["last_hidden"])
    assert np.array_equal(chosen.label, expected["labels"]["train"])
    assert float(chosen.train_error) == expected["metrics"]["train_error"]
    assert data.attrs == {
        "run": "run",
        "split": "train",
        "layer": "last_hidden",
        "model": "mlp",
        "dataset": "digits",
        "width": 8,
        "seed": 0,
    }
    assert {"long_name", "units"} == set(data.activations.attrs)


def test_the_tree_holds_the_same_values_as_the_datasets(store: Path) -> None:
    opened = actstore.open(store)
    tree = opened.tree()
    for split in ("train", "test"):
        leaf = tree[f"run/{split}/last_hidden"]
        assert np.array_equal(leaf.activations, opened.dataset(split).activations)
        assert leaf.epoch.values.tolist() == [0, 5, 10]
    assert tree["run/readout"].weight.shape == (3, 10, 8)
    assert float(tree["run"].test_loss[2]) == one_epoch(10)["metrics"]["test_loss"]


def test_readout_is_read_lazily_and_bit_equal(store: Path) -> None:
    with raise_if_computes():
        readout = actstore.open(store).only().readout()
    assert np.array_equal(readout.weight.sel(epoch=10), one_epoch(10)["readout"][0])


def test_several_layers_of_different_widths_lie_side_by_side(tmp_path: Path) -> None:
    layers = {"last_hidden": 8, "block1": 3, "block2": 5}
    record(tmp_path / "s", layers=layers)
    run = actstore.open(tmp_path / "s").only()
    assert run.layers("test") == ("block1", "block2", "last_hidden")
    for layer, width in layers.items():
        found = run.dataset("test", layer).activations
        assert found.shape == (3, 60, width)
        expected = one_epoch(5, layers=layers)["activations"]["test"][layer]
        assert np.array_equal(found.sel(epoch=5), expected)


def test_committed_epochs_of_an_unfinished_run_are_read_and_empty_slots_are_not(
    tmp_path: Path,
) -> None:
    record(tmp_path / "s", slots=7, complete=False)
    data = actstore.open(tmp_path / "s").dataset()
    assert data.epoch.values.tolist() == [0, 5, 10]
    assert not data.activations.isnull().any()


# ---------------------------------------------------------------- damage met on reading


@pytest.mark.parametrize(
    ("lost", "read"),
    [
        ("test/last_hidden/activations/c/1/0/0", lambda s: s.dataset().activations.values),
        ("readout/weight/c/1/0/0", lambda s: s.only().readout().weight.values),
        ("test/label/c/0", lambda s: s.dataset()),
        ("test/sample/c/0", lambda s: s.dataset()),
    ],
)
@pytest.mark.parametrize("how", ["deleted", "flipped", "truncated"])
def test_a_damaged_chunk_is_an_error_and_never_a_number(
    store: Path, lost: str, read: Any, how: str
) -> None:
    path = store / "run" / lost
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "flipped":
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreCorruptError, match="actstore verify"):
        read(actstore.open(store))


def test_the_undamaged_epochs_stay_readable(store: Path) -> None:
    (store / "run/test/last_hidden/activations/c/1/0/0").unlink()
    data = actstore.open(store).sel(epoch=[0, 10]).dataset()
    expected = one_epoch(10)["activations"]["test"]["last_hidden"]
    assert np.array_equal(data.activations.sel(epoch=10), expected)


def test_one_lost_chunk_inside_a_shard_is_noticed(tmp_path: Path) -> None:
    """A shard without one of its chunks, as a foreign writer could leave it."""
    path = record(tmp_path / "s", epochs=[0], splits={"test": 5000}, layers={"last_hidden": 300})
    array = zarr.open_array(path / "run/test/last_hidden/activations", mode="r+")
    array[0, 1667 * 2 :, 150:] = np.nan
    with pytest.raises(StoreCorruptError, match="a chunk is missing"):
        actstore.open(path).dataset().activations.load()


# ---------------------------------------------------------------- bad input


def test_every_wrong_path_says_what_is_there(tmp_path: Path, store: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/data.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    zarr.create_group(tmp_path / "foreign", zarr_format=3)
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="float32")
    zarr.create_group(tmp_path / "v2", zarr_format=2)
    for name, words in {
        "nothing": "no store at .*nothing.*; record one",
        "folder": "a folder without a Zarr group",
        "file": "it is a file",
        "foreign": "did not write",
        "array": "did not write",
        "v2": "Zarr of version 2",
    }.items():
        with pytest.raises(StoreNotFoundError, match=words):
            actstore.open(tmp_path / name)


def test_a_store_of_a_later_format_is_refused_and_names_both_versions(store: Path) -> None:
    root = zarr.open_group(store, mode="r+", zarr_format=3)
    root.attrs["actstore_format"] = schema.FORMAT + 1
    before = every_byte(store)
    with pytest.raises(StoreFormatError, match=r"format 2, and actstore .* reads up to 1"):
        actstore.open(store)
    with pytest.raises(StoreFormatError, match="format 2"):
        record(store, "other")
    assert every_byte(store) == before


@pytest.mark.parametrize("found", ["1", None, 0, 1.5, True])
def test_a_format_that_is_not_a_number_is_refused(store: Path, found: object) -> None:
    zarr.open_group(store, mode="r+", zarr_format=3).attrs["actstore_format"] = found
    with pytest.raises(StoreFormatError, match="expected a number"):
        actstore.open(store)


@pytest.mark.parametrize("content", ["", "{{{", "[1]", '{"zarr_format": 4}'])
@pytest.mark.parametrize("which", ["zarr.json", "run/zarr.json"])
def test_unreadable_metadata_are_one_clear_error(store: Path, which: str, content: str) -> None:
    (store / which).write_text(content)
    with pytest.raises(ActstoreError, match="cannot be read"):
        actstore.open(store)


def test_asking_for_what_is_not_there_names_what_is(store: Path) -> None:
    opened = actstore.open(store)
    before = every_byte(store)
    for ask, words in (
        (lambda: opened["other"], r"no run 'other' in .*; it holds run"),
        (lambda: opened.dataset("valid"), "no split 'valid' in run 'run'; it holds test, train"),
        (lambda: opened.dataset("test", "fc"), "no layer 'fc' in run 'run'; it holds last_hidden"),
        (lambda: opened.sel(epoch=3), "no epoch 3 in run 'run'; it holds 0, 5, 10"),
        (lambda: opened.sel(epoch=-4), "no epoch -4 in run 'run'; it holds 0, 5, 10"),
    ):
        with pytest.raises(NotInStoreError, match=words):
            ask()
    assert every_byte(store) == before


def test_a_run_recorded_without_readout_says_so(tmp_path: Path) -> None:
    writer = RunWriter.create(
        tmp_path / "s", "run", slots=1, attributes=schema.run_attributes(width=8, seed=0)
    )
    epoch = one_epoch(0)
    writer.write(0, **{**epoch, "readout": None})
    writer.close(complete=True)
    run = actstore.open(tmp_path / "s").only()
    assert not run.has_readout
    with pytest.raises(NotInStoreError, match="without its readout"):
        run.readout()


def test_reading_changes_no_byte(store: Path) -> None:
    before = every_byte(store)
    opened = actstore.open(store)
    opened.runs  # noqa: B018
    opened.tree().load()
    repr(opened)
    assert every_byte(store) == before
