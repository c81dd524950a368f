"""A run is compacted in one step: who opens it finds all as it was, or all of it rounded."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import actstore
from actstore import schema
from actstore.errors import NotInStoreError, RunLockedError, StoreWarning, StoreWriteError
from actstore.storage import compaction, remote, run_check
from actstore.storage.cache import Leaf, load_moments
from actstore.storage.compaction import compact
from actstore.storage.precision import Change, round_mantissa
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .bucket import BUCKET, Server, wire_to
from .recordings import every_byte, one_epoch, record

Call = Callable[..., Any]
Values = dict[tuple[str, str], Any]
ROOT = Path(__file__).parents[1]

#: a chunk by itself, and one in a shard
SHAPE: Any = {"splits": {"train": 9, "test": 10}, "layers": {"last_hidden": 8, "block": 260}}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Record a run with shards, an unfinished one and a cache."""
    path = record(tmp_path / "s", splits={"test": 50}, layers={"last_hidden": 260})
    record(path, "unfinished", seed=1, slots=5, complete=False)
    created = actstore.open(path)["run"].attrs["created"]
    load_moments(Leaf(str(path), "run", "test", "last_hidden", created), 1, cache=True)
    return path


def values(run: Any) -> Values:
    """Read everything that a compaction may change."""
    return {
        (split, layer): run.dataset(split, layer).activations.to_numpy()
        for split in run.splits
        for layer in run.layers(split)
    }


def rounded(exact: Values, keep_bits: int) -> Values:
    return {key: round_mantissa(x, keep_bits) for key, x in exact.items()}


def same(one: Values, other: Values) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


