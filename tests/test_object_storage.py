"""A store in a bucket is a store: the same bytes, whole epochs, one writer, and clear errors."""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import actstore
from actstore.errors import (
    RunExistsError,
    RunLockedError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreUnreachableError,
    StoreWarning,
    StoreWriteError,
)
from actstore.storage import lock, remote, run_check
from actstore.storage.array_file import read_array
from actstore.storage.exporting import export
from actstore.storage.files import Files
from actstore.storage.location import files_at
from actstore.storage.merging import merge
from actstore.storage.removal import remove
from actstore.storage.repair import repair
from actstore.storage.transfer import fetch
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .bucket import BUCKET, Server, Wire, wire_to
from .command_line import Answer
from .killed import killed_again_and_again
from .recordings import attributes, one_epoch, record

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"splits": {"test": 60}}
LARGE: dict[str, Any] = {"splits": {"test": 2100}, "layers": {"last_hidden": 300}}


@pytest.fixture
def wire(bucket: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    # nobody in a test waits for a server to come back
    monkeypatch.setattr(remote, "READ_PATIENCE", 1)
    monkeypatch.setattr(remote, "WRITE_PATIENCE", 1)
    with wire_to(bucket) as one:
        for name, value in one.environment.items():
            monkeypatch.setenv(name, value)
        yield one


@pytest.fixture
def url(wire: Wire) -> str:
    """Return where a store may be made, on the server."""
    return f"s3://{BUCKET}/{time.time_ns()}/runs.zarr"


@pytest.fixture
def inside() -> str:
    """Return where a store may be made, in memory: the same code without a server's time."""
    return f"memory://{time.time_ns()}"


def recorded(url: str, name: str = "run", **options: Any) -> str:
    """Record a run of known content below a URL."""
    record(url, name, **options)  # type: ignore[arg-type]
    return url


def contents(files: Files, folder: str = "") -> dict[str, bytes]:
    return {key: files.read(key) for key in sorted(files.sizes(folder))}


def values(store: str | Path, run: str = "run") -> np.ndarray[Any, Any]:
    x: np.ndarray[Any, Any] = actstore.open(store)[run].dataset().activations.to_numpy()
    return x


# ---------------------------------------------------------------- the same as on a disk


@pytest.mark.parametrize("content", [{}, LARGE], ids=["plain", "sharded"])
def test_a_bucket_holds_the_same_files_as_a_disk_byte_for_byte(
    url: str, tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actstore.schema, "now", lambda: "2026-01-01T00:00:00+00:00")
    local = record(tmp_path / "s", **content)
    recorded(url, **content)
    assert contents(files_at(url)) == contents(files_at(local))
    assert np.array_equal(values(url), values(local))
    assert actstore.open(url).runs.equals(actstore.open(local).runs)
    assert verify(url, deep=True) == []


def test_questions_have_the_same_answers_and_read_no_sample_twice(
    url: str, wire: Wire, tmp_path: Path
) -> None:
    local = record(tmp_path / "s", **LARGE)
    recorded(url, **LARGE)
    expected = actstore.open(local).reconstruction(subsets=3).compute()
    first = actstore.open(url).reconstruction(subsets=3).compute()
    wire.requests.clear()
    again = actstore.open(url).reconstruction(subsets=3).compute()
    for answer in (first, again):
        # the last bit depends on where in memory the moments lie
        np.testing.assert_allclose(answer.r2, expected.r2, rtol=0, atol=1e-14)
    assert not [r for r in wire.requests if "/activations/c/" in r]
    assert verify(url, deep=True) == []  # the cache agrees with the samples


def test_a_task_finds_the_store_in_another_process(url: str) -> None:
    recorded(url, **SMALL)
    lazy = actstore.open(url).reconstruction(subsets=2)
    apart = lazy.compute(scheduler="processes", num_workers=1)
    assert np.array_equal(apart.r2, lazy.compute(scheduler="synchronous").r2)


def test_listing_and_asking_take_few_requests(url: str, wire: Wire) -> None:
    for seed in range(2):
        recorded(url, f"run{seed}", seed=seed)
    wire.requests.clear()
    store = actstore.open(url)
    assert len(wire.requests) <= 2 + 2  # the root, the names, each run's attributes
    wire.requests.clear()
    assert len(store.runs) == 2
    assert len(wire.requests) <= 2 * 2 * 3  # the marker and two metrics: metadata and values
    store.moments(cache=True).compute()
    wire.requests.clear()
    # one task after another: two at once may open the same cache, each for itself
    actstore.open(url).moments(cache=True).compute(scheduler="synchronous")
    # of each run the marker, four documents of the cache, and three objects an epoch
    assert len(wire.requests) <= 4 + 2 * (2 + 4 + 3 * 3)
    wire.requests.clear()
    writer = RunWriter.create(url, "new", slots=3, attributes=attributes())
    writer.write(0, **one_epoch(0))
    wire.requests.clear()
    writer.write(1, **one_epoch(1))
    objects = 2 + 2 + 2 + 1  # activations, readout, metrics, marker
    assert sum(r.startswith("PUT") for r in wire.requests) == objects
    assert len(wire.requests) <= 2 * objects
    writer.close(complete=False)


def test_every_command_takes_a_url(
    inside: str, tmp_path: Path, cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--recipe", "digits", "--epochs", "2", "--schedule", "every:1", "--quiet")
    assert cli("record", inside, *small, "--width", "8,16").code == 0
    assert "already in" in cli("record", inside, *small, "--width", "8").err
    assert cli("record", inside, *small, "--width", "8,16", "--resume").code == 0
    rows = cli("runs", inside, "--format", "json").json["rows"]
    assert [(row["width"], row["epochs"]) for row in rows] == [(8, 2), (16, 2)]
    assert "memory://" in cli("info", inside).out
    assert "on disk" in cli("info", inside, rows[0]["run"]).out
    asked = cli("query", "reconstruction", inside, "--subsets", "2", "--format", "json")
    assert {row["width"] for row in asked.json["rows"]} == {8, 16}
    assert cli("query", "clones", inside, "--explain").code == 0
    assert cli("export", inside, "-o", "x.npy", "--width", "8").code == 0
    assert np.load("x.npy").shape[1] == 8
    new = ("import", inside, "x.npy", "--epoch", "3", "--run", "mine")
    assert cli(*new).code == 0
    assert "complete" in cli(*new).err
    assert np.array_equal(values(inside, "mine")[0], np.load("x.npy"))
    assert cli("merge", "copy.zarr", inside).code == 0
    assert cli("merge", inside, "copy.zarr").out.count("same") == 3
    assert cli("compact", inside, "--keep-bits", "10", "--run", "mine").code == 0
    assert cli("rm", inside, "--run", "mine", "--yes").code == 0
    assert cli("verify", inside, "--deep").code == 0
    assert not list(tmp_path.rglob("memory:*"))  # nothing was taken for the name of a folder
    assert not files_at(f"{inside}.checkpoints").sizes("")


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".npy", ".parquet"])
def test_what_is_exported_to_a_bucket_is_what_is_exported_to_a_disk(
    inside: str, tmp_path: Path, suffix: str
) -> None:
    store = actstore.open(record(tmp_path / "s")).sel(epoch=-1)
    target, here = f"{inside}/folder/x{suffix}", tmp_path / f"x{suffix}"
    export(store, target)
    with pytest.raises(RunExistsError, match="--overwrite"):
        export(store, target)
    export(store, target, overwrite=True)
    export(store, here)
    there = fetch(target, tmp_path / "fetched")
    if suffix == ".npy":
        assert np.array_equal(read_array(target), np.load(here))
    if suffix == ".parquet":
        assert pd.read_parquet(there).equals(pd.read_parquet(here))
    if suffix in (".zarr", ".nc"):
        key = f"{target}::activations"
        assert np.array_equal(read_array(key), store.only().dataset().activations)
        assert np.array_equal(read_array(key), read_array(f"{here}::activations"))
    with pytest.raises(StoreNotFoundError, match="check the URL"):
        fetch(target.replace("/x", "/y"), tmp_path / "fetched")


