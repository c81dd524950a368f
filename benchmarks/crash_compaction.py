"""Compactions for the crash campaign: killed, and looked at by a reader all the while."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

import actstore
from actstore import schema
from actstore.errors import NotInStoreError
from actstore.storage.compaction import compact
from actstore.storage.precision import Change, round_mantissa
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter
from benchmarks.crash_processes import EPOCHS, READS, TALLY, counted, fork, killed_before, run

if TYPE_CHECKING:
    from benchmarks.crash_campaign import Recording

#: bits of mantissa that one compaction after another keeps
BITS = (20, 16, 12, 8, 4)


def everywhere(recording: Recording, folder: Path, *, step: int) -> Iterator[str]:
    """Kill before each change (each ``step``-th) of a compaction."""
    log, old = folder / "log", folder / "old"
    run(lambda: _record(old, recording), log)
    for change in range(0, 10_000, step):
        store = folder / "store"
        shutil.copytree(old, store)
        killed = killed_before(change, lambda s=store: _compact(s, 4), store, log)  # type: ignore[misc]
        run(lambda s=store: _check(s, recording, {None, 4}, by=(4,)), log)  # type: ignore[misc]
        run(lambda s=store: _finish(s, recording), log)  # type: ignore[misc]
        shutil.rmtree(store)
        if not killed:
            return
        yield f"compaction: killed before change {change}"


def any_time(
    recording: Recording, folder: Path, *, kills: int, rng: random.Random
) -> Iterator[str]:
    """Kill compactions of one run to fewer and fewer bits at random moments, while it is read."""
    log, result = folder / "log", folder / "result"
    trial = folder / "trial"
    run(lambda: _record(trial, recording), log)
    began = time.perf_counter()
    run(lambda: _compact(trial, 4), log)
    usual = time.perf_counter() - began
    done = rounds = 0
    while done < kills:
        store = folder / f"store{rounds}"
        rounds += 1
        run(lambda s=store: _record(s, recording), log)  # type: ignore[misc]
        reader = fork(lambda s=store: _read_for_ever(s, recording), log)  # type: ignore[misc]
        held: int | None = None
        used: list[int] = []
        for keep_bits in BITS:
            if done >= kills:
                break
            used.append(keep_bits)
            while held != keep_bits:
                job: Callable[[], object] = lambda s=store, k=keep_bits: _compact(s, k)  # type: ignore[misc]  # noqa: E731
                writer = fork(job, log)
                time.sleep(rng.random() * 1.5 * usual)
                os.kill(writer, signal.SIGKILL)
                status = os.waitpid(writer, 0)[1]
                assert os.WIFSIGNALED(status) or status == 0, log.read_text()
                usual *= 1.1 if status else 0.9
                allowed = {held, keep_bits} if status else {keep_bits}
                check = lambda s=store, a=allowed: _check(s, recording, a)  # noqa: E731
                run(counted(result, check), log)
                found = int(result.read_text())
                held = None if found == schema.MANTISSA_BITS else found
                if status:
                    done += 1
                    yield f"compaction: killed at a random moment, {found} bits are kept"
        alive = os.waitpid(reader, os.WNOHANG) == (0, 0)
        if alive:
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
        assert alive, f"the reader failed: {log.read_text()}"
        run(lambda s=store, u=used: _finish(s, recording, by=(*u, 4)), log)  # type: ignore[misc]
        shutil.rmtree(store)


def _record(store: Path, recording: Recording) -> None:
    attributes = schema.run_attributes(width=recording.layers["last_hidden"], seed=0)
    writer = RunWriter.create(store, "run", slots=recording.slots, attributes=attributes)
    for epoch in recording.epochs:
        writer.write(epoch, **recording.epoch(epoch, seed=0, attempt=0))
    writer.close(complete=True)


def _compact(store: Path, keep_bits: int) -> None:
    # What rounding changes takes longest and writes nothing: kills are to meet what writes.
    with mock.patch("actstore.storage.compaction.measure", return_value=Change()):
        list(compact(actstore.open(store), keep_bits=keep_bits))


def _known(recording: Recording, keep_bits: int | None, by: tuple[int, ...]) -> dict[Any, Any]:
    """Return the values that are kept when the run was compacted to ever fewer bits."""
    known = {}
    for epoch in recording.epochs:
        recorded = recording.epoch(epoch, seed=0, attempt=0)["activations"]
        for split, layers in recorded.items():
            for layer, x in layers.items():
                for bits in by:
                    if keep_bits is not None and bits >= keep_bits:
                        x = round_mantissa(x, bits)
                known[epoch, split, layer] = x
    return known


def _whole(store: Path, recording: Recording, by: tuple[int, ...]) -> int | None:
    """Check that every value is of the bits that the run is said to keep; return these."""
    one = actstore.open(store).only()
    data = {
        (split, layer): one.dataset(split, layer).activations.to_numpy()
        for split in one.splits
        for layer in one.layers(split)
    }
    assert one.epochs.tolist() == list(recording.epochs)
    known = _known(recording, one.keep_bits, by)
    for (epoch, split, layer), x in known.items():
        place = recording.epochs.index(epoch)
        assert np.array_equal(data[split, layer][place], x), (one.keep_bits, epoch, split, layer)
    assert len(known) == len(data) * len(one.epochs)
    return one.keep_bits


def _check(
    store: Path, recording: Recording, allowed: set[int | None], *, by: tuple[int, ...] = BITS
) -> int:
    """Look at what a killed compaction left; return the bits that are kept."""
    found = _whole(store, recording, by)
    assert found in allowed, f"{found} bits, {allowed} are possible"
    left = verify(store, deep=True)
    assert all(finding.harmless for finding in left), left
    copy = store.with_name("copy")
    shutil.copytree(store, copy)
    assert not repair(copy, deep=True)
    assert _whole(copy, recording, by) == found
    shutil.rmtree(copy)
    TALLY.add(EPOCHS, len(recording.epochs))
    return schema.MANTISSA_BITS if found is None else found


def _finish(store: Path, recording: Recording, *, by: tuple[int, ...] = (4,)) -> None:
    _compact(store, 4)
    assert _whole(store, recording, by) == 4
    assert verify(store, deep=True) == []


def _read_for_ever(store: Path, recording: Recording) -> None:
    warnings.simplefilter("ignore")
    while True:
        try:
            _whole(store, recording, BITS)
            TALLY.add(READS, 1)
        except NotInStoreError as error:
            if "was rewritten after it was opened" not in str(error):
                raise
