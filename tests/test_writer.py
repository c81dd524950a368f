"""An epoch is written whole or refused; a run has one writer."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.errors import (
    InvalidDataError,
    InvalidParameterError,
    NotInStoreError,
    RunExistsError,
    RunLockedError,
    StoreNotFoundError,
    StoreWriteError,
)
from actstore.storage import local, lock
from actstore.storage.run_arrays import RunArrays
from actstore.storage.writer import RunWriter

from .recordings import attributes, every_byte, one_epoch, record


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    """Return the writer of a run with epochs 0 and 5, and one slot more."""
    writer = RunWriter.create(tmp_path / "s", "run", slots=3, attributes=attributes())
    for epoch in (0, 5):
        writer.write(epoch, **one_epoch(epoch))
    return writer


def changed(**parts: Any) -> dict[str, Any]:
    return {**one_epoch(10), **parts}


def with_activations(split: str, x: object) -> dict[str, Any]:
    epoch = one_epoch(10)
    epoch["activations"][split] = {"last_hidden": x}
    return epoch


def with_value(value: float) -> dict[str, Any]:
    epoch = one_epoch(10)
    epoch["activations"]["test"]["last_hidden"][3, 2] = value
    return epoch


X = one_epoch(10)["activations"]["test"]["last_hidden"]
LABELS = one_epoch(10)["labels"]
SAMPLES = one_epoch(10)["samples"]
WEIGHT, BIAS = one_epoch(10)["readout"]

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": (with_value(np.nan), r"has 1 values that are NaN or infinite \(the first at 3, 2\)"),
    "infinite": (with_value(np.inf), "NaN or infinite"),
    "beyond float32": (with_activations("test", np.full((60, 8), 1e300)), "NaN or infinite"),
    "two samples": (with_activations("test", X[:2]), "2 samples of 8 neurons; at least 3"),
    "no neuron": (with_activations("test", X[:, :0]), "60 samples of 0 neurons"),
    "one dim": (with_activations("test", X[0]), r"has shape \(8,\).*expected numbers of shape"),
    "text": (with_activations("test", np.full((60, 8), "x")), "expected numbers"),
    "complex": (with_activations("test", X * 1j), "expected numbers"),
    "fewer samples": (
        changed(
            activations={"train": one_epoch(10)["activations"]["train"], "test": {
                "last_hidden": X[:50]}},
            labels={**LABELS, "test": LABELS["test"][:50]},
            samples={**SAMPLES, "test": SAMPLES["test"][:50]},
        ),
        r"has 50 samples in split 'test', the epochs before it have 60; evaluate the same",
    ),
    "narrower": (with_activations("test", X[:, :7]), "reads 8 neurons, and layer .* has 7"),
    "labels change": (
        changed(labels={**LABELS, "test": LABELS["test"][::-1]}),
        r"labels of split 'test' changed at epoch 10 .*\(sample 0: 0 before, 9 now\)",
    ),
    "samples change": (
        changed(samples={**SAMPLES, "test": SAMPLES["test"] + 1}),
        "sample indices of split 'test' changed",
    ),
    "labels missing": (changed(labels={"test": LABELS["test"]}), "give both of every split"),
    "labels too few": (
        changed(labels={**LABELS, "test": LABELS["test"][:3]}),
        "60.* rows of activations, 3 labels",
    ),
    "labels NaN": (changed(labels={**LABELS, "test": np.full(60, np.nan)}), "the labels of split"),
    "labels one-hot": (
        changed(labels={**LABELS, "test": np.eye(60)}),
        "expected one number a sample",
    ),
    "split missing": (
        changed(
            activations={"test": {"last_hidden": X}}, labels={"test": LABELS["test"]}, samples=None
        ),
        r"has the splits \['test'\], the epochs before it have \['test', 'train'\]",
    ),
    "layer more": (
        changed(
            activations={
                **one_epoch(10)["activations"],
                "test": {"last_hidden": X, "block": X},
            }
        ),
        r"layers of split 'test' \['block', 'last_hidden'\], the epochs before",
    ),
    "nothing": (changed(activations={}), "no activations were given"),
    "readout transposed": (changed(readout=(WEIGHT.T, BIAS)), r"expected \(output, neuron\)"),
    "readout narrower": (changed(readout=(WEIGHT[:, :7], BIAS)), "reads 7 neurons"),
    "readout smaller": (changed(readout=(WEIGHT[:1], BIAS[:1])), r"a readout of shape \(1, 8\)"),
    "readout missing": (changed(readout=None), "has no readout, the epochs before it have"),
    "readout NaN": (changed(readout=(WEIGHT * np.nan, BIAS)), "the readout weight has 80 values"),
    "metric named epoch": (changed(metrics={"epoch": 1.0}), "cannot be called 'epoch'"),
    "metric named as split": (changed(metrics={"test": 1.0}), "a split cannot be called 'test'"),
    "metric with slash": (changed(metrics={"a/b": 1.0}), "the metric name 'a/b' cannot be stored"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stored_is_refused_in_one_sentence_and_changes_no_byte(
    writer: RunWriter, tmp_path: Path, case: str
) -> None:
    epoch, words = REFUSED[case]
    before = every_byte(tmp_path)
    with pytest.raises((InvalidDataError, InvalidParameterError), match=words) as refusal:
        writer.write(10, **epoch)
    assert "\n" not in str(refusal.value)
    assert every_byte(tmp_path) == before
    assert writer.committed == (0, 5)
    writer.write(10, **one_epoch(10))  # and the writer goes on
    assert actstore.open(tmp_path / "s").only().epochs.tolist() == [0, 5, 10]


@pytest.mark.parametrize(
    ("epoch", "words"),
    [
        (5, "epoch 5 comes after epoch 5, which run 'run' already holds"),
        (3, "record epochs in ascending order"),
        (-1, "epoch -1 was given; epochs count from 0"),
    ],
)
def test_epochs_are_refused_out_of_order(
    writer: RunWriter, tmp_path: Path, epoch: int, words: str
) -> None:
    before = every_byte(tmp_path)
    with pytest.raises(InvalidParameterError, match=words):
        writer.write(epoch, **one_epoch(epoch if epoch >= 0 else 0))
    assert every_byte(tmp_path) == before


def test_a_full_run_refuses_another_epoch(writer: RunWriter, tmp_path: Path) -> None:
    writer.write(10, **one_epoch(10))
    before = every_byte(tmp_path)
    with pytest.raises(InvalidParameterError, match=r"room for 3 epochs.*create it with more"):
        writer.write(11, **one_epoch(11))
    assert every_byte(tmp_path) == before


def test_a_closed_writer_refuses_an_epoch(writer: RunWriter) -> None:
    writer.close(complete=False)
    writer.close(complete=False)
    with pytest.raises(InvalidParameterError, match="after run 'run' was closed"):
        writer.write(10, **one_epoch(10))


@pytest.mark.parametrize(
    ("splits", "layers", "words"),
    [
        ({"readout": 9}, {"last_hidden": 8}, "split cannot be called 'readout'"),
        ({"epoch": 9}, {"last_hidden": 8}, "split cannot be called 'epoch'"),
        ({"a/b": 9}, {"last_hidden": 8}, "split name 'a/b' cannot be stored"),
        ({"test": 9}, {"label": 8}, "layer cannot be called 'label'"),
        ({"test": 9}, {"../x": 8}, "layer name '../x' cannot be stored"),
        ({"test": 9}, {"zarr.json": 8}, "layer name 'zarr.json' cannot be stored"),
    ],
)
def test_names_that_would_collide_are_refused(
    tmp_path: Path, splits: dict[str, int], layers: dict[str, int], words: str
) -> None:
    writer = RunWriter.create(tmp_path / "s", "run", slots=1, attributes=attributes())
    with pytest.raises(InvalidParameterError, match=words):
        writer.write(0, **one_epoch(0, splits=splits, layers=layers))


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "__x", "ä", "a b", "x" * 256, "zarr.json"])
def test_a_name_that_cannot_be_a_folder_everywhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"the run name .* cannot be stored"):
        RunWriter.create(tmp_path / "s", name, slots=1, attributes=attributes())
    assert not (tmp_path / "s").exists()


def test_a_run_needs_room_for_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="a run of 0 epochs was asked for"):
        RunWriter.create(tmp_path / "s", "run", slots=0, attributes=attributes())


def test_a_run_that_is_there_is_only_replaced_on_request(tmp_path: Path) -> None:
    record(tmp_path / "s", seed=0)
    before = every_byte(tmp_path)
    with pytest.raises(RunExistsError, match=r"'run' is already in .*; resume it, overwrite it"):
        record(tmp_path / "s", seed=1)
    assert every_byte(tmp_path) == before
    writer = RunWriter.create(
        tmp_path / "s", "run", slots=1, attributes=attributes(seed=1), overwrite=True
    )
    assert actstore.open(tmp_path / "s").only().epochs.tolist() == []
    writer.write(7, **one_epoch(7, seed=1))
    run = actstore.open(tmp_path / "s").only()
    assert (run.seed, run.epochs.tolist()) == (1, [7])


def test_appending_needs_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no store at"):
        RunWriter.append(tmp_path / "s", "run")
    record(tmp_path / "s")
    before = every_byte(tmp_path)
    with pytest.raises(NotInStoreError, match="no run 'other'"):
        RunWriter.append(tmp_path / "s", "other")
    with pytest.raises(RunExistsError, match="complete: nothing is left to append"):
        RunWriter.append(tmp_path / "s", "run")
    assert every_byte(tmp_path) == before


def test_a_foreign_folder_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(StoreNotFoundError, match="not an actstore store"):
        RunWriter.create(tmp_path / "photos", "run", slots=1, attributes=attributes())
    assert every_byte(tmp_path) == {"photos/holiday.jpg": b"jpg"}


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert len(actstore.open(record(tmp_path / "s"))) == 1


def test_a_resumed_run_continues_and_keeps_comparing(writer: RunWriter, tmp_path: Path) -> None:
    writer.close(complete=False)
    again = RunWriter.append(tmp_path / "s", "run")
    assert again.committed == (0, 5)
    assert not again.complete
    with pytest.raises(InvalidDataError, match="labels of split 'test' changed"):
        again.write(10, **changed(labels={**LABELS, "test": LABELS["test"][::-1]}))
    with pytest.raises(InvalidDataError, match="no readout"):
        again.write(10, **changed(readout=None))
    with pytest.raises(InvalidDataError, match=r"has 7 neurons at epoch 10 .* and 8 before"):
        again.write(10, **one_epoch(10, layers={"last_hidden": 7}))
    again.write(10, **one_epoch(10))
    again.close(complete=True)
    assert again.complete
    assert actstore.open(tmp_path / "s").only().complete


def test_a_metric_logged_later_is_missing_before_and_one_not_logged_is_missing_after(
    writer: RunWriter, tmp_path: Path
) -> None:
    writer.write(10, **changed(metrics={"learning_rate": 0.1}))
    metrics = actstore.open(tmp_path / "s").only().metrics()
    assert metrics.learning_rate.isnull().values.tolist() == [True, True, False]
    assert metrics.train_error.isnull().values.tolist() == [False, False, True]


def test_a_metric_may_be_infinite_and_is_stored_as_it_is(writer: RunWriter, tmp_path: Path) -> None:
    writer.write(10, **changed(metrics={"train_error": float("inf")}))
    assert float(actstore.open(tmp_path / "s").only().metrics().train_error[-1]) == np.inf


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype("float64"),
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1][::-1],
        lambda x: x.astype(">f4"),
    ],
)
def test_any_memory_layout_of_the_same_numbers_is_stored_alike(
    tmp_path: Path, convert: Callable[[Any], Any]
) -> None:
    writer = RunWriter.create(tmp_path / "s", "run", slots=1, attributes=attributes())
    epoch = one_epoch(0)
    for layers in epoch["activations"].values():
        layers["last_hidden"] = convert(layers["last_hidden"])
    writer.write(0, **epoch)
    expected = one_epoch(0)["activations"]["test"]["last_hidden"]
    assert np.array_equal(actstore.open(tmp_path / "s").dataset().activations[0], expected)


@pytest.mark.parametrize(("samples", "width"), [(4097, 257), (2048, 256), (2049, 1), (5, 1000)])
def test_samples_and_neurons_that_no_chunk_divides_are_read_back_bit_equal(
    tmp_path: Path, samples: int, width: int
) -> None:
    shape: dict[str, Any] = {"splits": {"test": samples}, "layers": {"last_hidden": width}}
    record(tmp_path / "s", epochs=[0, 1], **shape)
    x = actstore.open(tmp_path / "s").dataset().activations
    for epoch in (0, 1):
        expected = one_epoch(epoch, **shape)["activations"]["test"]["last_hidden"]
        assert np.array_equal(x.sel(epoch=epoch), expected)


def test_float_labels_are_kept_as_floats(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "s", "run", slots=1, attributes=attributes())
    labels = {split: values / 7 for split, values in LABELS.items()}
    writer.write(0, **{**one_epoch(0), "labels": labels})
    assert np.array_equal(actstore.open(tmp_path / "s").dataset().label, labels["test"])


def test_attributes_of_numpy_are_stored_as_plain_numbers(tmp_path: Path) -> None:
    given = attributes(decay=np.float32(0.5), depth=np.int64(3), sizes=np.array([1, 2]))
    RunWriter.create(tmp_path / "s", "run", slots=1, attributes=given).close(complete=False)
    assert actstore.open(tmp_path / "s").only().hyper_parameters == {
        "decay": 0.5,
        "depth": 3,
        "sizes": [1, 2],
    }


def test_an_attribute_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match=r"the attribute .* cannot be stored"):
        RunWriter.create(tmp_path / "s", "run", slots=1, attributes=attributes(f=print))


def test_provenance_known_at_the_end_is_added(writer: RunWriter, tmp_path: Path) -> None:
    writer.update_provenance(wall_time=12.5)
    writer.close(complete=True)
    writer.update_provenance(peak_memory=3)
    run = actstore.open(tmp_path / "s").only()
    assert run.attrs["provenance"] == {"wall_time": 12.5, "peak_memory": 3}
    assert run.complete


def test_a_run_without_an_epoch_is_never_complete(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "s", "run", slots=3, attributes=attributes())
    with pytest.raises(InvalidDataError, match="holds no epoch and cannot be complete"):
        writer.close(complete=True)
    assert not actstore.open(tmp_path / "s").only().complete


def test_the_slot_that_a_failed_write_used_is_used_again(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: RunArrays, slot: int, snapshot: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunArrays, "write_metrics", refuse)
        with pytest.raises(
            StoreWriteError,
            match=r"epoch 10 of run 'run' could not be written .*No space left.* the 2 epochs",
        ):
            writer.write(10, **one_epoch(10))
    assert actstore.open(tmp_path / "s").only().epochs.tolist() == [0, 5]
    writer.write(11, **one_epoch(11))
    data = actstore.open(tmp_path / "s").dataset()
    assert data.epoch.values.tolist() == [0, 5, 11]
    expected = one_epoch(11)["activations"]["test"]["last_hidden"]
    assert np.array_equal(data.activations.sel(epoch=11), expected)


def test_a_marker_that_was_written_in_spite_of_an_error_is_not_overwritten(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after the rename, as a failing fsync of the folder: only the disk knows."""
    calls = iter([None, OSError(5, "Input/output error")])

    def sync(self: local.LocalFiles) -> None:
        if (error := next(calls, None)) is not None:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(local.LocalFiles, "sync", sync)
        with pytest.raises(StoreWriteError, match="the 3 epochs before it are intact"):
            writer.write(10, **one_epoch(10))
    assert writer.committed == (0, 5, 10)
    with pytest.raises(InvalidParameterError, match="already holds"):
        writer.write(10, **one_epoch(10))


