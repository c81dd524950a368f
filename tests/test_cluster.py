"""Queries on worker processes, of a cluster or of the command's own, answer as on threads."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import xarray as xr

import actstore
from actstore.errors import ActstoreError, InvalidParameterError
from actstore.queries.budget import parse_bytes

from .command_line import Answer
from .planted import EPOCHS
from .servers import deaf_port

Call = Callable[..., Answer]
ONE = ("--width", "16", "--where", "weight_decay=0.005")
QUICK = ("--subsets", "4")

QUESTIONS: dict[str, dict[str, Any]] = {
    "clones": {"strategy": "greedy", "subsets": 4},
    "dynamics": {"subsets": 4, "subset_size": [4]},
    "ensemble": {},
    "error": {"subsets": 4, "refit": 1, "error_inf": "ensemble"},
    "moments": {},
    "noise": {"subsets": 4, "repeats": 2, "factors": ["gap", "bic"]},
    "reconstruction": {"subsets": 4, "fit_split": "train", "score_split": "test"},
    "scaling": {"subsets": 4, "error_inf": "ensemble"},
    "spectrum": {},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start two worker processes, in a folder that is not the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        started = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
            memory_limit="1GiB", silence_logs=50,
        )  # fmt: skip
    with started:
        yield started


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    """Connect, so that what this process computes is computed by the workers."""
    with distributed.Client(cluster) as connected:
        yield connected


def assert_same_bits(one: xr.Dataset, other: xr.Dataset) -> None:
    """Compare bits: a task does the same wherever it runs, on one BLAS thread in a fixed order."""
    assert set(one.variables) == set(other.variables)
    for name, variable in one.variables.items():
        assert variable.dtype == other[name].dtype, name
        np.testing.assert_array_equal(variable.values, other[name].values, err_msg=str(name))


def test_every_question_is_asked_here() -> None:
    assert set(QUESTIONS) == set(actstore.queries.__all__)


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_workers_answer_to_the_bit_as_threads_do(
    question: str, planted: actstore.Store, client: Any
) -> None:
    options = QUESTIONS[question]
    widths = [8, 16] if question in ("ensemble", "scaling") else [16]
    chosen = planted.sel(width=widths, epoch=[0, 10] if question == "dynamics" else -1)
    # in one graph, as dask.compute does it; the next test asks by .compute()
    on_workers = client.compute(getattr(chosen, question)(**options)).result(timeout=120)
    on_threads = getattr(chosen, question)(**options).compute(scheduler="threads")
    assert_same_bits(on_workers, on_threads)


def test_workers_in_another_folder_find_the_store_and_keep_moments_in_it(
    fresh: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = client.run(os.getcwd).values()
    monkeypatch.chdir(fresh.parent)
    assert str(fresh.parent) not in folders
    store = actstore.open(fresh.name).sel(width=16, weight_decay=0.005, seed=0)
    assert store.explain("spectrum").cached_epochs == 0
    store.error(subsets=2).compute()  # reads samples
    store.spectrum(cache=True).compute()  # reads moments
    assert store.explain("spectrum").cached_epochs == len(EPOCHS)


def test_an_answer_is_the_same_after_a_worker_was_killed_in_the_middle(
    fresh: Path, cluster: Any, client: Any
) -> None:
    """Moments that the killed worker was writing into the cache are not believed either."""
    store = actstore.open(fresh).sel(width=16, seed=0)
    ask: dict[str, Any] = {"subsets": 4, "repeats": 40}
    expected = store.noise(**ask, cache=False).compute(scheduler="threads")
    before = set(client.run(os.getpid).values())
    future = client.compute(store.noise(**ask, cache=True))
    while not (any(client.processing().values()) or future.done()):
        time.sleep(0.01)
    os.kill(min(before), signal.SIGKILL)
    assert not future.done()
    assert_same_bits(future.result(timeout=120), expected)
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(os.getpid).values()) != before
    assert_same_bits(store.noise(**ask, cache=True).compute(scheduler="threads"), expected)


def test_a_bar_follows_a_cluster_to_the_end(
    planted: actstore.Store, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actstore.cli import cluster_progress

    monkeypatch.setattr(cluster_progress, "INTERVAL", 0.05)
    lazy = planted.sel(width=16).noise(subsets=4, repeats=40, cache=False)
    told: list[tuple[int, int]] = []
    with cluster_progress.followed(lambda done, of: told.append((done, of))):
        answer = lazy.compute()
    assert told
    assert all(0 <= done <= of for done, of in told)
    assert [of for _, of in told] == sorted(of for _, of in told)
    assert told[-1][0] > told[0][0]
    assert_same_bits(answer, lazy.compute(scheduler="threads"))


def test_the_bar_of_a_notebook_follows_a_cluster_to_the_end(
    planted: actstore.Store, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lazy = planted.sel(width=16).spectrum(cache=False)
    with actstore.progress():
        answer = lazy.compute()
    assert "100% Completed" in capsys.readouterr().out
    assert_same_bits(answer, lazy.compute(scheduler="threads"))


# the command


def test_the_command_asks_a_running_cluster(planted_path: Path, cluster: Any, cli: Call) -> None:
    ask = ("query", "clones", planted_path, *ONE, *QUICK, "--format", "json")
    answer = cli(*ask, "--scheduler", cluster.scheduler_address)
    assert answer.code == 0, answer.err
    assert answer.json == cli(*ask).json


def test_a_running_cluster_is_explained_by_its_own_workers(
    planted_path: Path, cluster: Any, cli: Call
) -> None:
    ask = ("query", "clones", planted_path, *ONE, *QUICK)
    there = ("--scheduler", cluster.scheduler_address)
    plan = cli(*ask, *there, "--explain", "--format", "json").json
    assert (plan["workers"], plan["processes"]) == (2, 2)
    assert plan["worker_memory"] <= parse_bytes("1GiB")  # what each worker was given
    said = cli(*ask, *there, "--explain").out
    assert "2 worker processes" in said
    refused = cli(*ask, *there, "--memory", "300MiB")
    assert refused.code == 1
    assert "with 2 worker processes" in refused.err


def test_damage_that_a_worker_meets_is_the_error_that_a_thread_meets(
    fresh: Path, cluster: Any, cli: Call
) -> None:
    for chunk in fresh.glob("width=16,weight_decay=0.005,seed=0/test/*/activations/c/2/*/*"):
        chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    ask = ("query", "spectrum", fresh, *ONE, "--seed", "0")
    answer = cli(*ask, "--scheduler", cluster.scheduler_address)
    assert answer.code == 1
    assert answer.err == cli(*ask).err
    assert "cannot be read" in answer.err


def test_a_store_that_the_workers_cannot_see_is_said_to_be_so(
    fresh: Path, cluster: Any, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actstore.queries import explain

    opened = explain.answer_within

    def gone(*args: Any, **options: Any) -> Any:
        answer = opened(*args, **options)
        shutil.move(fresh, fresh.with_name("elsewhere.zarr"))
        return answer

    monkeypatch.setattr(explain, "answer_within", gone)
    answer = cli("query", "spectrum", fresh, *ONE, "--scheduler", cluster.scheduler_address)
    assert answer.code == 1
    assert "by the same path" in answer.err


def test_worker_processes_of_its_own_are_as_many_as_fit(planted_path: Path, cli: Call) -> None:
    """Each takes the program too: what is said of one and of all agrees."""
    ask = ("query", "noise", planted_path, "--width", "16", "--explain", "--format", "json")
    free = cli(*ask, "--workers", "3").json
    assert (free["workers"], free["processes"]) == (3, 3)
    here = free["peak_memory"] - 3 * free["worker_memory"]
    threads = cli(*ask).json
    assert threads["processes"] == 0
    program = free["worker_memory"] - threads["worker_memory"]
    assert here >= program > threads["worker_memory"]
    room = f"{here + 2 * free['worker_memory'] - 1}"
    one = cli(*ask, "--scheduler", "processes", "--memory", room).json
    assert (one["workers"], one["processes"]) == (1, 1)
    assert one["peak_memory"] <= int(room)
    refused = cli(*ask, "--workers", "2", "--memory", room)
    assert refused.code == 1
    assert "with 2 worker processes" in refused.err


def test_an_address_where_nobody_listens_is_one_sentence(planted_path: Path, cli: Call) -> None:
    with deaf_port() as port:
        address = f"tcp://127.0.0.1:{port}"
        answer = cli("query", "moments", planted_path, "--scheduler", address)
    assert answer.code == 1
    assert answer.err.startswith(f"actstore: no dask scheduler answers at '{address}'")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("address", ["head", "http://head:8786", "tcp://no.such.host:8786"])
def test_what_is_no_address_is_one_sentence(address: str, planted_path: Path, cli: Call) -> None:
    answer = cli("query", "moments", planted_path, "--scheduler", address)
    assert (answer.code, len(answer.err.splitlines())) == (1, 1)
    assert f"no dask scheduler answers at {address!r}" in answer.err


def test_a_scheduler_without_workers_says_how_to_start_some(
    planted_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actstore.cli.compute.CONNECT_SECONDS", 0.5)
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty:
        answer = cli("query", "moments", planted_path, "--scheduler", empty.scheduler_address)
    assert answer.code == 1
    assert f"has no workers; start some: dask worker {empty.scheduler_address}" in answer.err


def test_a_cluster_of_another_version_is_refused() -> None:
    from actstore.cli.compute import _check_versions

    class Cluster:
        def run(self, *_: Any) -> dict[str, str]:
            return {"tcp://a:1": actstore.__version__, "tcp://b:1": "0.0.1"}

        def run_on_scheduler(self, *_: Any) -> str:
            return actstore.__version__

    with pytest.raises(ActstoreError, match=r"has actstore 0.0.1, .* and this is"):
        _check_versions(Cluster(), "tcp://a:0")


@pytest.mark.parametrize("where", [("--workers", "2"), ("--scheduler", "tcp://127.0.0.1:8786")])
def test_without_the_extra_it_is_named(
    where: tuple[str, ...], planted_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    answer = cli("query", "moments", planted_path, *where)
    assert answer.code == 1
    assert "pip install 'actstore[distributed]'" in answer.err


def test_threads_of_a_worker_share_its_program(planted: actstore.Store) -> None:
    apart = planted.explain("noise", workers=4, processes=True)
    together = planted.explain("noise", workers=4, processes=True, threads=4)
    assert (apart.processes, together.processes) == (4, 1)
    assert together.peak_memory < apart.peak_memory
    with pytest.raises(InvalidParameterError, match="1 worker process of 4 threads"):
        planted.explain("noise", workers=4, processes=True, threads=4, memory=10**6)