def test_a_store_in_a_bucket_is_never_replaced_by_an_export(url: str, tmp_path: Path) -> None:
    recorded(url, **SMALL)
    before = contents(files_at(url))
    chosen = actstore.open(record(tmp_path / "s"))
    with pytest.raises(RunExistsError, match="is a store"):
        export(chosen, url, overwrite=True)
    assert contents(files_at(url)) == before


def test_stores_are_merged_between_disks_and_buckets(inside: str, tmp_path: Path) -> None:
    local = record(tmp_path / "s", "a")
    recorded(inside, "b", seed=1)
    merge(inside, [local])
    merge(tmp_path / "back", [inside])
    assert contents(files_at(tmp_path / "back"), "b") == contents(files_at(inside), "b")
    assert contents(files_at(inside), "a") == contents(files_at(local), "a")
    assert verify(inside, deep=True) == verify(tmp_path / "back", deep=True) == []


def test_runs_and_epochs_are_removed(inside: str) -> None:
    recorded(inside, "a")
    recorded(inside, "b", seed=1)
    remove(actstore.open(inside).sel(run="a", epoch=5), whole=False)
    assert actstore.open(inside)["a"].epochs.tolist() == [0, 10]
    planned = remove(actstore.open(inside).sel(run="b"), whole=True)
    assert planned[0].bytes > 0
    assert list(actstore.open(inside)) == ["a"]
    assert not files_at(inside).has_folder("b")
    assert verify(inside, deep=True) == []