# ---------------------------------------------------------------- durability


def test_durable_writing_syncs_shards_then_folders_then_the_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(path.removeprefix(f"{tmp_path}/"))
        real(descriptor)

    store = tmp_path / "s"
    writer = RunWriter.create(store, "run", slots=2, attributes=attributes(), durable=True)
    writer.write(0, **one_epoch(0))
    monkeypatch.setattr(os, "fsync", fsync)
    writer.write(1, **one_epoch(1))

    def place(beginning: str) -> int:
        return max(i for i, path in enumerate(synced) if path.startswith(beginning))

    marker = place("s/run/epoch/c/")
    for split in ("train", "test"):
        folder = f"s/run/{split}/last_hidden/activations/c/1/0"
        shard = place(f"{folder}/0")
        assert shard < synced.index(folder) < synced.index("s/run") < marker
    assert place("s/run/train_error/c/") < marker
    assert "s/run/epoch/c" in synced[marker + 1 :]
    assert all(".partial" in path or not path.endswith("/0") or (tmp_path / path).is_dir()
               for path in synced)  # fmt: skip
    writer.close(complete=True)
    assert actstore.open(store).only().complete


def test_without_durable_nothing_is_synced(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("fsync was called"))
    writer.write(10, **one_epoch(10))
    writer.close(complete=True)


