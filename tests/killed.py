"""Writers of a run that are killed again and again, wherever the store is; what is left is checked.

Run as ``python -m tests.killed KIND URL KILLS SEED``, in a process that has never talked to the
server: each writer and each check is a fork of it.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import actstore
from actstore.errors import RunExistsError, StoreNotFoundError
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, one_epoch

EPOCHS = range(4)
SMALL: Any = {"splits": {"test": 60}}


def append(url: str, seed: int) -> None:
    """Write the run, or what it lacks."""
    try:
        writer = RunWriter.create(
            url, "run", slots=len(EPOCHS) + 1, attributes=attributes(seed=seed)
        )
    except RunExistsError:
        try:
            writer = RunWriter.append(url, "run")
        except RunExistsError:
            return  # complete
    _write(writer, seed)


def overwrite(url: str, seed: int) -> None:
    """Write the run in the place of what is there."""
    told = attributes(seed=seed)
    _write(
        RunWriter.create(url, "run", slots=len(EPOCHS) + 1, attributes=told, overwrite=True), seed
    )


def _write(writer: RunWriter, seed: int) -> None:
    for epoch in EPOCHS:
        if epoch not in writer.committed:
            writer.write(epoch, **one_epoch(epoch, seed=seed, **SMALL))
    writer.close(complete=True)


def check(url: str, seeds: set[int], *, cached: bool) -> int:
    """Fail unless all that is committed is of one of the seeds; return how many epochs are."""
    found = verify(url, deep=True) if _is_there(url) else []
    assert all(one.harmless for one in found), found
    held = 0
    for run in actstore.open(url).values() if _is_there(url) else ():
        assert run.seed in seeds
        held = len(run.epochs)
        assert run.epochs.tolist() == list(EPOCHS)[:held]
        assert held == len(EPOCHS) or not run.complete
        if not held:
            continue
        data, readout, metrics = run.dataset().load(), run.readout(), run.metrics()
        means = actstore.open(url).moments(cache=cached)["mean"].isel(run=0).to_numpy()
        for place, epoch in enumerate(run.epochs.tolist()):
            expected = one_epoch(epoch, seed=run.seed, **SMALL)
            layer = expected["activations"]["test"]["last_hidden"]
            assert np.array_equal(data.activations[place], layer), epoch
            assert np.array_equal(readout.weight[place], expected["readout"][0]), epoch
            assert float(metrics.train_error[place]) == expected["metrics"]["train_error"]
            mean = layer.astype(float).mean(0)
            np.testing.assert_allclose(np.squeeze(means[place]), mean, rtol=0, atol=1e-12)
    return held


def _is_there(url: str) -> bool:
    try:
        actstore.open(url)
    except StoreNotFoundError:
        return False
    return True


def apart(function: Callable[..., int | None], *arguments: Any, **options: Any) -> int:
    """Start a function in a process of its own."""
    child = os.fork()
    if not child:
        try:
            os._exit(function(*arguments, **options) or 0)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    return child


def done(child: int) -> int:
    """Wait for a process that was started apart; return its exit status."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != 99
    return code


def campaign(kind: str, url: str, kills: int, seed: int) -> None:
    """Kill a writer at random moments; say after each kill how many epochs are left.

    Parameters
    ----------
    kind : {"append", "overwrite"}
        Whether a writer goes on where the last was killed, or begins anew with other numbers.
    """
    begin = time.monotonic()
    assert done(apart(append, url if kind == "overwrite" else f"{url}-whole", 0)) == 0
    takes = time.monotonic() - begin
    rng, held, seeds = random.Random(seed), 0, {0}
    if kind == "overwrite":  # its moments are kept
        assert done(apart(check, url, seeds, cached=True)) == len(EPOCHS)
    for attempt in range(1, kills + 1):
        work = append if kind == "append" else overwrite
        writes = 0 if kind == "append" else attempt
        writer = apart(work, url, writes)
        time.sleep(rng.uniform(0.1, 1.0) * takes)
        os.kill(writer, signal.SIGKILL)
        done(writer)
        seeds |= {writes}
        left = done(apart(check, url, seeds, cached=kind == "overwrite"))
        assert kind == "overwrite" or left >= held
        held = left
        print(held, end=" ", flush=True)
    assert done(apart(append if kind == "append" else overwrite, url, max(seeds))) == 0
    held = done(apart(check, url, {max(seeds)}, cached=kind == "overwrite"))
    print("held", held)


def killed_again_and_again(kind: str, url: str, kills: int, environment: dict[str, str]) -> None:
    """Run the campaign in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.killed", kind, url, str(kills), str(kills)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(f"held {len(EPOCHS)}\n")


if __name__ == "__main__":
    warnings.simplefilter("error")
    campaign(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
