"""Rounding keeps what it says, changes the answers as little as it says, and saves the space."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import actstore
from actstore import schema
from actstore.errors import InvalidParameterError, NotInStoreError, RunLockedError, StoreWriteError
from actstore.kernels.reconstruction import random_subsets
from actstore.storage import compaction
from actstore.storage.cache import Leaf, load_moments
from actstore.storage.compaction import compact
from actstore.storage.importing import import_run
from actstore.storage.precision import measure, round_mantissa
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, every_byte, one_epoch, record

Call = Callable[..., Any]
PATH = "run/test/last_hidden/activations"


def layer(samples: int = 600, width: int = 24) -> Any:
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(samples, 4)) @ rng.normal(size=(4, width))
    return (signals + 0.2 * rng.normal(size=signals.shape)).astype("f4")


# rounding

FLOATS = st_np.arrays("f4", 20, elements=st.floats(width=32, allow_nan=False))


@given(FLOATS)
def test_ten_bits_are_those_of_float16(x: Any) -> None:
    inside = x[(np.abs(x) < 65504) & ((np.abs(x) >= 2.0**-14) | (x == 0))]
    assert np.array_equal(round_mantissa(inside, 10), inside.astype("f2").astype("f4"))


@given(FLOATS)
def test_seven_bits_are_those_of_bfloat16(x: Any) -> None:
    expected = torch.from_numpy(x).bfloat16().float().numpy()
    finite = np.isfinite(expected)
    assert np.array_equal(round_mantissa(x, 7)[finite], expected[finite])


@given(FLOATS, st.integers(1, 23))
def test_rounding_is_within_half_a_last_bit_stays_finite_and_is_done_once(
    x: Any, keep_bits: int
) -> None:
    rounded = round_mantissa(x, keep_bits)
    finite = np.isfinite(x)
    assert np.array_equal(np.isfinite(rounded), finite)
    large = finite & (np.abs(x) >= np.finfo("f4").tiny) & (np.abs(x) < 1e38)
    apart = np.abs(rounded[large].astype("f8") - x[large])
    assert (apart <= 2.0 ** -(keep_bits + 1) * np.abs(x[large])).all()
    assert np.array_equal(round_mantissa(rounded, keep_bits), rounded)
    dropped = np.uint32((1 << (23 - keep_bits)) - 1)
    assert not (rounded[finite].view("u4") & dropped).any()


def test_the_measured_change_of_r2_is_that_of_ridge_regressions() -> None:
    x = layer()
    rounded = round_mantissa(x, 4).astype("f8")
    apart = []
    for order in random_subsets(24, subsets=3, seed=0):
        for w in range(1, 24):
            r2 = []
            for data in (x.astype("f8"), rounded):
                data = data - data.mean(0)
                fit = Ridge(1e-8 * np.trace(data.T @ data) / 24).fit(data[:, order[:w]], data)
                r2.append(
                    r2_score(data, fit.predict(data[:, order[:w]]),
                             multioutput="variance_weighted")
                )  # fmt: skip
            apart.append(abs(r2[0] - r2[1]))
    assert measure([x[:100], x[100:]], 4).r2 == pytest.approx(max(apart), rel=1e-4)
    assert 0 < measure([x], 10).r2 < 1e-5  # as measured on real layers: 2e-6
    assert 0 < measure([x], 10).residual_correlation < 1e-4
    assert measure([np.zeros((9, 4), "f4")], 4).r2 == 0


# recording


def rounding_writer(path: Path, keep_bits: int = 10) -> RunWriter:
    return RunWriter.create(
        path, "run", slots=3, attributes={**attributes(), "keep_bits": keep_bits}
    )


@pytest.mark.parametrize("neurons", [8, 300])  # a chunk by itself, and in a shard
def test_a_recorder_that_rounds_stores_rounded_values_and_says_so(
    tmp_path: Path, neurons: int, cli: Call
) -> None:
    writer = rounding_writer(tmp_path / "s")
    epoch = one_epoch(0, layers={"last_hidden": neurons})
    before = epoch["activations"]["test"]["last_hidden"].copy()
    writer.write(0, **epoch)
    writer.close(complete=True)
    run = actstore.open(tmp_path / "s").only()
    assert np.array_equal(epoch["activations"]["test"]["last_hidden"], before)
    assert np.array_equal(run.dataset().activations[0], round_mantissa(before, 10))
    assert run.attrs["precision"]["keep_bits"] == 10
    assert 0 < run.attrs["precision"]["r2_change"] < 1e-3
    assert verify(tmp_path / "s", deep=True) == []
    told = cli("info", tmp_path / "s", "run").out
    assert "rounded to 10 of 23 bits of mantissa; R² changes by" in told
    assert "x smaller" in told


def test_rounding_nearly_halves_what_dense_activations_take(tmp_path: Path) -> None:
    """Gaussian numbers, which nothing compresses, take the 17.5 bits of 32 that are left."""
    x = {"test": {"last_hidden": [layer(5000, 256)]}}
    import_run(tmp_path / "s", x, epochs=[0])
    import_run(tmp_path / "s", x, epochs=[0], seed=1, keep_bits=10)
    exact, rounded = (
        sum(f.stat().st_size for f in (tmp_path / "s" / name).rglob("*") if f.is_file())
        for name in ("width=256,seed=0", "width=256,seed=1")
    )
    assert exact / rounded > 1.7


def test_moments_of_what_was_rounded_are_no_finding(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    torch.manual_seed(0)
    loader = [(torch.randn(50, 4) + 3, torch.zeros(50, dtype=torch.long))]
    with actstore.Recorder(tmp_path / "s", model, epochs=1, keep_bits=4) as recorder:
        recorder.record(1, test=loader)
    actstore.open(tmp_path / "s").moments(cache=True).compute()
    assert (tmp_path / "s" / "width=8,seed=0/test/last_hidden/moments").exists()
    assert verify(tmp_path / "s", deep=True) == []


def test_a_mantissa_has_23_bits_to_keep(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    with pytest.raises(InvalidParameterError, match="keep_bits=24 was asked for"):
        actstore.Recorder(tmp_path / "no", model, epochs=1, keep_bits=24)


# compacting


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Record a run with shards, an unfinished one and a cache."""
    path = record(tmp_path / "s", splits={"test": 50}, layers={"last_hidden": 260})
    record(path, "unfinished", seed=1, slots=5, complete=False)
    created = actstore.open(path)["run"].attrs["created"]
    load_moments(Leaf(str(path), "run", "test", "last_hidden", created), 1, cache=True)
    return path


