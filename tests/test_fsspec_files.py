"""A store at any URL that fsspec opens is read as on a disk, and written where that is safe."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

import actstore
from actstore.errors import (
    InvalidParameterError,
    MissingExtraError,
    RunLockedError,
    StoreNotFoundError,
    StoreUnreachableError,
    StoreWarning,
    StoreWriteError,
)
from actstore.storage import lock
from actstore.storage.files import Files
from actstore.storage.location import files_at
from actstore.storage.merging import merge
from actstore.storage.removal import remove
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .command_line import Answer
from .killed import killed_again_and_again
from .recordings import attributes, every_byte, one_epoch, record
from .servers import PASSWORD, SftpServer, deaf_port, web_server

SHARDED: dict[str, Any] = {"splits": {"test": 2100}, "layers": {"last_hidden": 260}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    one = SftpServer(tmp_path_factory.mktemp("sftp"))
    yield one
    one.stop()


@pytest.fixture
def url(server: SftpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where a store may be made over SFTP."""
    monkeypatch.setenv("FSSPEC_SFTP_PASSWORD", PASSWORD)
    monkeypatch.setitem(fsspec.config.conf, "sftp", {"password": PASSWORD})  # as a new process does
    return f"{server.url}/{tmp_path.name}/new/runs.zarr"


def on_the_server(server: SftpServer, url: str) -> Path:
    return server.folder / url.removeprefix(f"{server.url}/")


# ---------------------------------------------------------------- SFTP, to read and to write


def test_over_sftp_a_store_holds_the_same_files_as_on_a_disk_byte_for_byte(
    server: SftpServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actstore.schema, "now", lambda: "2026-01-01T00:00:00+00:00")
    local = record(tmp_path / "s", **SHARDED)
    record(url, **SHARDED)  # type: ignore[arg-type]
    assert every_byte(on_the_server(server, url)) == every_byte(local)
    assert verify(url, deep=True) == []
    one, other = actstore.open(url), actstore.open(local)
    assert one.runs.equals(other.runs)
    assert np.array_equal(one.only().dataset().activations, other.only().dataset().activations)
    asked = one.reconstruction(subsets=2).compute()
    np.testing.assert_allclose(asked.r2, other.reconstruction(subsets=2).compute().r2, atol=1e-14)
    assert one.explain("spectrum").cached_epochs == 3  # moments are kept there


def test_over_sftp_stores_are_merged_and_runs_and_epochs_removed(
    server: SftpServer, url: str, tmp_path: Path
) -> None:
    merge(url, [record(tmp_path / "a", "a"), record(tmp_path / "b", "b", seed=1)])
    remove(actstore.open(url).sel(run="a", epoch=5), whole=False)
    remove(actstore.open(url).sel(run="b"), whole=True)
    assert actstore.open(url)["a"].epochs.tolist() == [0, 10]
    assert {path.name for path in on_the_server(server, url).iterdir()} == {"a", "zarr.json"}
    assert verify(url, deep=True) == repair(url) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["append", "overwrite"])
def test_over_sftp_a_writer_that_is_killed_leaves_whole_epochs(
    server: SftpServer, url: str, kind: str
) -> None:
    killed_again_and_again(kind, url, 20, {"FSSPEC_SFTP_PASSWORD": PASSWORD})
    assert actstore.open(url).only().complete
    assert [one for one in verify(url, deep=True) if not one.harmless] == []
    assert not list(on_the_server(server, url).rglob("*.partial"))


def test_over_sftp_a_run_has_one_writer_and_a_lock_left_over_is_taken_by_one(url: str) -> None:
    writer = RunWriter.create(url, "run", slots=2, attributes=attributes())
    writer.write(0, **one_epoch(0))
    with pytest.raises(RunLockedError, match="already open for writing in this process"):
        RunWriter.append(url, "run")
    files, key = files_at(url), lock.lock_key("run")
    held, age = files.seen(key)
    assert age < 60
    files.touch(key)
    writer.close(complete=False)
    assert not files.has(key)
    files.put(key, [held])  # of a claim that this process gave up
    RunWriter.append(url, "run").close(complete=False)

    files.put(key, [b"left over"])

    def another_is_first(found: bytes, age: float) -> None:
        if found == b"left over":
            files.put(key, [b"another's"])
        else:
            raise RunLockedError(found.decode())

    with pytest.raises(RunLockedError, match="another's"):
        files.claim(key, b"mine", another_is_first)
    assert files.read(key) == b"another's"


def test_over_sftp_a_file_is_created_once(url: str) -> None:
    files = files_at(url)
    files.create("a/b", b"first")
    with pytest.raises(FileExistsError):
        files.create("a/b", b"second")
    assert files.read("a/b") == b"first"
    assert list(files.sizes("")) == ["a/b"]


