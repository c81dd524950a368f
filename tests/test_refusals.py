"""Whatever the disk refuses is one clear sentence, and the store stays as it was."""

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore import errors
from actstore.errors import ActstoreError, StoreNotFoundError, StoreWarning, StoreWriteError
from actstore.report import page
from actstore.storage.compaction import compact
from actstore.storage.exporting import export
from actstore.storage.importing import import_run
from actstore.storage.location import files_at
from actstore.storage.merging import merge
from actstore.storage.removal import remove
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, every_byte, one_epoch, record

ROOT = Path(__file__).parents[1]
BIG: Any = {"splits": {"test": 1000}, "layers": {"last_hidden": 30}}  # 120 kB an epoch
NOBODY = 65534


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of 1 MB; skip the test without the right to."""
    folder.mkdir()
    mounted = False
    if sys.platform == "linux" and os.geteuid() == 0:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("no right to mount a small file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def write_all(writer: RunWriter, epochs: Iterable[int]) -> None:
    for epoch in epochs:
        writer.write(epoch, **one_epoch(epoch, **BIG))


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass
    return filler


def test_a_full_disk_stops_the_run_and_keeps_what_was_recorded(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        store = tmp_path / "disk" / "s"
        writer = RunWriter.create(store, "run", slots=99, attributes=attributes(width=30))
        with pytest.raises(StoreWriteError, match="No space left on device") as found:
            write_all(writer, range(99))
        epoch = len(writer.committed)
        assert f"the {epoch} epochs before it are intact" in str(found.value)
        assert epoch >= 4
        run = actstore.open(store).only()
        assert run.epochs.tolist() == list(range(epoch))
        for one in range(epoch):
            x = one_epoch(one, **BIG)["activations"]["test"]["last_hidden"]
            assert np.array_equal(run.dataset().activations[one], x)
        assert all(one.harmless for one in verify(store, deep=True))

        writer.close(complete=False)
        filler = fill(tmp_path / "disk")
        before = every_byte(store)
        small: Any = {"test": {"last_hidden": [np.ones((9, 4), "f4")]}}
        other = record(tmp_path / "other", "b")
        for refused in (
            lambda: import_run(store, small, epochs=[0]),
            lambda: merge(store, [other]),
            lambda: list(compact(actstore.open(store), keep_bits=10)),
            lambda: export(
                actstore.open(store).sel(run="run", epoch=-1), tmp_path / "disk" / "x.npy"
            ),
        ):
            with pytest.raises(StoreWriteError) as full:
                refused()
            assert str(full.value).count("\n") == 0
            assert actstore.open(store)["run"].epochs.tolist() == list(range(epoch))
        kept = {k: v for k, v in every_byte(store).items() if k in before}
        assert kept == before
        assert all(one.harmless for one in verify(store, deep=True))

        filler.unlink()
        remove(actstore.open(store).sel(run="run", epoch=0), whole=False)  # makes room
        writer = RunWriter.append(store, "run")
        writer.write(200, **one_epoch(200, **BIG))
        writer.close(complete=False)
        assert repair(store, deep=True) == []


def test_a_file_that_may_not_grow_stops_the_run_and_keeps_what_was_recorded(
    tmp_path: Path,
) -> None:
    """A quota, as far as every user can set one: no file may be larger than 50 kB."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.recordings import attributes, one_epoch
from actstore.storage.writer import RunWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = RunWriter.create({str(tmp_path / "s")!r}, "run", slots=3, attributes=attributes(width=30))
big = dict(splits={{"test": 1000}}, layers={{"last_hidden": 30}})
writer.write(0, **one_epoch(0, **big))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    writer.write(1, **one_epoch(1, **big))
except OSError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "StoreWriteError epoch 1 of run 'run' could not be written" in done.stdout
    assert "File too large" in done.stdout
    assert "the 1 epochs before it are intact" in done.stdout
    assert actstore.open(tmp_path / "s").only().epochs.tolist() == [0]
    assert all(one.harmless for one in verify(tmp_path / "s", deep=True))


@pytest.mark.parametrize("committed", [0, 2])
def test_a_folder_that_vanishes_is_not_made_anew(tmp_path: Path, committed: int) -> None:
    store = tmp_path / "s"
    writer = RunWriter.create(store, "run", slots=9, attributes=attributes())
    for epoch in range(committed):
        writer.write(epoch, **one_epoch(epoch))
    opened = actstore.open(store)
    store.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreWriteError, match="the folder of the run is gone"):
        writer.write(7, **one_epoch(7))
    assert not store.exists()
    if committed:
        with pytest.raises(ActstoreError):
            opened.only().dataset().activations.compute()
    with pytest.raises(StoreNotFoundError):
        actstore.open(store)
    (tmp_path / "elsewhere").rename(store)
    writer.write(7, **one_epoch(7))
    writer.close(complete=False)
    assert actstore.open(store).only().epochs.tolist() == [*range(committed), 7]
    assert verify(store, deep=True) == []


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """Make a folder that others may enter, with a store that they may read and not write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    record(folder / "s")
    record(folder / "unfinished", slots=9, complete=False)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=True)
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the right of root to enter any folder."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


READ_ONLY = """
import os, sys, warnings
sys.path.insert(0, {root!r})
import numpy as np
import actstore
from actstore.storage.compaction import compact
from actstore.storage.exporting import export
from actstore.storage.importing import import_run
from actstore.storage.merging import merge
from actstore.storage.removal import remove
from actstore.storage.writer import RunWriter
from tests.recordings import attributes
small = {{"test": {{"last_hidden": [np.ones((9, 4), "f4")]}}}}