# ---------------------------------------------------------------- one writer a run


def test_a_second_writer_is_refused_with_the_name_of_the_first(
    writer: RunWriter, tmp_path: Path
) -> None:
    before = every_byte(tmp_path)
    code = (
        "import sys; from actstore.storage.writer import RunWriter\n"
        f"RunWriter.append({str(tmp_path / 's')!r}, 'run')"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode == 1
    message = second.stderr.splitlines()[-1]
    assert message.startswith("actstore.errors.RunLockedError: run 'run' is being written by")
    assert f"process {os.getpid()} on " in message
    assert every_byte(tmp_path) == before
    writer.write(10, **one_epoch(10))


def test_the_same_process_cannot_write_a_run_twice(writer: RunWriter, tmp_path: Path) -> None:
    again = {"slots": 1, "attributes": attributes(), "overwrite": True}
    with pytest.raises(RunLockedError, match="already open for writing in this process"):
        RunWriter.append(tmp_path / "s", "run")
    with pytest.raises(RunLockedError, match="already open for writing in this process"):
        RunWriter.create(tmp_path / "s", "run", **again)  # type: ignore[arg-type]
    assert writer.committed == (0, 5)
    writer.close(complete=False)
    RunWriter.append(tmp_path / "s", "run").close(complete=False)


def test_a_forgotten_writer_gives_its_lock_up(tmp_path: Path) -> None:
    RunWriter.create(tmp_path / "s", "run", slots=1, attributes=attributes())
    RunWriter.append(tmp_path / "s", "run").close(complete=False)


def test_closing_removes_the_lock(writer: RunWriter, tmp_path: Path) -> None:
    path = tmp_path / "s" / lock.lock_key("run")
    assert path.exists()
    writer.close(complete=True)
    assert not path.exists()


def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    record(tmp_path / "s", slots=4, complete=False)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    forge_lock(tmp_path / "s", pid=ended.pid)
    assert RunWriter.append(tmp_path / "s", "run").committed == (0, 5, 10)


def test_the_lock_of_a_process_number_that_was_given_again_is_taken_over(tmp_path: Path) -> None:
    record(tmp_path / "s", slots=4, complete=False)
    forge_lock(tmp_path / "s", began="1")
    assert RunWriter.append(tmp_path / "s", "run").committed == (0, 5, 10)


def test_a_lock_whose_writer_was_killed_while_writing_it_is_taken_over(tmp_path: Path) -> None:
    record(tmp_path / "s", slots=4, complete=False)
    (tmp_path / "s" / lock.lock_key("run")).write_text('{"pid": 1')
    assert RunWriter.append(tmp_path / "s", "run").committed == (0, 5, 10)


def test_a_lock_of_another_machine_is_respected_and_says_how_to_clear_it_when_stale(
    tmp_path: Path,
) -> None:
    record(tmp_path / "s", slots=4, complete=False)
    path = forge_lock(tmp_path / "s", host="elsewhere", place="elsewhere")
    with pytest.raises(RunLockedError, match=r"written by process \d+ on elsewhere .last sign"):
        RunWriter.append(tmp_path / "s", "run")
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    with pytest.raises(RunLockedError, match=r"no sign of life for 60 minutes; .*remove '.*lock'"):
        RunWriter.append(tmp_path / "s", "run")
    path.unlink()
    assert RunWriter.append(tmp_path / "s", "run").committed == (0, 5, 10)


def test_a_writer_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    writer = RunWriter.create(tmp_path / "s", "run", slots=1, attributes=attributes())
    path = tmp_path / "s" / lock.lock_key("run")
    os.utime(path, (0, 0))
    deadline = time.time() + 10
    while path.stat().st_mtime == 0 and time.time() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0
    writer.close(complete=False)


def test_a_process_forked_from_the_writer_does_not_give_its_lock_up(
    writer: RunWriter, tmp_path: Path
) -> None:
    """A data loader's worker inherits the writer and forgets it when it ends."""
    child = os.fork()
    if child == 0:
        try:
            writer._lock.release()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "s" / lock.lock_key("run")).exists()