def test_a_connection_that_was_lost_is_opened_again_and_a_server_that_is_gone_is_told(
    server: SftpServer, url: str
) -> None:
    writer = RunWriter.create(url, "run", slots=4, attributes=attributes())
    writer.write(0, **one_epoch(0))
    server.stop()
    with pytest.raises(StoreWriteError, match="1 epochs before it are intact"):
        writer.write(1, **one_epoch(1))
    with pytest.raises(StoreUnreachableError, match="check the URL, the credentials"):
        actstore.open(url)
    server.start()
    writer.write(1, **one_epoch(1))
    writer.close(complete=True)
    assert actstore.open(url).only().epochs.tolist() == [0, 1]
    assert verify(url, deep=True) == []


# ---------------------------------------------------------------- what can only be read


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return URLs of one store: on the web, in a zip archive, and by a protocol of one's own."""
    store = record(tmp_path / "s=1,2.zarr", **SHARDED)
    record(store, "other=1,2", seed=1)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in sorted(store.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))

    class Mine(DirFileSystem):
        protocol = "mine"

        def __init__(self, **options: Any) -> None:
            super().__init__(path=str(tmp_path), fs=LocalFileSystem(), **options)

    fsspec.register_implementation("mine", Mine, clobber=True)
    with web_server(tmp_path) as web:
        yield {
            "disk": str(store),
            "web": f"{web}/{store.name}",
            "zip": f"zip://{store.name}::{tmp_path}/s.zip",
            "mine": f"mine://{store.name}",
        }


@pytest.mark.parametrize("kind", ["web", "zip", "mine"])
def test_what_can_only_be_read_answers_as_a_disk_and_refuses_to_be_written(
    copies: dict[str, str], kind: str, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    before = every_byte(tmp_path)
    here, there = copies["disk"], copies[kind]
    assert list(actstore.open(there)) == list(actstore.open(here)) == ["other=1,2", "run"]
    assert actstore.open(there).runs.equals(actstore.open(here).runs)
    assert verify(there, deep=True) == []
    ask: dict[str, Any] = {"subsets": 2, "cache": False}
    one, other = (actstore.open(store).sel(run="run", epoch=5) for store in (there, here))
    answer, expected = (
        store.reconstruction(**ask).compute(scheduler="threads") for store in (one, other)
    )
    assert answer.r2.equals(expected.r2)
    with pytest.raises(StoreWriteError, match=r"can be read but not written: .*:// does not"):
        record(there, "new")  # type: ignore[arg-type]
    with pytest.warns(StoreWarning, match=r"are not cached \(it can only be read\)"):
        one.spectrum().compute(scheduler="synchronous")
    assert cli("query", "spectrum", there, "--run", "run", "--no-cache").code == 0
    refused = cli("rm", there, "--run", "run", "--yes")
    assert (refused.code, len(refused.err.splitlines())) == (1, 1)
    assert every_byte(tmp_path) == before
    with pytest.raises(StoreNotFoundError, match="no store at"):
        actstore.open(there.replace("s=1,2.zarr", "nothing"))


def test_damage_is_found_on_the_web_too(copies: dict[str, str]) -> None:
    chunk = next(Path(copies["disk"]).glob("run/test/last_hidden/activations/c/1/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-100])
    assert [Path(one.path).parts[-3] for one in verify(copies["web"], deep=True)] == ["1"]


# ---------------------------------------------------------------- what cannot be opened


def test_an_unknown_scheme_says_what_is_known() -> None:
    with pytest.raises(StoreNotFoundError, match=r"s3://, gs://, az://, sftp:// .* hf://"):
        actstore.open("s4://bucket/prefix")


def test_a_driver_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = {"class": "no_such_driver.of.Mine", "err": "Install it to access mine"}
    monkeypatch.setitem(known_implementations, "absent", absent)
    with pytest.raises(MissingExtraError, match=r"to access mine.*pip install no_such_driver$"):
        actstore.open("absent://x")


def test_what_a_driver_wants_besides_the_url_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks(LocalFileSystem):
        def __init__(self, base_url: str) -> None:
            super().__init__()

    fsspec.register_implementation("asks", Asks, clobber=True)
    with pytest.raises(InvalidParameterError, match=r"base_url.*FSSPEC_ASKS_<OPTION>"):
        actstore.open("asks://there")


def test_credentials_that_are_refused_and_servers_that_are_not_there_are_one_sentence(
    server: SftpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "sftp", {"password": "wrong"})
    monkeypatch.setenv("FSSPEC_SFTP_PASSWORD", "wrong")
    with pytest.raises(StoreUnreachableError, match="Authentication failed"):
        actstore.open(f"{server.url}/x")
    for scheme in ("sftp", "http", "ftp"):
        with deaf_port() as port, pytest.raises(StoreUnreachableError) as told:
            actstore.open(f"{scheme}://127.0.0.1:{port}/x")
        assert "\n" not in str(told.value)


def test_another_process_opens_its_own_connection(url: str) -> None:
    record(url)  # type: ignore[arg-type]
    files: Files = files_at(url, read_only=True)
    assert PASSWORD.encode() not in pickle.dumps(files)
    lazy = actstore.open(url).spectrum(cache=False)
    apart = lazy.compute(scheduler="processes", num_workers=1)
    assert apart.eigenvalue.equals(lazy.compute(scheduler="synchronous").eigenvalue)