# ---------------------------------------------------------------- what it does


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
def test_a_compaction_on_a_full_disk_leaves_a_run_as_it_was(
    store: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before = values(actstore.open(store)["run"])
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
        with pytest.raises(StoreWriteError, match=r"No space left on device.*its epochs are whole"):
            list(compact(actstore.open(store).sel(run="run"), keep_bits=10))
    assert same(values(actstore.open(store)["run"]), before)
    left = list(store.rglob("activations/c.*"))
    assert len(left) == step
    assert [one.kind for one in verify(store)] == ["leftover"] * len(left)
    list(compact(actstore.open(store), keep_bits=10))
    assert same(values(actstore.open(store)["run"]), rounded(before, 10))
    assert verify(store, deep=True) == []


def test_who_opened_a_run_before_it_was_compacted_is_told_to_open_it_again(store: Path) -> None:
    opened = actstore.open(store)["run"].dataset().activations
    list(compact(actstore.open(store), keep_bits=10))
    with pytest.raises(NotInStoreError, match="was rewritten after it was opened; open the store"):
        opened.compute()


def test_a_check_beside_a_compaction_finds_no_damage(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_large = run_check.check_large

    def after_a_compaction(run: Any, path: str) -> Any:
        monkeypatch.setattr(run_check, "check_large", check_large)
        list(compact(actstore.open(store).sel(run="run"), keep_bits=10))
        return check_large(run, path)

    monkeypatch.setattr(run_check, "check_large", after_a_compaction)
    assert verify(store) == []
    assert actstore.open(store)["run"].attrs["keep_bits"] == 10


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


# ---------------------------------------------------------------- in one step


def epoch_of(epoch: int) -> Values:
    """Return what a run of the shape holds at an epoch."""
    splits = one_epoch(epoch, **SHAPE)["activations"].items()
    return {(split, layer): x[None] for split, layers in splits for layer, x in layers.items()}


OLD = epoch_of(0)
NEW = rounded(OLD, 4)


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compactions not measure what they change, which takes longest."""
    monkeypatch.setattr(compaction, "measure", lambda blocks, keep_bits: Change())


def state(store: Path | str) -> str:
    """Return whether a run that is opened now is the old one or the new one, wholly."""
    run = actstore.open(store).only()
    told = "new" if run.attrs.get("keep_bits") == 4 else "old"
    assert same(values(run), {"old": OLD, "new": NEW}[told])
    assert [one for one in verify(store, deep=True) if not one.harmless] == []
    return told


def dying(monkeypatch: pytest.MonkeyPatch, module: Any, names: str, changes: int) -> list[int]:
    """Let the process end, as it were, before its next change after so many; return a counter."""
    done, unlink = [0], os.unlink

    def guarded(change: Call) -> Call:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if change is unlink and not os.path.lexists(arguments[0]):
                return change(*arguments, **keywords)  # of a temporary file that has its name
            if done[0] >= changes:
                raise OSError(5, "the process has ended")
            done[0] += 1
            return change(*arguments, **keywords)

        return call

    for name in names.split():
        monkeypatch.setattr(module, name, guarded(getattr(module, name)))
    return done


def stopped(
    store: Path | str, monkeypatch: pytest.MonkeyPatch, module: Any, names: str, changes: int
) -> tuple[str, bool]:
    """Stop a compaction before a change; return what is left, and whether it had come to its end.

    Who opened the run before has read nothing yet: what was there then, or to open it again.
    """
    before = actstore.open(store).only()
    with monkeypatch.context() as patch:
        count = dying(patch, module, names, changes)
        try:
            list(compact(actstore.open(store), keep_bits=4))
        except (OSError, remote.exceptions.GenericError):
            assert count[0] == changes
    left = state(store)
    try:
        assert same(values(before), OLD)
    except NotInStoreError:
        assert left == "new"
    return left, count[0] < changes


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_compaction_that_ends_between_any_two_changes_leaves_a_run_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(schema, "now", lambda: "2026-01-01T00:00:00+00:00")
    kept = record(tmp_path / "kept", epochs=(0,), slots=2, complete=False, **SHAPE)
    actstore.open(kept).moments(cache=True).compute(scheduler="synchronous")
    means = {n: x["test", "last_hidden"].mean(1, "f8") for n, x in (("old", OLD), ("new", NEW))}
    done = Path(shutil.copytree(kept, tmp_path / "done"))
    list(compact(actstore.open(done), keep_bits=4))
    whole = every_byte(done)
    seen = []
    for changes in range(0, 1000, step):
        store = Path(shutil.copytree(kept, tmp_path / f"s{changes}"))
        left, finished = stopped(store, monkeypatch, os, "replace link unlink", changes)
        seen.append(left)
        for split in ("train", "test"):  # another reader finds every array whole
            for layer in ("last_hidden", "block"):
                plain: Any = zarr.open_array(f"{store}/run/{split}/{layer}/activations", mode="r")
                found = {(split, layer): plain[:1]}
                assert any(same(found, {(split, layer): x[split, layer]}) for x in (OLD, NEW))
        copy = Path(shutil.copytree(store, tmp_path / "copy"))  # to which moments may be written
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StoreWarning)  # that the cache is of earlier values
            mean = actstore.open(copy).moments(cache=True)["mean"].to_numpy()[0]
        assert np.allclose(mean, means[left], rtol=0, atol=1e-12)
        shutil.rmtree(copy)
        if changes % 3 == 0:
            list(compact(actstore.open(store), keep_bits=4))
            assert every_byte(store) == whole
        elif changes % 3 == 1:
            assert repair(store) == []
            assert state(store) == left
        else:
            writer = RunWriter.append(store, "run")
            writer.write(7, **one_epoch(7, **SHAPE))
            writer.close(complete=True)
            found = values(actstore.open(store).only())
            first, later = {"old": (OLD, epoch_of(7)), "new": (NEW, rounded(epoch_of(7), 4))}[left]
            assert same({k: x[:1] for k, x in found.items()}, first)
            assert same({k: x[1:] for k, x in found.items()}, later)
        shutil.rmtree(store)
        if finished:
            break
    assert seen == sorted(seen, reverse=True)  # old until the step, new from it on
    assert seen.count("old") * step > 4  # each of the arrays
    assert seen.count("new") * step > 10  # their documents, moments and old values


@pytest.mark.usefixtures("_unmeasured")
def test_a_compaction_of_a_bucket_that_ends_between_any_two_requests_leaves_a_run_that_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In memory: the same code without a server's time."""
    names, seen = "put put_async delete delete_async", []
    for changes in range(1000):
        url = f"memory://compacted{changes}"
        record(url, epochs=(0,), **SHAPE)  # type: ignore[arg-type]
        left, finished = stopped(url, monkeypatch, remote.obstore, names, changes)
        seen.append(left)
        if changes % 2:
            assert repair(url) == []
            assert state(url) == left
        list(compact(actstore.open(url), keep_bits=4))
        assert state(url) == "new"
        assert verify(url, deep=True) == []
        if finished:
            break
    assert seen == sorted(seen, reverse=True)
    assert {"old", "new"} <= set(seen)


def test_a_compaction_killed_anywhere_leaves_a_run_that_is_whole() -> None:
    """The short form of ``python -m benchmarks.crash_campaign --only compaction``."""
    arguments = ["--only", "compaction", "--step", "23", "--kills", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash_campaign", *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = re.search(r"^(\d+) kills in .*: nothing lost$", result.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 5


_KILLS = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import actstore
from actstore.storage import compaction, remote
from actstore.storage.compaction import compact
from actstore.storage.precision import Change
from actstore.storage.verify import verify
from tests.killed import apart, done
from tests.recordings import record
from tests.test_compaction import OLD, SHAPE, rounded, same, values
url = sys.argv[2]
compaction.measure = lambda blocks, keep_bits: Change()  # takes longest

def killed(changes, keep_bits):
    left = [changes]
    def guarded(change):
        def call(*arguments, **keywords):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return change(*arguments, **keywords)
        return call
    for name in ("put", "put_async", "delete", "delete_async"):
        setattr(remote.obstore, name, guarded(getattr(remote.obstore, name)))
    list(compact(actstore.open(url), keep_bits=keep_bits))

def check(old, new):
    run = actstore.open(url).only()
    bits = run.attrs.get("keep_bits", 23)
    assert bits in (old, new)
    exact = OLD
    for once in range(22, bits - 1, -1):  # one bit after another is not the same as all at once
        exact = rounded(exact, once)
    assert same(values(run), exact), (old, new, bits)
    return bits

def begin():
    record(url, epochs=(0,), **SHAPE)

def finish(keep_bits):
    list(compact(actstore.open(url), keep_bits=keep_bits))
    assert verify(url) == []

done(apart(begin))
bits = 23
for changes in map(int, sys.argv[3:]):
    code = done(apart(killed, changes, bits - 1))
    found = done(apart(check, bits, bits - 1))
    done(apart(finish, bits - 1))
    print(changes, code == -signal.SIGKILL, "new" if found < bits else "old")
    bits -= 1
"""


# the lock, four arrays with one epoch, the step, …
@pytest.mark.parametrize("changes", [(5, 6), pytest.param(range(12), marks=pytest.mark.slow)])
def test_a_compaction_killed_between_two_requests_leaves_a_run_on_a_server_that_is_whole(
    bucket: Server, tmp_path: Path, changes: Sequence[int]
) -> None:
    url = f"s3://{BUCKET}/{tmp_path.name}/runs.zarr"
    with wire_to(bucket) as wire:
        result = subprocess.run(
            [sys.executable, "-c", _KILLS, str(ROOT), url, *map(str, changes)],
            capture_output=True, text=True, env={**os.environ, **wire.environment},
        )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    expected = [[str(n), "True", "old" if n < 6 else "new"] for n in changes]
    assert lines == expected, result.stdout
