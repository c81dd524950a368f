"""Kill a writer in every way and look at what is left: ``python -m benchmarks.crash_campaign``.

Two kinds of kills (SIGKILL), on recordings of several shapes:

* *everywhere*: before the 1st, 2nd, 3rd, … change that the writer makes to the disk (a file
  opened for writing, renamed, linked, removed, a folder made or removed), from the creation of
  the run over its epochs to the trimming of its unused slots, and while an old run is replaced;
* *any time*: at random moments, again and again on the same run until it is complete, while
  another process reads the newest epoch as fast as it can with xarray alone.

A compaction of a finished run is killed both ways too: after each kill the run must be as it was or
rounded, wholly.

A recording of several ranks (``torch.distributed``) is killed at any time only: one rank of it,
which may be the one that commits, while the others write their samples.

After each kill the store must open, show the epochs that were committed and no other, each bit
for bit as it was recorded, and a resumed writer must bring the run to its end. All processes are
forked from one that has imported everything and has never touched a store.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

import actstore
from actstore import schema
from actstore.errors import ActstoreError, RunExistsError
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter
from benchmarks import crash_compaction
from benchmarks.crash_processes import EPOCHS, READS, TALLY, counted, fork, killed_before, run

RUN = "run"


@dataclasses.dataclass(frozen=True)
class Recording:
    """A run of known content.

    Attributes
    ----------
    splits, layers : dict
        Samples of each split, neurons of each layer.
    epochs : tuple of int
    slots : int
        Room for epochs; what is left over is given back at the end.
    ranks : int
        Processes that write it together.
    """

    splits: dict[str, int]
    layers: dict[str, int]
    epochs: tuple[int, ...] = (0, 1, 2, 5)
    slots: int = 6
    durable: bool = False
    ranks: int = 1

    def epoch(self, epoch: int, *, seed: int, attempt: int) -> dict[str, Any]:
        """Return what is written at an epoch; each attempt logs one metric of its own."""
        rng = np.random.default_rng([seed, epoch])
        return {
            "activations": {
                split: {
                    layer: rng.random((samples, width), dtype="float32")
                    for layer, width in self.layers.items()
                }
                for split, samples in self.splits.items()
            },
            "labels": {s: (np.arange(n) + seed) % 10 for s, n in self.splits.items()},
            "readout": (rng.normal(size=(10, self.layers["last_hidden"])), rng.normal(size=10)),
            "metrics": {"train_error": float(rng.random()), f"attempt{attempt % 4}": attempt},
        }


RECORDINGS = {
    "small": Recording({"test": 50}, {"last_hidden": 8}),
    "sharded": Recording({"test": 4100}, {"last_hidden": 300}, epochs=(0, 1, 5), slots=4),
    "splits": Recording({"train": 60, "test": 50}, {"last_hidden": 8}, epochs=(0, 5), slots=3),
    "layers": Recording({"test": 50}, {"last_hidden": 8, "block": 5}, epochs=(0, 5), slots=3),
    "durable": Recording({"test": 50}, {"last_hidden": 8}, epochs=(0, 5), slots=3, durable=True),
    "ranks": Recording({"train": 60, "test": 50}, {"last_hidden": 8}, epochs=(0, 1, 5), ranks=3),
}

COMPACTED = Recording({"train": 60, "test": 50}, {"last_hidden": 8, "block": 260}, epochs=(0, 5))


def write(store: Path, recording: Recording, *, attempt: int, seed: int, fresh: bool) -> bool:
    """Record, or resume, a run to its end; return False if it was complete before."""
    attributes = schema.run_attributes(width=recording.layers["last_hidden"], seed=seed)
    options: dict[str, Any] = {"durable": recording.durable}
    try:
        writer = RunWriter.create(
            store, RUN, slots=recording.slots, attributes=attributes, overwrite=fresh, **options
        )
    except RunExistsError:
        try:
            writer = RunWriter.append(store, RUN, **options)
        except RunExistsError:
            return False
    for epoch in recording.epochs:
        if epoch not in writer.committed:
            writer.write(epoch, **recording.epoch(epoch, seed=seed, attempt=attempt))
    writer.close(complete=True)
    return True


def check(
    store: Path, recording: Recording, *, least: int, complete: bool | None, seeds: set[int]
) -> int:
    """Return the number of committed epochs after looking at every value of them.

    Parameters
    ----------
    store : Path
    recording : Recording
    least : int
        Epochs that were committed before.
    complete : bool or None
        Whether the run must be complete; None if it need not.
    seeds : set of int
        Of the runs that may be there.
    """
    if not (store / "zarr.json").exists():
        assert least == 0, "the store is gone"
        return 0
    opened = actstore.open(store)
    if RUN not in opened:
        assert (least, bool(complete)) == (0, False), "the run is gone"
        return 0
    run = opened[RUN]
    epochs = run.epochs.tolist()
    assert run.seed in seeds
    assert epochs == list(recording.epochs[: len(epochs)]), f"epochs {epochs}"
    assert len(epochs) >= least, f"{len(epochs)} epochs where {least} had been committed"
    assert complete in (None, run.complete), "complete"
    if not epochs:
        assert run.splits == ()
        return 0
    metrics = run.metrics()
    readout = run.readout().load()
    attempts = metrics[[name for name in metrics.data_vars if str(name).startswith("attempt")]]
    assert (attempts.to_array().notnull().sum("variable") == 1).all(), "metrics of two attempts"
    data = {
        (split, layer): run.dataset(split, layer).load()
        for split in recording.splits
        for layer in recording.layers
    }
    for i, epoch in enumerate(epochs):
        known = recording.epoch(epoch, seed=run.seed, attempt=0)
        assert float(metrics.train_error[i]) == known["metrics"]["train_error"], "metric"
        assert np.array_equal(readout.weight[i], known["readout"][0]), "readout"
        for (split, layer), found in data.items():
            x = known["activations"][split][layer]
            assert np.array_equal(found.activations[i], x), f"epoch {epoch}, {split}/{layer}"
            assert np.array_equal(found.label, known["labels"][split]), "labels"
    TALLY.add(EPOCHS, len(epochs))
    return len(epochs)


def check_plain(store: Path, recording: Recording, *, seed: int) -> None:
    """Check the newest epoch as a reader does who knows nothing but xarray and the format."""
    try:
        marker = xr.open_zarr(store, group=RUN, consolidated=False)["epoch"].values
    except (OSError, KeyError):
        return  # the run has only begun
    except ValueError as error:
        if "conflicting sizes" not in str(error):
            raise
        return  # the one moment at which lengths differ: unused slots are being given back
    slots = np.flatnonzero(marker >= 0)
    if len(slots):
        slot = int(slots[-1])
        known = recording.epoch(int(marker[slot]), seed=seed, attempt=0)
        for split, layers in known["activations"].items():
            for layer, x in layers.items():
                leaf = xr.open_zarr(store, group=f"{RUN}/{split}/{layer}", consolidated=False)
                assert np.array_equal(leaf.activations[slot], x), f"newest epoch, {split}/{layer}"


# ---------------------------------------------------------------- campaigns


def everywhere(name: str, folder: Path, *, step: int, replace: bool) -> Iterator[str]:
    """Kill before each change (each ``step``-th), with or without an old run to replace."""
    recording = RECORDINGS[name]
    log, old = folder / "log", folder / "old"
    seeds = {0, 1} if replace else {0}
    run(lambda: write(old, recording, attempt=0, seed=1, fresh=False), log)
    for change in range(0, 10_000, step):
        store = folder / "store"
        if replace:
            shutil.copytree(old, store)
        job = _writer(store, recording, attempt=0, fresh=replace)
        was_killed = killed_before(change, job, store, log)
        run(lambda s=store, k=was_killed: _aftermath(s, recording, k, seeds), log)  # type: ignore[misc]
        shutil.rmtree(store)
        if not was_killed:
            return
        yield f"{name}: killed before change {change}{' of a replacement' if replace else ''}"


def _aftermath(store: Path, recording: Recording, was_killed: bool, seeds: set[int]) -> None:
    """Look at what a killed writer left, bring the run to its end, and look again."""
    least = 0
    if was_killed:
        least = _checker(store, recording, least=0, complete=None, seeds=seeds)()
        write(store, recording, attempt=1, seed=0, fresh=False)
    _checker(store, recording, least=least, complete=True, seeds=seeds)()


def any_time(name: str, folder: Path, *, kills: int, rng: random.Random) -> Iterator[str]:
    """Kill at random moments, resuming the same run until it is complete, while it is read."""
    recording = RECORDINGS[name]
    log, result = folder / "log", folder / "result"
    trial = folder / "trial"
    began = time.perf_counter()
    run(_writer(trial, recording, attempt=0, fresh=False), log)
    usual = time.perf_counter() - began
    done = rounds = 0
    while done < kills:
        store = folder / f"store{rounds}"
        rounds += 1
        reader = fork(lambda s=store: _read_for_ever(s, recording), log)  # type: ignore[misc]
        try:
            least = 0
            for attempt in range(1000):
                victim = rng.randrange(recording.ranks)
                job = _writer(store, recording, attempt=attempt, fresh=False, victim=victim)
                writer = fork(job, log)
                time.sleep(rng.random() * 2 * usual)
                os.kill(writer, signal.SIGKILL)
                status = os.waitpid(writer, 0)[1]
                if recording.ranks > 1:
                    importlib.import_module("benchmarks.crash_ranks").end(writer)
                if not os.WIFSIGNALED(status):
                    assert status == 0, log.read_text()
                    usual *= 0.7
                    break
                done += 1
                usual *= 1.1  # on a busy machine the first guess was too short to get anywhere
                checker = _checker(store, recording, least=least, complete=None, seeds={0})
                run(counted(result, checker), log)
                least = int(result.read_text())
                yield f"{name}: killed at a random moment, {least} epochs committed"
            run(_checker(store, recording, least=least, complete=True, seeds={0}), log)
        finally:
            alive = os.waitpid(reader, os.WNOHANG) == (0, 0)
            if alive:
                os.kill(reader, signal.SIGKILL)
                os.waitpid(reader, 0)
        assert alive, f"the reader failed: {log.read_text()}"
        shutil.rmtree(store)


def _writer(
    store: Path, recording: Recording, *, attempt: int, fresh: bool, victim: int = 0
) -> Callable[[], object]:
    if recording.ranks == 1:
        return lambda: write(store, recording, attempt=attempt, seed=0, fresh=fresh)
    ranks = importlib.import_module("benchmarks.crash_ranks")
    meet = store.with_name(f"meet{time.monotonic_ns()}")
    return lambda: ranks.write(
        store, recording, run=RUN, attempt=attempt, seed=0, fresh=fresh, victim=victim, meet=meet
    )


def _checker(
    store: Path,
    recording: Recording,
    *,
    least: int,
    complete: bool | None,
    seeds: set[int],
) -> Callable[[], int]:
    def job() -> int:
        found = check(store, recording, least=least, complete=complete, seeds=seeds)
        if complete:
            xr.open_datatree(store, engine="zarr", consolidated=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of orphans, which the next writer sweeps
            if seeds == {0}:
                check_plain(store, recording, seed=0)
        if (store / "zarr.json").exists():
            left = verify(store, deep=True)
            assert not (complete and left), left
            if left:
                # No damage, only what a killed writer may leave; repairing removes it.
                assert all(finding.harmless for finding in left), left
                copy = store.with_name("copy")
                shutil.copytree(store, copy)
                still = repair(copy, deep=True)
                assert not still, still
                assert check(copy, recording, least=found, complete=complete, seeds=seeds) == found
                shutil.rmtree(copy)
        return found

    return job


def _read_for_ever(store: Path, recording: Recording) -> None:
    warnings.simplefilter("ignore")
    while True:
        check_plain(store, recording, seed=0)
        TALLY.add(READS, 1)
        try:
            for run_ in actstore.open(store).values():
                if len(run_.epochs):
                    data = run_.select(-1).dataset()
                    assert np.isfinite(data.activations).all()
        except FileNotFoundError:
            pass  # not there yet
        except ActstoreError as error:
            if "zarr.json" not in str(error):
                raise


def _campaigns(
    name: str, step: int, share: int, rng: random.Random
) -> Iterator[tuple[str, Callable[[Path], Iterator[str]]]]:
    """Yield what is done to a recording, and the function that does it in a folder."""
    if name == "compaction":
        recording = COMPACTED
        yield (
            "before each change of a compaction",
            lambda folder: crash_compaction.everywhere(recording, folder, step=step),
        )
        yield (
            "of compactions at random moments beside a reader",
            lambda folder: crash_compaction.any_time(recording, folder, kills=share, rng=rng),
        )
        return
    for replace in (False, True) if RECORDINGS[name].ranks == 1 else ():
        yield (
            f"before each change of {'a run in place of another' if replace else 'a new run'}",
            lambda folder, replace=replace: everywhere(name, folder, step=step, replace=replace),  # type: ignore[misc]
        )
    yield (
        "at random moments beside a reader",
        lambda folder: any_time(name, folder, kills=share, rng=rng),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="kills at random moments")
    parser.add_argument("--step", type=int, default=5, help="kill before every STEP-th change")
    parser.add_argument(
        "--only", choices=[*RECORDINGS, "compaction"], action="append", help="repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args(arguments)
    names = options.only or [*RECORDINGS, "compaction"]
    several = any(RECORDINGS[name].ranks > 1 for name in names if name in RECORDINGS)
    loaded = ["actstore.store", "dask.array", "distributed"]  # once, not in every child
    for module in [*loaded, *(["benchmarks.crash_ranks"] if several else [])]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    dask.config.set(scheduler="synchronous")
    rng = random.Random(options.seed)
    total, began = 0, time.perf_counter()
    share = -(-options.kills // len(names))
    for name in names:
        for what, kills in _campaigns(name, options.step, share, rng):
            with tempfile.TemporaryDirectory() as folder:
                done = len([*kills(Path(folder))])
            print(f"{name:10} {done:4} kills {what}: nothing lost", flush=True)
            total += done
    epochs, reads = TALLY.read()
    print(f"{epochs} committed epochs compared bit for bit, {reads} looks of readers: all whole")
    print(f"{total} kills in {time.perf_counter() - began:.0f} s: nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
