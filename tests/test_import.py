"""Activations of other programs go in as they are, without unpickling, and however large."""

import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

import actstore
from actstore.errors import (
    InvalidDataError,
    InvalidParameterError,
    MissingExtraError,
    RunExistsError,
    StoreNotFoundError,
)
from actstore.storage.array_file import read_array
from actstore.storage.importing import import_run
from actstore.storage.verify import verify

from .recordings import every_byte

Call = Callable[..., Any]
EXAMPLE = Path(__file__).parents[1] / "examples" / "import_published.py"

rng = np.random.default_rng(0)
X = rng.normal(size=(50, 6)).astype("f4")
Y = np.arange(50) % 4
WEIGHT, BIAS = rng.normal(size=(4, 6)), rng.normal(size=4)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Write one file of each kind with the same array in it."""
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", features=X, labels=Y)
    torch.save(torch.from_numpy(X), tmp_path / "x.pt")
    torch.save({"net": {"x": torch.from_numpy(X)}, "epoch": 3}, tmp_path / "nested.pth")
    torch.save(torch.from_numpy(X), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"x": X}, tmp_path / "x.safetensors")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["group/x"] = X
    data = xr.Dataset({"x": (("sample", "neuron"), X)})
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    data.to_netcdf(tmp_path / "classic.nc", engine="scipy")
    data.to_zarr(tmp_path / "x.zarr", consolidated=False)
    return tmp_path


FILES = [
    "x.npy", "x.npz::features", "x.pt", "nested.pth::net.x", "nested.pth", "old.pt",
    "x.safetensors", "x.h5", "x.h5::group/x", "x.nc", "classic.nc", "x.zarr::x",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_array_goes_from_each_kind_of_file_into_a_store_bit_for_bit(
    files: Path, name: str, cli: Call
) -> None:
    store = files / "s"
    usual = ["--key", "features"] if name == "x.npz" else []
    answer = cli("import", store, files / name, "--epoch", 7, *usual)
    assert answer.code == 0, answer.err
    run = actstore.open(store).only()
    assert (run.epochs.tolist(), run.width, run.complete) == ([7], 6, True)
    assert run.attrs["provenance"]["files"] == {"test/last_hidden": [name]}
    assert np.array_equal(run.dataset().activations[0], X)
    assert verify(store, deep=True) == []


def test_bfloat16_tensors_are_taken_at_their_value(tmp_path: Path) -> None:
    half = torch.from_numpy(X).bfloat16()
    torch.save(half, tmp_path / "x.pt")
    save_torch_file({"x": half}, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        assert np.array_equal(read_array(str(tmp_path / name)), half.float().numpy())


def test_the_files_of_a_published_network_go_in_by_one_command(tmp_path: Path, cli: Call) -> None:
    tensors = {"features": X, "labels": Y, "weights": WEIGHT, "bias": BIAS}
    for name, values in tensors.items():
        torch.save(torch.from_numpy(np.asarray(values)), tmp_path / f"{name}.pt")
    answer = cli(
        "import", tmp_path / "s", tmp_path / "features.pt", "--labels", tmp_path / "labels.pt",
        "--readout-weight", tmp_path / "weights.pt", "--readout-bias", tmp_path / "bias.pt",
        "--epoch", 200, "--seed", 3, "--set", "weight_decay=0.005", "--model", "mlp",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    run = actstore.open(tmp_path / "s").only()
    assert run.name == "width=6,weight_decay=0.005,seed=3"
    assert run.attrs["provenance"]["files"] == {"test/last_hidden": ["features.pt"]}
    assert np.array_equal(run.labels("test"), Y)
    assert np.array_equal(run.readout().weight[0], WEIGHT)
    assert np.array_equal(run.readout().bias[0], BIAS)
    error = actstore.open(tmp_path / "s").error(splits="test", subset_size=[6], subsets=1)
    wrong = np.mean((X @ WEIGHT.T + BIAS).argmax(1) != Y)
    assert float(error.error.squeeze()) == pytest.approx(wrong)


def test_splits_layers_and_epochs_go_into_one_run(tmp_path: Path, cli: Call) -> None:
    both = np.stack([X, X + 1])
    np.save(tmp_path / "train.npy", both)
    np.save(tmp_path / "a.npy", X[:20])
    np.save(tmp_path / "b.npy", X[20:40])
    np.save(tmp_path / "early.npy", both[..., :3])
    np.save(tmp_path / "y.npy", Y[:, None])
    answer = cli(
        "import", tmp_path / "s", f"train={tmp_path / 'train.npy'}",
        f"train/early={tmp_path / 'early.npy'}", f"test={tmp_path / 'a.npy'}",
        f"test={tmp_path / 'b.npy'}", f"test/early={tmp_path / 'a.npy'}",
        f"test/early={tmp_path / 'b.npy'}", "--labels", f"train={tmp_path / 'y.npy'}",
        "--epoch", "10,20",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "split test has no labels" in answer.err
    run = actstore.open(tmp_path / "s").only()
    assert np.array_equal(run.dataset("train").activations, both)
    assert np.array_equal(run.dataset("train", "early").activations, both[..., :3])
    assert np.array_equal(run.dataset("test").activations, np.stack([X[:20], X[20:40]]))
    assert np.array_equal(run.labels("train"), Y)
    assert set(run.labels("test").to_numpy()) == {-1}


def test_a_run_is_imported_epoch_by_epoch(tmp_path: Path, cli: Call) -> None:
    np.save(tmp_path / "x.npy", X)
    for epoch in (1, 2, 5):
        answer = cli("import", tmp_path / "s", tmp_path / "x.npy", "--epoch", epoch, "--epochs", 3)
        assert answer.code == 0, answer.err
        run = actstore.open(tmp_path / "s").only()
        assert run.complete == (epoch == 5)
    assert run.epochs.tolist() == [1, 2, 5]
    with pytest.raises(RunExistsError, match="complete"):
        import_run(tmp_path / "s", {"test": {"last_hidden": [X]}}, epochs=[6])
    import_run(tmp_path / "s", {"test": {"last_hidden": [X]}}, epochs=[6], overwrite=True)
    assert actstore.open(tmp_path / "s").only().epochs.tolist() == [6]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_a_file_larger_than_the_memory_at_hand_streams(tmp_path: Path, dtype: str) -> None:
    """The writer holds some blocks of 64 MiB at most; the file has four times that."""
    size = 2**28 // np.dtype("f4").itemsize
    big = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype, (size // 256, 256))
    big[::1000] = 1.0  # the rest stays a hole of the file system
    big.flush()
    del big
    tracemalloc.start()
    import_run(
        tmp_path / "s", {"test": {"last_hidden": [read_array(f"{tmp_path}/x.npy")]}}, epochs=[0]
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27
    run = actstore.open(tmp_path / "s").only()
    some = run.array("test/last_hidden/activations")[0, 999:1002]
    assert np.array_equal(some.sum(1), [0, 256, 0])


# refusals


class Evil:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "old.pt", "x.npy", "objects.npy", "x.npz"])
def test_a_pickle_is_refused_and_its_code_never_runs(tmp_path: Path, name: str, cli: Call) -> None:
    path, evil = tmp_path / name, Evil(tmp_path / "ran")
    if name == "old.pt":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif name.endswith((".pt", ".pth")):
        torch.save({"x": torch.ones(3, 3), "config": evil}, path)
    elif name == "x.npy":
        path.write_bytes(pickle.dumps(evil))
    elif name == "objects.npy":
        np.save(path, np.array([evil]), allow_pickle=True)
    else:
        np.savez(path, x=np.array([evil]))
    answer = cli("import", tmp_path / "s", path, "--epoch", 0)
    assert answer.code == 1
    assert "holds pickled Python objects, which are not loaded" in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["x.npz"], 0, ""),
        (["x.npz::nothing"], 1, "holds no array 'nothing'; it holds features, labels"),
        (["x.npz", "--key", "no"], 1, "holds no array 'no'"),
        (["x.h5::group"], 1, "holds no array 'group'; it holds group/x"),
        (["groups.zarr"], 1, "holds no array outside of groups; give a file of one run"),
        (["lost.npy"], 1, "no file"),
        (["x.txt"], 1, "is of no kind that can be read; give one of .npy .npz"),
        (["x.npy", "--width", "7"], 1, "width 7 was asked for, and the layer has 6 neurons"),
        (["x.npy", "--epoch", "1,2"], 1, "1 activations of test/last_hidden were given for 3"),
        (["x.npy", "--labels", "x.npy"], 1, "the labels of split 'test' have shape (50, 6)"),
        (["x.npy", "--labels", "train=x.npz::labels"], 1, "labels of split 'train' were given"),
        (["x.npy", "--labels", "y.npy", "--labels", "y.npy"], 1, "were given twice"),
        (["x.npy", "--labels", "y20.npy"], 1, "has 20 labels and 50 samples of layer"),
        (["x.npy", "--readout-weight", "x.npy"], 0, ""),
        (["x.npy", "--labels", "one.npy"], 1, "has 1 labels and 50 samples of layer"),
        (["x.npy", "--readout-weight", "xt.npy"], 1, "the readout reads 50 neurons"),
        (["x.npy", "--readout-weight", "y.npy"], 1, "expected (output, neuron) and (output,)"),
        (["x.npy", "--readout-bias", "y.npy"], 2, "without --readout-weight"),
        (["y.npy"], 1, "has shape (50,) and dtype int64; expected numbers of shape"),
        (["nan.npy"], 1, "has 1 values that are NaN or infinite (the first at 3, 2)"),
        (["cut.npy"], 1, "cannot be read"),
        (["cut.pt"], 1, "cannot be read"),
        (["cut.safetensors"], 1, "cannot be read"),
        (["cut.h5"], 1, "cannot be read"),
        (["x.npy", "--layer", "../x"], 1, "the layer name '../x' cannot be stored"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_and_nothing_is_stored(
    files: Path, arguments: list[str], code: int, words: str, cli: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(files)
    Path("x.txt").write_text("1 2 3")
    np.save("y.npy", Y)
    np.save("y20.npy", Y[:20])
    np.save("one.npy", Y[0])
    np.save("xt.npy", X.T)
    nan = X.copy()
    nan[3, 2] = np.nan
    np.save("nan.npy", nan)
    tree = xr.DataTree.from_dict({"/run": xr.Dataset({"x": (("sample", "neuron"), X)})})
    tree.to_zarr("groups.zarr", consolidated=False, mode="w")
    for name in ("x.npy", "x.pt", "x.safetensors", "x.h5"):
        Path("cut" + Path(name).suffix).write_bytes(Path(name).read_bytes()[:-200])
    answer = cli("import", "s", *arguments, "--epoch", "0")
    assert answer.code == code, answer.err
    assert words in answer.err
    assert code != 1 or answer.err.count("\n") == 1
    held = actstore.open("s") if Path("s").exists() else {}
    assert len(held) == (code == 0)


def test_a_refused_import_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    one: Any = {"test": {"last_hidden": [X]}}
    import_run(tmp_path / "s", one, epochs=[0])
    before = every_byte(tmp_path / "s")
    wrong = (np.ones((1, 4, 7)), np.ones((1, 4)))
    with pytest.raises(InvalidDataError):
        import_run(tmp_path / "s", one, epochs=[0], readout=wrong, overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidDataError):
        import_run(tmp_path / "s", one, epochs=[0], readout=wrong, seed=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="ascending"):
        import_run(tmp_path / "s", {"test": {"last_hidden": [X, X]}}, epochs=[1, 1])
    with pytest.raises(StoreNotFoundError):
        import_run(Path(__file__), one, epochs=[0])
    assert every_byte(tmp_path / "s") == before


def test_a_format_whose_package_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, package in (
        ("x.safetensors", "safetensors"), ("x.h5", "h5py"), ("x.nc", "h5netcdf"), ("x.pt", "torch")
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"anything")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match="install") as found:
            read_array(str(tmp_path / name))
        assert package in str(found.value)


def test_the_example_finds_the_clones_it_planted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "new")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    clones = [float(line.split()[1]) for line in done.stdout.splitlines()[1:3]]
    # four signals: any four or five neurons carry them
    assert clones == pytest.approx([8, 16], rel=0.3)
