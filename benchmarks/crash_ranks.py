"""Recordings of several ranks (gloo) for the crash campaign, one of which is the one to kill."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from actstore import schema
from actstore.recording.kept import Kept, Recorded
from actstore.recording.rows import Rows
from actstore.recording.sink import open_sink

if TYPE_CHECKING:
    from benchmarks.crash_campaign import Recording

# gloo asks for the address of the host name, which a machine need not have
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")

#: seconds for the ranks that were left to notice, before they are killed too
GRACE = 3.0


def write(
    store: Path,
    recording: Recording,
    *,
    run: str,
    attempt: int,
    seed: int,
    fresh: bool,
    victim: int,
    meet: Path,
) -> None:
    """Record, or resume, a run to its end as rank ``victim``, beside ranks forked from here.

    They are a process group of their own, so that :func:`end` finds those that are left.
    """
    os.setpgid(0, 0)
    others = [rank for rank in range(recording.ranks) if rank != victim]
    children = []
    for rank in others:
        child = os.fork()
        if not child:
            try:
                _rank(store, recording, run, attempt, seed, fresh, rank, meet)
            except BaseException:
                os._exit(1)  # a rank was lost; the victim says why if it was not
            os._exit(0)
        children.append(child)
    _rank(store, recording, run, attempt, seed, fresh, victim, meet)
    ends = [os.waitpid(child, 0)[1] for child in children]
    assert not any(ends), f"ranks {others} ended with {ends}"


def end(group: int) -> None:
    """Let the ranks that are left of a group drop their epoch, then kill those that still run."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    try:
        os.killpg(group, signal.SIGKILL)
        while True:
            os.killpg(group, 0)
            time.sleep(0.02)
    except ProcessLookupError:
        return


def _rank(
    store: Path,
    recording: Recording,
    run: str,
    attempt: int,
    seed: int,
    fresh: bool,
    rank: int,
    meet: Path,
) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=20)
    dist.init_process_group(
        "gloo", init_method=f"file://{meet}", rank=rank, world_size=recording.ranks,
        timeout=patience,
    )  # fmt: skip
    attributes = schema.run_attributes(width=recording.layers["last_hidden"], seed=seed)
    sink = open_sink(
        store, run, slots=recording.slots, planned=recording.epochs, attributes=attributes,
        resume=not fresh, overwrite=fresh, durable=recording.durable,
    )  # fmt: skip
    if not sink.open:
        return  # complete
    complete = False
    try:
        for epoch in recording.epochs:
            if epoch not in sink.committed:
                sink.write(_part(recording, epoch, rank, attempt=attempt, seed=seed))
        complete = True
    finally:
        sink.close(complete=complete)


def _part(recording: Recording, epoch: int, rank: int, *, attempt: int, seed: int) -> Recorded:
    """Return what a rank has of an epoch: every third sample, as a DistributedSampler gives it."""
    whole = recording.epoch(epoch, seed=seed, attempt=attempt)
    mine = {s: np.arange(rank, n, recording.ranks) for s, n in recording.splits.items()}
    layers: dict[str, dict[str, Kept]] = {}
    for split, of_layers in whole["activations"].items():
        for layer, x in of_layers.items():
            kept = Kept(Rows(), None)
            kept.append(torch.from_numpy(x[mine[split]]))
            layers.setdefault(split, {})[layer] = kept
    labels = {split: whole["labels"][split][places] for split, places in mine.items()}
    return Recorded(epoch, layers, labels, mine, whole["metrics"], whole["readout"])