def test_a_plain_zarr_reader_meets_no_warning_while_a_run_is_locked(
    writer: RunWriter, tmp_path: Path
) -> None:
    import xarray as xr

    xr.open_datatree(tmp_path / "s", engine="zarr", consolidated=False)


def forge_lock(store: Path, **changes: object) -> Path:
    path = store / lock.lock_key("run")
    holder = {**vars(lock.Owner.here()), **changes}
    path.write_text(json.dumps(holder))
    return path


# ---------------------------------------------------------------- many writers of one store


def test_eight_processes_make_one_store_and_write_eight_runs_at_once(tmp_path: Path) -> None:
    """All race for the root group, which none of them finds."""
    code = f"""
import os, sys, traceback
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.recordings import record
ready, go = os.pipe()
children = []
for seed in range(8):  # forked, so that they start within a millisecond of each other
    children.append(os.fork())
    if not children[-1]:
        os.close(go)
        os.read(ready, 1)  # returns when the parent closes its end
        try:
            record(Path({str(tmp_path / "s")!r}), f"run{{seed}}", seed=seed, epochs=range(4))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    store = actstore.open(tmp_path / "s")
    assert len(store) == 8
    for run in store.values():
        assert run.complete
        x = run.dataset().activations
        for epoch in range(4):
            expected = one_epoch(epoch, seed=run.seed)["activations"]["test"]["last_hidden"]
            assert np.array_equal(x.sel(epoch=epoch), expected)
    assert not list((tmp_path / "s").rglob("*.partial"))
