"""Timing calls and commands, and rates of BLAS to compare them with."""

from __future__ import annotations

import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.linalg import blas, lapack


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds on the clock and of processors, medians over repetitions."""

    wall: float
    cpu: float

    def __mul__(self, factor: float) -> Times:
        return Times(self.wall * factor, self.cpu * factor)

    def __add__(self, other: Times) -> Times:
        return Times(self.wall + other.wall, self.cpu + other.cpu)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: what was timed, against what, and what was aimed at."""

    job: str
    ours: str
    reference: str
    ratio: float
    ratio_cpu: float
    aim: str
    met: bool


def timed(call: Callable[[], Any], repeats: int = 3) -> Times:
    """Return the median of several calls, after one that is not counted."""
    call()
    return once([call] * repeats)


def once(calls: Sequence[Callable[[], Any]]) -> Times:
    """Return the median over calls, each made once."""
    walls, cpus = [], []
    for call in calls:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Times(statistics.median(walls), statistics.median(cpus))


def command(arguments: Sequence[str], repeats: int = 7, **environment: str) -> Times:
    """Return the median time of a command, from its start to its end."""
    walls, cpus = [], []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall = time.perf_counter()
        subprocess.run(
            arguments, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        walls.append(time.perf_counter() - wall)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Times(statistics.median(walls), statistics.median(cpus))


def actstore(*arguments: str) -> list[str]:
    """Return the command ``actstore`` of this Python."""
    return [sys.executable, "-c", "from actstore.cli import main; main()", *arguments]


def dsyrk_rate(width: int, rows: int = 1024) -> float:
    """Return floating-point operations a second of ``Xᵀ X`` on one thread, half a matrix of it."""
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(width, rows)))
    c = np.zeros((width, width), order="F")
    times = timed(lambda: [blas.dsyrk(1.0, x, beta=1.0, c=c, overwrite_c=1) for _ in range(8)], 5)
    return 8 * rows * width**2 / times.cpu


def dpotrf_rate(width: int) -> float:
    """Return floating-point operations a second of a Cholesky factorisation on one thread."""
    x = np.random.default_rng(0).normal(size=(2 * width, width))
    c = np.asfortranarray(x.T @ x)
    times = timed(lambda: [lapack.dpotrf(c, lower=1, clean=0) for _ in range(8)], 5)
    return 8 * width**3 / 3 / times.cpu


def seconds(times: Times) -> str:
    """Return both times as text: on the clock, and of processors."""
    return f"{times.wall:.3g} s ({times.cpu:.3g} CPU)"


def compare(
    job: str, ours: Times, reference: Times, at_least: float | None = None, note: str = ""
) -> Row:
    """Return the row of a job that is to be so many times faster than its reference, by clock."""
    ratio, cpu = reference.wall / ours.wall, reference.cpu / ours.cpu
    aim = "" if at_least is None else f">= {at_least:g} x"
    met = at_least is None or ratio >= at_least
    return Row(job, seconds(ours), seconds(reference) + note, ratio, cpu, aim, met)


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    head = ("job", "actstore", "reference", "ratio (clock)", "ratio (CPU)", "aim", "met")
    cells = [
        (r.job, r.ours, r.reference, f"{r.ratio:.3g}", f"{r.ratio_cpu:.3g}", r.aim,
         "yes" if r.met else "NO")
        for r in rows
    ]  # fmt: skip
    widths = [max(len(line[k]) for line in [head, *cells]) for k in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in (head, tuple("-" * w for w in widths), *cells)
    ]
    return "\n".join(lines)