def test_a_compacted_store_holds_the_rounded_values_and_nothing_old(store: Path, cli: Call) -> None:
    before = actstore.open(store)["run"].dataset().activations.compute()
    unchanged = every_byte(store)
    answer = cli("compact", store, "--keep-bits", 7, "--dry-run")
    assert answer.out.count("would be compacted: ") == 2
    assert every_byte(store) == unchanged
    answer = cli("compact", store, "--keep-bits", 7)
    assert answer.code == 0, answer.err
    assert answer.out.count("compacted: ") == 2
    run = actstore.open(store)["run"]
    assert np.array_equal(run.dataset().activations, round_mantissa(before.to_numpy(), 7))
    assert verify(store, deep=True) == []
    assert not list(store.rglob("moments"))
    assert cli("compact", store, "--keep-bits", 10).out.count("left as it is") == 2
    writer = RunWriter.append(store, "unfinished")  # what is recorded later is rounded as well
    writer.write(20, **one_epoch(20, seed=1))
    writer.close(complete=False)
    later = one_epoch(20, seed=1)["activations"]["test"]["last_hidden"]
    stored = actstore.open(store)["unfinished"].dataset().activations[-1]
    assert np.array_equal(stored, round_mantissa(later, 7))


def test_bits_that_are_dropped_twice_add_up_in_what_is_told(store: Path) -> None:
    first = [one.change for one in compact(actstore.open(store), keep_bits=13)]
    second = [one.change for one in compact(actstore.open(store), keep_bits=10)]
    assert all(b.r2 > a.r2 > 0 for a, b in zip(first, second, strict=True))
    assert actstore.open(store)["run"].attrs["precision"]["keep_bits"] == 10


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_compaction_that_stops_leaves_a_run_as_it_was_and_is_finished_by_another(
    store: Path, monkeypatch: pytest.MonkeyPatch, step: int, cli: Call
) -> None:
    before = actstore.open(store)["run"].dataset().activations.to_numpy()
    expected = round_mantissa(before, 10)
    steps = 0
    write_epoch = compaction.write_epoch

    def stop(*arguments: Any, **keywords: Any) -> None:
        nonlocal steps
        steps += 1
        if steps > step:
            raise OSError(28, "No space left on device")
        write_epoch(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "write_epoch", stop)
        with pytest.raises(StoreWriteError, match="its epochs are as they were"):
            list(compact(actstore.open(store).sel(run="run"), keep_bits=10))
    assert np.array_equal(actstore.open(store)["run"].dataset().activations, before)
    left = list(store.rglob("activations/c.*"))
    assert len(left) == step
    found = verify(store)
    assert [one.kind for one in found] == ["leftover"] * len(left)
    assert "interrupted" in cli("info", store, "run").out
    told = actstore.open(store)["run"].attrs["precision"]["r2_change"]
    list(compact(actstore.open(store), keep_bits=10))
    run = actstore.open(store)["run"]
    assert np.array_equal(run.dataset().activations, expected)
    assert run.attrs["precision"]["finished"]
    assert run.attrs["precision"]["r2_change"] == told > 0
    assert verify(store, deep=True) == []


