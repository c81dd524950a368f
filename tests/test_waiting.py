"""Work that takes longer than two seconds says on a terminal that it goes on, and for how long."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.storage.compaction import compact
from actstore.storage.exporting import export
from actstore.storage.importing import import_run
from actstore.storage.merging import merge
from actstore.storage.removal import remove
from actstore.storage.repair import repair
from actstore.storage.verify import verify

from .planted import EPOCHS, SAMPLES

WORK = """
import sys, time
from actstore.cli.waiting import waiting
with waiting("verifying", after={after}) as told:
    for done in range(1, 9):
        time.sleep(0.15)
        told(done, 8)
print("done")
"""


def on_a_terminal(after: float) -> str:
    """Run the work with stderr on a terminal; return what the terminal was told."""
    ours, theirs = pty.openpty()
    script = WORK.format(after=after)
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=theirs, stdout=subprocess.PIPE, text=True,
        check=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    assert done.stdout == "done\n"
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 1 << 16):
            said += part
    except OSError:  # the other end is closed: all is read
        pass
    os.close(ours)
    return said.decode()


def test_a_bar_with_the_time_left_is_shown_on_a_terminal() -> None:
    said = on_a_terminal(after=0.1)
    assert "verifying" in said
    assert re.search(r"\d%", said)
    assert re.search(r"left\S* .*0:00:0\d", said)


def test_short_work_shows_nothing() -> None:
    assert on_a_terminal(after=60) == ""


def test_verify_tells_how_many_runs_are_done(fresh: Path) -> None:
    told: list[tuple[int, int]] = []
    assert verify(fresh, deep=True, progress=lambda done, of: told.append((done, of))) == []
    parts = len(list(fresh.iterdir()))
    assert told == [(done, parts) for done in range(1, parts + 1)]


class Told(list[tuple[int, int]]):
    """How far a piece of work said that it is."""

    def __call__(self, done: int, of: int) -> None:
        """Note it."""
        self.append((done, of))

    def reached_its_end(self) -> bool:
        """Whether it came to the end of what was known from the beginning, and never went back."""
        return sorted(self) == self and {of for _, of in self} == {self[-1][0]} != {0}


def test_an_import_and_a_merge_tell_how_many_bytes_are_done(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5000, 20)).astype("f4")
    imported, merged = Told(), Told()
    import_run(tmp_path / "s", {"test": {"last_hidden": list(x)}}, epochs=[1, 2, 3],
               progress=imported)  # fmt: skip
    merge(tmp_path / "copy", [tmp_path / "s"], progress=merged)
    for told in (imported, merged):
        assert told.reached_its_end()
        assert len(told) >= 6  # at every epoch
    assert imported[-1][1] == 2 * x.nbytes  # read to be checked, and written
    files = (tmp_path / "s").rglob("*")
    assert merged[-1][0] <= sum(path.stat().st_size for path in files if path.is_file())


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_compaction_tells_how_many_values_are_done(fresh: Path, dry_run: bool) -> None:
    told = Told()
    chosen = actstore.open(fresh).sel(width=[8, 16], seed=0)
    list(compact(chosen, keep_bits=10, dry_run=dry_run, progress=told))
    assert told.reached_its_end()
    epochs = 1 if dry_run else 1 + len(EPOCHS)  # one is measured, all are written
    assert told[-1] == (epochs * sum(SAMPLES.values()) * 2 * (8 + 16),) * 2
    again = Told()  # nothing is left to be done
    list(compact(actstore.open(fresh).sel(width=8), keep_bits=23, progress=again))
    assert again == []


@pytest.mark.parametrize("whole", [True, False])
def test_a_removal_tells_how_many_epochs_are_gone(fresh: Path, whole: bool) -> None:
    told = Told()
    chosen = actstore.open(fresh).sel(width=8, epoch=None if whole else [0, 5])
    remove(chosen, whole=whole, progress=told)
    assert told.reached_its_end()
    epochs = len(EPOCHS) if whole else 2
    assert told[-1][1] == epochs * len(chosen)
    assert len(told) == len(chosen) * (1 if whole else epochs)


def test_a_repair_tells_of_both_looks_at_each_run(fresh: Path) -> None:
    told = Told()
    repair(fresh, progress=told)
    assert told.reached_its_end()
    assert told[-1][1] == 2 * len(list(fresh.iterdir()))


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".npy", ".parquet"])
def test_an_export_tells_how_far_it_is(
    planted: actstore.Store, tmp_path: Path, suffix: str
) -> None:
    several = suffix in (".zarr", ".nc")
    chosen = planted.sel(width=[8, 16] if several else 8, seed=0, weight_decay=0.0, epoch=-1)
    told = Told()
    export(chosen, tmp_path / f"x{suffix}", progress=told)
    assert told.reached_its_end()
