"""A writer that is killed leaves the epochs before it, whole, and nothing else to be seen."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, every_byte, one_epoch, record

ROOT = Path(__file__).parents[1]


def test_a_writer_killed_anywhere_loses_nothing_that_was_committed() -> None:
    """The short form of ``python -m benchmarks.crash_campaign``."""
    arguments = ["--only", "splits", "--step", "37", "--kills", "3"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash_campaign", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = re.search(r"^(\d+) kills in .*: nothing lost$", result.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 15


def killed_in(method: str, store: Path, *, epoch: int = 10, of: str = "activations") -> None:
    """Resume the run in another process, which is killed as it enters a method."""
    recorded = {"activations": "recordings", "moments": "test_moments_only_store"}[of]
    function = {"activations": "one_epoch", "moments": "epoch_of_moments"}[of]
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.{recorded} import {function}
from actstore.storage.local import LocalFiles
from actstore.storage.run_arrays import RunArrays
from actstore.storage.writer import RunWriter
writer = RunWriter.append({str(store)!r}, "run")
def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)
{method} = die
epoch = {function}({epoch})
epoch["metrics"] = {{"of_the_dead": 1.0, "test_loss": 7.0}}
writer.write({epoch}, **epoch)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return record(tmp_path / "s", epochs=(0, 5), slots=4, complete=False)


@pytest.mark.parametrize("method", ["RunArrays.write_readout", "RunArrays.write_metrics"])
def test_an_epoch_killed_before_its_marker_is_not_seen_and_its_slot_is_used_again(
    store: Path, method: str
) -> None:
    killed_in(method, store)
    assert actstore.open(store).only().epochs.tolist() == [0, 5]
    writer = RunWriter.append(store, "run")
    writer.write(12, **one_epoch(12))
    writer.close(complete=True)
    run = actstore.open(store).only()
    assert run.epochs.tolist() == [0, 5, 12]
    expected = one_epoch(12)
    assert np.array_equal(
        run.dataset().activations[-1], expected["activations"]["test"]["last_hidden"]
    )
    assert not verify(store, deep=True)


def test_metrics_of_a_killed_epoch_do_not_reappear(store: Path) -> None:
    killed_in(
        "LocalFiles.sync", store
    )  # the first thing after the metrics: bringing them to the disk
    assert float(actstore.open(store).only().metrics().test_loss[-1]) != 7.0
    assert [finding.kind for finding in verify(store)] == ["leftover", "leftover"]
    writer = RunWriter.append(store, "run")
    writer.write(12, **{**one_epoch(12), "metrics": {"train_error": 0.5}})
    metrics = actstore.open(store).only().metrics()
    assert float(metrics.train_error[-1]) == 0.5
    assert np.isnan(float(metrics.test_loss[-1]))
    assert "of_the_dead" not in metrics or np.isnan(metrics.of_the_dead).all()


def test_repair_rolls_a_killed_epoch_back_byte_for_byte(store: Path) -> None:
    before = every_byte(store)
    killed_in("RunArrays.write_metrics", store)
    assert every_byte(store) != before
    assert repair(store, deep=True) == []
    assert every_byte(store) == before


def test_a_run_killed_before_its_first_epoch_is_continued(tmp_path: Path) -> None:
    store = tmp_path / "s"
    writer = RunWriter.create(store, "run", slots=2, attributes=attributes())
    writer.close(complete=False)
    killed_in("RunArrays.write_readout", store)
    assert actstore.open(store).only().splits == ()
    writer = RunWriter.append(store, "run")
    # other splits than the killed attempt had: nothing of that is left
    writer.write(0, **one_epoch(0, splits={"valid": 9}))
    writer.close(complete=True)
    assert actstore.open(store).only().splits == ("valid",)
    assert not verify(store, deep=True)


def test_a_living_writer_is_no_finding(tmp_path: Path) -> None:
    store = tmp_path / "s"
    writer = RunWriter.create(store, "run", slots=2, attributes=attributes())
    writer.write(0, **one_epoch(0))
    (store / "run/epoch/c/0.partial").write_bytes(b"being written")
    assert verify(store, deep=True) == []
    writer.close(complete=False)
    assert [finding.path for finding in verify(store)] == ["run/epoch/c/0.partial"]
