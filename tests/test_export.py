"""What is exported is what was recorded, and can be imported again."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr

import actstore
from actstore.errors import (
    InvalidParameterError,
    MissingExtraError,
    NotInStoreError,
    RunExistsError,
    StoreCorruptError,
)
from actstore.storage import exporting
from actstore.storage.exporting import export

from .recordings import every_byte, one_epoch, record

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "s"
    record(path, "a", weight_decay=0.1)
    record(path, "b", seed=1, weight_decay=0.2)
    return path


def x(epoch: int, *, seed: int = 0, split: str = "test") -> Any:
    return one_epoch(epoch, seed=seed)["activations"][split]["last_hidden"]


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_one_run_is_a_dataset_that_explains_itself(
    store: Path, tmp_path: Path, suffix: str, cli: Call
) -> None:
    out = tmp_path / f"one{suffix}"
    answer = cli("export", store, "-o", out, "--seed", 1, "--epoch", "5:", "--split", "train")
    assert (answer.code, answer.out) == (0, ""), answer.err
    engine: Any = {} if suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    with xr.open_dataset(out, **engine) as data:
        assert data.epoch.values.tolist() == [5, 10]
        assert np.array_equal(data.activations, [x(e, seed=1, split="train") for e in (5, 10)])
        assert np.array_equal(data.label, np.arange(40) % 10)
        assert np.array_equal(data.sample, np.arange(40)[::-1])
        weight, bias = one_epoch(10, seed=1)["readout"]
        assert np.array_equal(data.weight[-1], weight)
        assert np.array_equal(data.bias[-1], bias)
        assert float(data.train_error[-1]) == one_epoch(10, seed=1)["metrics"]["train_error"]
        assert (data.attrs["seed"], data.attrs["weight_decay"]) == (1, 0.2)
        assert data.activations.attrs["long_name"] == "output of the recorded layer"
    if suffix == ".zarr":
        plain: Any = zarr.open_group(out, mode="r")["activations"]
        assert plain.shards is None


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_several_runs_are_a_tree(store: Path, tmp_path: Path, suffix: str) -> None:
    out = export(actstore.open(store).sel(epoch=-1), tmp_path / f"all{suffix}")
    engine: Any = {} if suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    with xr.open_datatree(out, **engine) as tree:
        for seed, run in enumerate("ab"):
            assert np.array_equal(tree[run]["activations"], [x(10, seed=seed)])


def test_a_run_of_one_epoch_is_a_plain_matrix_in_npy(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BLOCK_BYTES", 1)
    selected = actstore.open(store).sel(run="a")
    out = export(selected.sel(epoch=-1), tmp_path / "x.npy")
    assert np.array_equal(np.load(out), x(10))
    out = export(selected, tmp_path / "x.npy", overwrite=True)
    assert np.array_equal(np.load(out), [x(e) for e in (0, 5, 10)])
    for variable, expected in (
        ("label", np.arange(60) % 10),
        ("sample", np.arange(60)[::-1]),
        ("weight", [one_epoch(e)["readout"][0] for e in (0, 5, 10)]),
        ("bias", [one_epoch(e)["readout"][1] for e in (0, 5, 10)]),
    ):
        out = export(selected, tmp_path / f"{variable}.npy", variable=variable)
        assert np.array_equal(np.load(out), expected)


def test_an_epoch_is_a_table_of_samples_in_parquet(store: Path, tmp_path: Path) -> None:
    out = export(actstore.open(store).sel(run="a", epoch=5), tmp_path / "x.parquet")
    table = pq.read_table(out)
    assert table.column_names == ["sample", "label", *(f"neuron_{n}" for n in range(8))]
    frame = table.to_pandas()
    assert np.array_equal(frame.iloc[:, 2:], x(5))
    assert np.array_equal(frame["label"], np.arange(60) % 10)
    assert np.array_equal(frame["sample"], np.arange(60)[::-1])
    assert b'"seed": 0' in table.schema.metadata[b"actstore"]


def test_what_is_exported_is_imported_again(store: Path, tmp_path: Path, cli: Call) -> None:
    out = tmp_path / "x.nc"
    assert cli("export", store, "-o", out, "--run", "a", "--epoch", "all").code == 0
    again = tmp_path / "again"
    answer = cli(
        "import", again, out, "--labels", out, "--readout-weight", out, "--readout-bias", out,
        "--epoch", "0,5,10",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    before, after = actstore.open(store)["a"], actstore.open(again).only()
    assert np.array_equal(before.dataset().activations, after.dataset().activations)
    assert np.array_equal(before.labels("test"), after.labels("test"))
    assert before.readout().equals(after.readout())


def test_what_a_format_does_not_take_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = actstore.open(store)
    one = opened.sel(run="a", epoch=-1)
    with pytest.raises(NotInStoreError, match=r"2 runs .* a \.npy file takes one"):
        export(opened, tmp_path / "x.npy")
    with pytest.raises(NotInStoreError, match=r"3 epochs .* among 0, 5, 10"):
        export(opened.sel(run="a"), tmp_path / "x.parquet")
    with pytest.raises(InvalidParameterError, match=r"ends in \.zarr, \.nc, \.npy, \.parquet"):
        export(one, tmp_path / "x.csv")
    with pytest.raises(InvalidParameterError, match=r"only \.npy files take one"):
        export(one, tmp_path / "x.nc", variable="label")
    with pytest.raises(InvalidParameterError, match="there is no folder"):
        export(one, tmp_path / "no" / "x.npy")
    with pytest.raises(NotInStoreError, match="no split 'valid'"):
        export(one, tmp_path / "x.npy", split="valid")
    for name, package in (("x.parquet", "pyarrow"), ("x.nc", "h5netcdf")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=package):
                export(one, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_on_request_and_a_store_never(
    store: Path, tmp_path: Path
) -> None:
    one = actstore.open(store).sel(run="a", epoch=-1)
    out = export(one, tmp_path / "x.zarr")
    with pytest.raises(RunExistsError, match="exists"):
        export(one, out)
    before = every_byte(out)
    assert every_byte(export(one, out, overwrite=True)) == before
    other = record(tmp_path / "other.zarr")
    with pytest.raises(RunExistsError, match="is not replaced"):
        export(one, other, overwrite=True)
    assert actstore.open(other).only().epochs.tolist() == [0, 5, 10]


def test_a_damaged_epoch_is_not_exported(tmp_path: Path) -> None:
    damaged = record(tmp_path / "s")
    for chunk in (damaged / "run/test/last_hidden/activations/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:-9])
    one = actstore.open(damaged).sel(epoch=-1)
    for suffix in (".npy", ".nc", ".zarr", ".parquet"):
        with pytest.raises(StoreCorruptError):
            export(one, tmp_path / f"x{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