def test_a_store_in_memory_lasts_as_long_as_the_process() -> None:
    recorded("memory://one/s")
    assert np.array_equal(values("memory://one/s"), values("memory://one/s/"))
    with pytest.raises(StoreNotFoundError):
        actstore.open("memory://other")


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_leaves_whole_epochs_and_another_continues(
    url: str, wire: Wire, kills: int
) -> None:
    killed_again_and_again("append", url, kills, wire.environment)
    assert actstore.open(url).only().complete
    assert [finding for finding in verify(url) if not finding.harmless] == []
    assert repair(url) == []


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_overwritten_by_writers_that_are_killed_is_never_a_mixture(
    url: str, wire: Wire, kills: int
) -> None:
    """Of samples, moments, readouts, metrics and attributes, all are of one writer."""
    killed_again_and_again("overwrite", url, kills, wire.environment)
    assert actstore.open(url).only().seed == kills
    assert [finding for finding in verify(url) if not finding.harmless] == []


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_writer_that_ends_before_any_of_its_changes_leaves_whole_epochs(
    inside: str, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """From the creation of the run over its epochs to the trimming of unused slots."""
    left = 0

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise remote.exceptions.GenericError("the process has ended")
            return change(*arguments, **keywords)

        return call

    for name in ("put", "put_async", "delete", "delete_async"):
        monkeypatch.setattr(remote.obstore, name, dying(getattr(remote.obstore, name)))

    def write(url: str) -> None:
        writer = RunWriter.create(url, "run", slots=3, attributes=attributes())
        for epoch in (0, 5):
            writer.write(epoch, **one_epoch(epoch))
        writer.close(complete=True)

    for changes in range(0, 1000, step):
        url, left = f"{inside}/{changes}", changes
        with contextlib.suppress(actstore.errors.ActstoreError, OSError):
            write(url)
        ended, left = left < 0, 1000
        lock._HELD.clear()  # what ended holds no lock
        store = actstore.open(url) if files_at(url).has("zarr.json") else {}
        epochs = store["run"].epochs.tolist() if "run" in store else []
        assert epochs in ([], [0], [0, 5]), changes
        assert not store or all(one.harmless for one in verify(url, deep=True)), changes
        if not ended:
            break
        with contextlib.suppress(RunExistsError):  # complete
            resumed = (
                RunWriter.append(url, "run")
                if "run" in store
                else RunWriter.create(url, "run", slots=3, attributes=attributes())
            )
            for epoch in sorted({0, 5} - {*resumed.committed}):
                resumed.write(epoch, **one_epoch(epoch))
            resumed.close(complete=True)
        for place, epoch in enumerate((0, 5)):
            expected = one_epoch(epoch)["activations"]["test"]["last_hidden"]
            assert np.array_equal(values(url)[place], expected), changes
        assert repair(url) == []  # a run may be complete and its lock left over
    assert changes > 40  # every change was tried


@pytest.mark.parametrize("part_bytes", [5 * 2**20, pytest.param(2**23, marks=pytest.mark.slow)])
def test_an_upload_that_is_interrupted_leaves_nothing_and_is_repeated(
    url: str, wire: Wire, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", part_bytes)
    content: dict[str, Any] = {"splits": {"test": 2100}, "layers": {"last_hidden": 900}}
    writer = RunWriter.create(url, "run", slots=4, attributes=attributes(width=900))
    writer.write(0, **one_epoch(0, **content))
    before = contents(files_at(url))
    wire.cut_after = 6_000_000  # of the 7 MB of an epoch's shard: in its second part, if it has one
    with pytest.raises(StoreWriteError, match=r"does not answer.*1 epochs before it are intact"):
        writer.write(1, **one_epoch(1, **content))
    wire.mend()
    assert contents(files_at(url)) == before
    writer.write(1, **one_epoch(1, **content))
    writer.close(complete=True)
    assert np.array_equal(
        values(url)[1], one_epoch(1, **content)["activations"]["test"]["last_hidden"]
    )
    assert verify(url, deep=True) == []


@pytest.mark.parametrize(("after", "least"), [(100, 0), (15_000, 0), (100_000, 1)])
def test_a_server_that_is_lost_while_recording_is_told_in_one_sentence_and_nothing_is_lost(
    url: str, wire: Wire, after: int, least: int
) -> None:
    """Cut before the run exists, within its first epoch, and later."""
    writers = []

    def write_on() -> None:
        writers.append(RunWriter.create(url, "run", slots=40, attributes=attributes()))
        for epoch in range(39):
            writers[0].write(epoch, **one_epoch(epoch, **SMALL))

    wire.cut_after = after
    with pytest.raises((StoreWriteError, StoreUnreachableError), match="does not answer") as told:
        write_on()
    assert "\n" not in str(told.value)
    held = writers[0].committed if writers else ()
    assert least <= len(held) <= 30 * least
    if writers:
        assert f"the {len(held)} epochs before it are intact" in str(told.value)
        writers[0].close(complete=False)
    wire.mend()
    if held:
        assert actstore.open(url).only().epochs.tolist() == list(held)
        # the lock could not be removed: it names this process, which gave it up
        resumed = RunWriter.append(url, "run")
        resumed.write(50, **one_epoch(50, **SMALL))
        resumed.close(complete=True)
        assert actstore.open(url).only().epochs.tolist() == [*held, 50]
        assert verify(url, deep=True) == []


@pytest.mark.slow
def test_processes_make_one_store_and_write_runs_of_it_at_once(url: str) -> None:
    code = f"""
import os, sys, traceback
sys.path.insert(0, {str(ROOT)!r})
from tests.recordings import record
children = []
for seed in range(4):
    children.append(os.fork())
    if not children[-1]:
        try:
            record({url!r}, f"run{{seed}}", seed=seed, epochs=[1], splits={{"test": 60}})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    store = actstore.open(url)
    assert len(store) == 4
    assert all(run.complete for run in store.values())
    for run in store.values():
        expected = one_epoch(1, seed=run.seed, **SMALL)["activations"]["test"]["last_hidden"]
        assert np.array_equal(run.dataset().activations[0], expected)


# ---------------------------------------------------------------- one writer a run


def forge_lock(url: str, **changes: object) -> None:
    holder = {**vars(lock.Owner.here()), **changes}
    files_at(url).put(lock.lock_key("run"), [json.dumps(holder).encode()])


def test_a_second_writer_is_refused_with_the_name_of_the_first(url: str) -> None:
    recorded(url, slots=4, complete=False, **SMALL)
    code = "import sys; from actstore.storage.writer import RunWriter as W\n"
    code += f"w = W.append({url!r}, 'run'); print('have it', flush=True); sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "have it\n"
    with pytest.raises(RunLockedError, match=f"being written by process {first.pid} on "):
        RunWriter.append(url, "run")
    with pytest.raises(RunLockedError, match=f"written by process {first.pid} on "):
        remove(actstore.open(url), whole=True)
    first.kill()
    first.wait()
    first.stdin.close()
    first.stdout.close()
    # of several that find its lock left over, one takes it
    writer = RunWriter.append(url, "run")
    with pytest.raises(RunLockedError, match="already open for writing in this process"):
        RunWriter.append(url, "run")
    writer.close(complete=False)
    assert not files_at(url).has(lock.lock_key("run"))


def test_a_lock_that_was_taken_meanwhile_is_not_taken_over(inside: str) -> None:
    files = files_at(inside)
    files.put("a/lock", [b"left over"])

    def another_is_first(held: bytes, age: float) -> None:
        if held == b"left over":
            files.put("a/lock", [b"another's"])
        else:
            raise RunLockedError(held.decode())

    with pytest.raises(RunLockedError, match="another's"):
        files.claim("a/lock", b"mine", another_is_first)
    assert files.read("a/lock") == b"another's"


def test_a_lock_of_another_machine_is_respected_and_says_how_to_clear_it_when_stale(
    inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(inside, slots=4, complete=False)
    forge_lock(inside, host="elsewhere", place="elsewhere")
    with pytest.raises(RunLockedError, match=r"written by process \d+ on elsewhere .last sign"):
        RunWriter.append(inside, "run")
    monkeypatch.setattr(lock, "STALE", -1.0)
    monkeypatch.setattr(run_check, "STALE", -1.0)
    with pytest.raises(RunLockedError, match=rf"remove '{inside}/run/epoch/lock' and try again"):
        RunWriter.append(inside, "run")
    assert "sign of life" in str(verify(inside))
    files_at(inside).remove(lock.lock_key("run"))
    RunWriter.append(inside, "run").close(complete=True)


def test_a_writer_shows_signs_of_life(
    url: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    writer = RunWriter.create(url, "run", slots=1, attributes=attributes())
    wire.requests.clear()
    deadline = time.time() + 10
    while not any("PUT" in r and "lock" in r for r in wire.requests) and time.time() < deadline:
        time.sleep(0.01)
    assert any("PUT" in r and "lock" in r for r in wire.requests)
    writer.close(complete=False)
    assert not files_at(url).has(lock.lock_key("run"))


# ---------------------------------------------------------------- damage


def noticed(store: str) -> bool:
    try:
        return bool(verify(store, deep=True))
    except StoreCorruptError:  # the root's metadata: nothing can be opened
        return True


def test_no_flipped_byte_is_silent(inside: str) -> None:
    """Flip one byte of every kind of object: a check or the reader says so."""
    recorded(inside)
    actstore.open(inside).moments(cache=True).compute()
    files, rng = files_at(inside), random.Random(0)
    held = contents(files)
    kinds = {key.replace("/train/", "/test/").rsplit("/c/")[0]: key for key in held}
    for key in kinds.values():
        place, data = rng.randrange(len(held[key])), bytearray(held[key])
        data[place] ^= 1 << rng.randrange(8)
        files.put(key, [bytes(data)])
        assert noticed(inside), (key, place)
        files.put(key, [held[key]])
    assert verify(inside, deep=True) == []


def test_damaged_samples_are_an_error_and_a_damaged_cache_is_computed_anew(inside: str) -> None:
    recorded(inside)
    files, key = files_at(inside), "run/test/last_hidden/activations/c/2/0/0"
    data = bytearray(files.read(key))
    data[100] ^= 1
    expected = actstore.open(inside).moments(cache=True).sel(epoch=10).compute()
    files.put(key, [bytes(data)])
    assert [one.path for one in verify(inside, deep=True)] == [key]
    with pytest.raises(StoreCorruptError, match=r"activations.*actstore verify memory://"):
        actstore.open(inside).moments(cache=False).compute()
    files.remove(key)
    assert [one.problem for one in verify(inside)] == ["is missing"]
    with pytest.raises(StoreCorruptError, match="activations"):
        values(inside)
    data[100] ^= 1
    files.put(key, [bytes(data)])
    cached = "run/test/last_hidden/moments/mean/c/2/0"
    files.put(cached, [b"damaged" + files.read(cached)])
    with pytest.warns(StoreWarning, match="computed anew"):
        again = actstore.open(inside).moments(cache=True).sel(epoch=10).compute()
    np.testing.assert_allclose(again["mean"], expected["mean"], rtol=1e-12)


# ---------------------------------------------------------------- what is told


@pytest.fixture
def no_credentials(bucket: Server) -> Iterator[Callable[[int], None]]:
    """Return what makes the server refuse whoever it does not know, after some requests."""
    yield lambda after: _refuse_after(bucket, after)
    bucket.ask("POST", "/moto-api/reset-auth", b"inf")


def _refuse_after(bucket: Server, requests: int) -> None:
    bucket.ask("POST", "/moto-api/reset-auth", str(requests).encode())


def test_credentials_that_are_refused_are_told_in_one_sentence(
    url: str, bucket: Server, no_credentials: Callable[[int], None], cli: Callable[..., Answer]
) -> None:
    recorded(url, complete=False, slots=9, **SMALL)
    no_credentials(0)
    answer = cli("runs", url)
    assert answer.code == 1
    assert "the server refuses these credentials" in answer.err
    assert len(answer.err.splitlines()) == 1
    with pytest.raises(StoreUnreachableError, match="refuses these credentials"):
        verify(url)
    no_credentials(10**6)
    writer = RunWriter.append(url, "run")
    no_credentials(6)  # in the middle of the next epoch
    with pytest.raises(StoreWriteError, match=r"refuses these credentials.*3 epochs before it"):
        writer.write(20, **one_epoch(20, **SMALL))
    no_credentials(10**6)
    writer.write(20, **one_epoch(20, **SMALL))
    writer.close(complete=True)
    assert verify(url, deep=True) == []


def test_a_bucket_that_may_only_be_read_answers_without_a_cache(
    inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(inside)

    async def refuse(*_: Any) -> None:
        raise remote.exceptions.PermissionDeniedError("status code: 403")

    monkeypatch.setattr(remote.obstore, "put_async", refuse)
    monkeypatch.setattr(remote.obstore, "put", refuse)
    with pytest.warns(StoreWarning, match=r"not cached .the server refuses these credentials"):
        assert actstore.open(inside).moments(cache=True).compute().sizes["epoch"] == 3


def test_a_mistaken_url_is_told_in_one_sentence(
    url: str, wire: Wire, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    recorded(f"{url}/inner")
    for wrong, words in {
        "s3://no-such-bucket/x": "there is no bucket 'no-such-bucket'",
        f"s3://{BUCKET}/nothing/here": "no store at",
        url: "a folder without a Zarr group",
        "s4://bucket/x": "begins with nothing that is known; give a folder, or s3://",
        "s3://": "cannot be opened",
        f"s3:/{BUCKET}/x": "write two slashes",
        "file:///no/such/folder": "no store at",
    }.items():
        answer = cli("runs", wrong)
        assert answer.code == 1
        assert words in answer.err, answer.err
        assert len(answer.err.splitlines()) == 1
    with pytest.raises(StoreNotFoundError, match="there is no bucket"):
        RunWriter.create("s3://no-such-bucket/x", "run", slots=1, attributes=attributes())
    with pytest.raises(StoreNotFoundError, match="not an actstore store"):
        RunWriter.create(url, "run", slots=1, attributes=attributes())
    wire.cut_after = 0
    for command in (("runs", url), ("verify", url), ("query", "clones", url), ("rm", url, "--all")):
        answer = cli(*command)
        assert answer.code == 1
        assert "does not answer" in answer.err
        assert len(answer.err.splitlines()) == 1


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("remote", "bucket"):
        monkeypatch.delitem(sys.modules, f"actstore.storage.{module}")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r'pip install "actstore\[cloud\]"'):
        actstore.open("s3://bucket/x")


def test_a_run_is_not_recorded_twice(inside: str) -> None:
    recorded(inside)
    with pytest.raises(RunExistsError, match="already in 'memory://"):
        recorded(inside)
    before = values(inside)
    writer = RunWriter.create(inside, "run", slots=1, attributes=attributes(), overwrite=True)
    writer.write(3, **one_epoch(3))
    writer.close(complete=True)
    assert values(inside).shape[0] == 1 != before.shape[0]
    assert verify(inside, deep=True) == []


def test_an_interrupted_sweep_goes_on_from_a_checkpoint_in_the_bucket(
    inside: str, tmp_path: Path
) -> None:
    from actstore.training import RECIPES, plan_sweep, record_sweep
    from actstore.training.checkpoint import Checkpoint

    def plans() -> Any:
        return plan_sweep(RECIPES["digits"], widths=[8], seeds=[0], epochs=4, schedule="every:1")

    record_sweep(tmp_path / "s", plans())
    save = Checkpoint.save

    def save_and_die(self: Checkpoint, *arguments: Any, epoch: int, **more: Any) -> None:
        save(self, *arguments, epoch=epoch, **more)
        if epoch == 2:
            raise KeyboardInterrupt

    with mock.patch.object(Checkpoint, "save", save_and_die), pytest.raises(KeyboardInterrupt):
        record_sweep(inside, plans())
    assert len(files_at(f"{inside}.checkpoints").sizes("")) == 1
    record_sweep(inside, plans(), resume=True)
    name = plans()[0].name
    assert np.array_equal(values(inside, name), values(tmp_path / "s", name))
