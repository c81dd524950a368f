"""Fixtures that many tests share."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import actstore

from .bucket import Server
from .command_line import Answer, own_process, run
from .examples import run_example
from .planted import record_planted

# What is started in the background ignores Ctrl-C, and so do all whom it starts: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however long one takes: a busy machine is no failure.
hypothesis.settings.register_profile("actstore", derandomize=True, deadline=None)
hypothesis.settings.load_profile("actstore")


@pytest.fixture(scope="session")
def planted_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a store with known clones, made once; what a test writes stays cached."""
    return record_planted(tmp_path_factory.mktemp("planted") / "planted.zarr")


@pytest.fixture(scope="session")
def planted(planted_path: Path) -> actstore.Store:
    """Open the store with known clones."""
    return actstore.open(planted_path)


@pytest.fixture(scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the example of a training loop of one's own, once; return the store it recorded."""
    path = tmp_path_factory.mktemp("own") / "own.zarr"
    run_example("own_training_loop.py", path)
    return path


@pytest.fixture
def fresh(planted_path: Path, tmp_path: Path) -> Path:
    """Copy the planted store without its cache, for a test that changes it."""
    copy = tmp_path / "fresh.zarr"
    shutil.copytree(planted_path, copy, ignore=shutil.ignore_patterns("moments"))
    return copy


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demonstration once, for real: about a minute."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "demo"
    with (shared / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that test at once, one runs it
        if not (folder / "digits.png").exists():
            folder.mkdir(exist_ok=True)
            answer = own_process("demo", folder, timeout=600)
            assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="session")
def bucket() -> Iterator[Server]:
    """Start an S3 server with a bucket, once."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call the console entry point in this process."""

    def call(*arguments: object) -> Answer:
        return run(capsys, [str(argument) for argument in arguments])

    return call