def attempt_all(folder):
    store, unfinished = folder + "/s", folder + "/unfinished"
    for attempt in (
        lambda: RunWriter.append(unfinished, "run"),
        lambda: RunWriter.create(store, "new", slots=1, attributes=attributes()),
        lambda: RunWriter.create(folder + "/new", "new", slots=1, attributes=attributes()),
        lambda: import_run(store, small, epochs=[0]),
        lambda: merge(unfinished, [store], existing="overwrite"),
        lambda: list(compact(actstore.open(store), keep_bits=10)),
        lambda: export(actstore.open(store).sel(epoch=-1, run="run"), folder + "/x.npy"),
        lambda: remove(actstore.open(store).sel(epoch=0), whole=False),
        lambda: remove(actstore.open(store), whole=True),
    ):
        try:
            attempt()
            yield "nothing was refused"
        except OSError as error:
            yield f"{{type(error).__name__}} {{error}}"

def ask(folder):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = actstore.open(folder + "/s").moments(cache=True).compute(scheduler="synchronous")
    return "answer", float(found["count"].sum()), *[w.message for w in told]

ask({copy!r})  # loads every module: the next user may not be allowed to
list(attempt_all({copy!r}))
if os.geteuid() == 0:
    os.setgroups([])
    os.setegid({nobody})
    os.seteuid({nobody})
print(*attempt_all({folder!r}), sep="\\n")
print(*ask({folder!r}))
"""


def test_who_may_only_read_is_refused_in_a_sentence_and_gets_answers(
    unreadable: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(unreadable, tmp_path / "copy")
    before = every_byte(unreadable)
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", str(unreadable)], check=True)
    code = READ_ONLY.format(root=str(ROOT), folder=str(unreadable), copy=str(copy), nobody=NOBODY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *refused, answer = done.stdout.splitlines()
    assert len(refused) == 9
    for line in refused:
        assert line.startswith("StoreWriteError "), line
        assert "Permission denied" in line
    assert answer.startswith("answer ")
    assert "are not cached (Permission denied)" in answer
    assert every_byte(unreadable) == before


def test_a_store_that_may_not_be_entered_is_refused_in_a_sentence(unreadable: Path) -> None:
    actstore.open(unreadable / "s")  # loads every module: the next user may not be allowed to
    (unreadable / "s").chmod(0)
    with as_nobody(), pytest.raises(StoreNotFoundError, match="permissions"):
        actstore.open(unreadable / "s")


def test_an_answer_is_not_stopped_by_a_cache_that_finds_no_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        store = record(tmp_path / "disk" / "s", splits={"test": 100}, layers={"last_hidden": 40})
        fill(tmp_path / "disk")
        before = every_byte(store)
        with pytest.warns(StoreWarning, match=r"are not cached \(No space left on device\)"):
            found = actstore.open(store).moments(cache=True).compute(scheduler="synchronous")
        assert float(found["count"].min()) == 100
        assert {k: v for k, v in every_byte(store).items() if k in before} == before


@pytest.mark.parametrize("suffix", [".nc", ".npy", ".parquet", ".zarr"])
def test_an_export_that_finds_no_room_says_so_in_a_line_and_leaves_nothing(
    tmp_path: Path, suffix: str
) -> None:
    store = actstore.open(record(tmp_path / "s", **BIG)).sel(epoch=-1)
    with small_disk(tmp_path / "disk"):
        filler = fill(tmp_path / "disk")
        os.truncate(filler, filler.stat().st_size - 50_000)
        with pytest.raises(StoreWriteError, match=r"\(No space left on device\)") as told:
            export(store, tmp_path / "disk" / f"x{suffix}")
        assert "\n" not in str(told.value)
        assert list((tmp_path / "disk").iterdir()) == [filler]


# ---------------------------------------------------------------- passwords in URLs


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("no 'sftp://ada:secret@host:22/x'", "no 'sftp://ada:***@host:22/x'"),
        ("s3://key:sec/re@t@bucket/x", "s3://key:***@bucket/x"),
        ("zip://a::sftp://ada:secret@h/f.zip", "zip://a::sftp://ada:***@h/f.zip"),
        ("'sftp:/u:secret@h/x', a Path", "'sftp:/u:***@h/x', a Path"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("tcp://127.0.0.1:8786 of a@b", "tcp://127.0.0.1:8786 of a@b"),
        ("sftp://ada@host/x", "sftp://ada@host/x"),
        ("C:/x/y:z", "C:/x/y:z"),
    ],
)
def test_errors_name_urls_without_their_passwords(said: str, named: str) -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ActstoreError | StoreWarning)
    ]
    assert len(kinds) > 15
    for kind in kinds:
        assert str(kind(said)) == named
        assert str(pickle.loads(pickle.dumps(kind(said)))) == named


@pytest.mark.parametrize("url", ["ftp://ada:secret@127.0.0.1:1/s", "sftp://ada:secret/x@h/s"])
@pytest.mark.parametrize(
    "call",
    [
        actstore.open,
        verify,
        lambda url: merge(url, [f"{url}2"]),
        lambda url: export(actstore.open(url), f"{url}/x.npy"),
        lambda url: files_at(Path(url)),
    ],
)
def test_no_refusal_of_a_server_repeats_the_password_of_its_url(call: Any, url: str) -> None:
    with pytest.raises(ActstoreError) as told:
        call(url)
    assert "secret" not in str(told.value)
    assert "ada" in str(told.value)


def test_a_store_in_a_notebook_and_in_a_report_is_named_without_its_password(
    planted: actstore.Store,
) -> None:
    store = planted.narrow(lambda run: run)
    store.path = "sftp://ada:secret@host/runs.zarr"
    for shown in (repr(store), store._repr_html_(), str(page._summary(store))):
        assert "ada:***@host" in shown
        assert "secret" not in shown
