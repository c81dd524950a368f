"""What is removed is gone at once and altogether; nothing else changes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actstore.cli import actstore as command
from click.testing import CliRunner

import actstore
from actstore.errors import NotInStoreError, RunLockedError
from actstore.storage.removal import plan_removal, remove
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import every_byte, one_epoch, record

Call = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, recorded: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "s"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("removal") / "s"
    for seed in range(3):
        record(path, f"run{seed}", seed=seed, decay=0.1 * (seed > 0))
    return path


def test_a_dry_run_names_all_and_changes_nothing(store: Path, cli: Call) -> None:
    before = every_byte(store)
    answer = cli("rm", store, "--where", "decay=0.1", "--dry-run")
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.out.splitlines()] == ["run1", "run2"]
    assert "would be removed" in answer.err
    assert every_byte(store) == before


def test_a_removed_run_is_gone_and_the_others_are_as_they_were(store: Path, cli: Call) -> None:
    before = {k: v for k, v in every_byte(store).items() if not k.startswith("run1/")}
    answer = cli("rm", store, "--seed", 1, "--yes")
    assert answer.code == 0, answer.err
    assert every_byte(store) == before
    assert list(actstore.open(store)) == ["run0", "run2"]
    record(store, "run1", seed=1)
    assert len(actstore.open(store)) == 3


def test_removed_epochs_are_gone_from_every_selected_run(store: Path, cli: Call) -> None:
    answer = cli("rm", store, "--where", "decay=0.1", "--epoch", "0,5", "--yes")
    assert answer.code == 0, answer.err
    opened = actstore.open(store)
    assert [run.epochs.tolist() for run in opened.values()] == [[0, 5, 10], [10], [10]]
    last = one_epoch(10, seed=1)["activations"]["test"]["last_hidden"]
    assert np.array_equal(opened["run1"].dataset().activations[0], last)
    assert verify(store, deep=True) == []


def test_bytes_that_are_announced_are_those_that_are_freed(store: Path) -> None:
    opened = actstore.open(store).sel(run="run0")
    (planned,) = plan_removal(opened, whole=True)
    before = sum(map(len, every_byte(store).values()))
    remove(opened, whole=True)
    assert before - sum(map(len, every_byte(store).values())) == planned.bytes


@pytest.mark.parametrize("answer", ["n", "", "y"])
def test_nothing_goes_without_a_yes(store: Path, answer: str) -> None:
    before = every_byte(store)
    result = CliRunner().invoke(command, ["rm", str(store), "--all"], input=f"{answer}\n")
    assert (result.exit_code == 0) == (answer == "y")
    assert (every_byte(store) == before) == (answer != "y")
    assert len(actstore.open(store)) == (0 if answer == "y" else 3)
    assert ("nothing removed" in result.output) == (answer != "y")
    assert "interrupted" not in result.output


def test_a_selection_must_be_given_and_be_there(store: Path, cli: Call) -> None:
    assert cli("rm", store, "--yes").code == 2
    answer = cli("rm", store, "--width", 9, "--yes")
    assert (answer.code, "no run of width 9" in answer.err) == (1, True)
    answer = cli("rm", store, "--epoch", 7, "--yes")
    assert (answer.code, "no epoch 7" in answer.err) == (1, True)
    assert len(actstore.open(store)) == 3


def test_a_run_that_is_being_written_stays_and_so_do_the_others(store: Path) -> None:
    record(store, "open", seed=9, slots=5, complete=False)
    writer = RunWriter.append(store, "open")
    before = every_byte(store)
    for whole in (True, False):
        with pytest.raises(RunLockedError, match=f"being written by process {os.getpid()}"):
            remove(actstore.open(store), whole=whole)
    assert every_byte(store) == before
    writer.close(complete=False)
    opened = actstore.open(store)
    remove(opened, whole=True)
    with pytest.raises(NotInStoreError, match="another process removed it"):
        remove(opened, whole=True)