def test_a_compaction_that_stops_between_two_layers_is_finished_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = record(tmp_path / "s", splits={"test": 50, "train": 60}, layers={"last_hidden": 260})
    before = {split: actstore.open(store).only().dataset(split) for split in ("test", "train")}
    expected = {split: round_mantissa(x.activations.values, 10) for split, x in before.items()}
    sealed = compaction.sealed
    switched: list[bytes] = []

    def stop(document: bytes) -> bytes:
        if switched:
            raise OSError(28, "No space left on device")
        switched.append(document)
        return sealed(document)

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "sealed", stop)
        with pytest.raises(StoreWriteError):
            list(compact(actstore.open(store), keep_bits=10))
    run = actstore.open(store).only()
    assert np.array_equal(run.dataset("test").activations, expected["test"])
    assert {finding.kind for finding in verify(store)} == {"leftover"}
    list(compact(actstore.open(store), keep_bits=10))
    for split, values in expected.items():
        plain = zarr.open_array(store / f"run/{split}/last_hidden/activations", mode="r")
        assert np.array_equal(plain[:], values)
    assert verify(store, deep=True) == []


def test_who_opened_a_run_before_it_was_compacted_is_told_to_open_it_again(store: Path) -> None:
    opened = actstore.open(store)["run"].dataset().activations
    list(compact(actstore.open(store), keep_bits=10))
    with pytest.raises(NotInStoreError, match="was rewritten after it was opened; open the store"):
        opened.compute()


def test_compacting_chooses_the_codec_again(tmp_path: Path) -> None:
    store = record(tmp_path / "s", splits={"test": 3000}, layers={"last_hidden": 16}, epochs=[0])
    folder = store / "run/test/last_hidden/activations"
    (one,) = compact(actstore.open(store), keep_bits=10)
    assert one.before / one.after > 1.7
    assert [path.name for path in folder.iterdir() if path.name != "zarr.json"] == ["c.0.0.0"]
    list(compact(actstore.open(store), keep_bits=5))
    assert not list(folder.glob("c.*"))
    assert verify(store, deep=True) == []


def test_a_run_that_is_being_written_is_not_compacted(store: Path) -> None:
    writer = RunWriter.append(store, "unfinished")
    with pytest.raises(RunLockedError):
        list(compact(actstore.open(store).sel(run="unfinished"), keep_bits=10))
    writer.close(complete=False)
    assert zarr.open_array(store / "unfinished/test/last_hidden/activations").attrs.get(
        "keep_bits"
    ) is None  # fmt: skip


def test_a_run_of_moments_only_is_left_as_it_is(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    loader = [(torch.randn(50, 4), torch.zeros(50, dtype=torch.long))]
    with actstore.Recorder(tmp_path / "s", model, epochs=1, keep="moments") as recorder:
        recorder.record(1, test=loader)
    before = every_byte(tmp_path / "s")
    (one,) = compact(actstore.open(tmp_path / "s"), keep_bits=10)
    assert one.outcome == "left as it is"
    assert every_byte(tmp_path / "s") == before
    assert schema.kept(actstore.open(tmp_path / "s").only().attrs) == ("moments",)


@pytest.mark.parametrize("keep_bits", [0, 24, -1])
def test_only_bits_that_a_float32_has_can_be_kept(store: Path, keep_bits: int, cli: Call) -> None:
    answer = cli("compact", store, "--keep-bits", keep_bits)
    assert answer.code == 1
    assert "a float32 has 23 bits of mantissa" in answer.err
