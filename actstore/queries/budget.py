"""How much memory a query takes, and how to stay within a bound: fewer workers, smaller blocks."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.queries.sources import Data, Source
from actstore.storage.cache import AHEAD, AHEAD_BYTES, BLOCK_BYTES
from actstore.storage.catalogue import Catalogue

_UNITS = {"": 1, "B": 1}
_UNITS.update({f"{p}B": 1000**k for k, p in enumerate("KMGT", 1)})
_UNITS.update({f"{p}iB": 1024**k for k, p in enumerate("KMGT", 1)})

#: a block of samples takes this many times its size: as stored, decoded, and put together (of
#: moments: while the next one is read)
READ_COPIES = 3
#: float64 matrices (neuron, neuron) that a worker holds at most, measured with tracemalloc
MATRICES = {"noise": 10, "clones": 10}
MATRICES_ELSE = 6
#: what the kernels that look at samples hold beside them, in blocks of a few thousand samples
SAMPLE_WORK = 2**25


@dataclasses.dataclass(frozen=True)
class Budget:
    """How a query is run: workers, samples at once, and the memory that this takes.

    Attributes
    ----------
    workers : int
        Tasks at a time: threads of this process, or of worker processes.
    block_bytes : int
        Most bytes of activations that a task reads.
    epoch_bytes : int
        Bytes of the largest epoch.
    program_bytes : int
        What the program takes before it computes anything.
    result_bytes : int
        What the answer takes.
    worker_bytes : int
        What each worker takes: its block of samples and its (neuron, neuron) matrices.
    processes : int
        Worker processes, 0 if the workers are threads of this one. Each takes the program too.
    """

    workers: int
    block_bytes: int
    epoch_bytes: int
    program_bytes: int
    result_bytes: int
    worker_bytes: int
    processes: int = 0

    @property
    def process_bytes(self) -> int:
        """What each worker process takes, 0 if there are none."""
        if not self.processes:
            return 0
        return self.program_bytes + -(-self.workers // self.processes) * self.worker_bytes

    @property
    def peak_memory(self) -> int:
        """Program + answer + workers, in bytes, in all processes together."""
        workers = self.processes * self.program_bytes + self.workers * self.worker_bytes
        return self.program_bytes + self.result_bytes + workers


def budget(
    query: str,
    found: Sequence[Source],
    *,
    layer: str = schema.DEFAULT_LAYER,
    samples: bool = True,
    memory: int | str | None = None,
    workers: int | None = None,
    processes: bool = False,
    threads: int = 1,
    result_bytes: int = 0,
) -> Budget:
    r"""Choose workers and blocks of samples so that a query stays within ``memory``.

    The peak is that of the program as it is now, the answer, and each worker's
    :math:`3 \, b + k W^2 \cdot 8` bytes: a block b of activations (as stored, decoded, and put
    together), and k matrices of the widest layer in float64. Worker processes add a program each.

    Parameters
    ----------
    query : str
    found : sequence of Source
    layer : str
    samples : bool
        Whether tasks look at samples, or at moments alone, which are summed over small blocks.
    memory : int or str, optional
        Bytes, or text such as ``"2GiB"``; None is no bound.
    workers : int, optional
        Exactly this many; by default as many as there are cores, or fewer if they do not fit.
    processes : bool
        Whether the workers are not threads of this process but of others.
    threads : int
        Of each of these processes.
    result_bytes : int
        Size of the answer.

    Raises
    ------
    InvalidParameterError
        If not even one worker with the smallest block fits.
    """
    width = max(source.width for source in found)
    matrices = MATRICES.get(query, MATRICES_ELSE) * width**2 * 8
    fixed = matrices + (1 + AHEAD) * min(1024 * width, 2**20) * 8 + SAMPLE_WORK
    least, whole = _block_range(found, layer)
    if not samples and not any(source.chunk_bytes for source in found):
        whole = min(whole, max(least, AHEAD_BYTES))
    program = resident_bytes()
    most = workers or os.cpu_count() or 1

    def plan(count: int, block: int) -> Budget:
        return Budget(
            count, block, whole, program, result_bytes, fixed + READ_COPIES * block,
            -(-count // threads) if processes else 0,
        )  # fmt: skip

    if memory is None:
        return plan(most, min(whole, max(least, BLOCK_BYTES)))
    limit = parse_bytes(memory)
    for count in range(most, 0 if workers is None else most - 1, -1):
        smallest = plan(count, least)
        if smallest.peak_memory <= limit:
            room = READ_COPIES * least + (limit - smallest.peak_memory) // count
            return plan(count, min(whole, max(least, BLOCK_BYTES), room // READ_COPIES))
    needed = plan(workers or 1, least)
    raise InvalidParameterError(
        f"memory {show_bytes(limit)} was asked for, and {query} at width {width} needs "
        f"{show_bytes(needed.peak_memory)} with {crew(needed.workers, needed.processes)} "
        f"({show_bytes(program)} the program, {show_bytes(result_bytes)} the answer, "
        f"{show_bytes(needed.process_bytes or needed.worker_bytes)} each of them); "
        "allow that much, or select narrower runs"
    )


def in_blocks(data: Data, block_bytes: int) -> Data:
    """Return the data with activations of runs read in blocks of samples of about this size."""
    if isinstance(data, Catalogue):
        return data.narrow(lambda run: run.in_blocks(block_bytes))
    return data  # the chunks of a dataset are its owner's choice


def parse_bytes(text: int | str) -> int:
    """Return a number of bytes.

    Raises
    ------
    InvalidParameterError
        If the text is not a number above 0 with a unit of B, KB … TB, KiB … TiB, or none.

    Examples
    --------
    >>> parse_bytes("2GiB"), parse_bytes("1.5 MB"), parse_bytes(4096)
    (2147483648, 1500000, 4096)
    """
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", str(text).lower())
    value = float(match[1]) * units.get(match[2], 0) if match else 0.0
    if value < 1:
        raise InvalidParameterError(
            f"memory {text!r} was asked for; give a size above 0 as 500MB, 512MiB or 2GiB"
        )
    return int(value)


def show_bytes(number: float) -> str:
    """Return a number of bytes as a person reads it.

    Examples
    --------
    >>> show_bytes(3 * 2**20), show_bytes(2**31)
    ('3 MiB', '2 GiB')
    """
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:.3g} {unit}"
    return f"{number:.0f} B"


def crew(workers: int, processes: int) -> str:
    """Return in words who computes.

    Examples
    --------
    >>> crew(1, 0), crew(2, 2), crew(8, 2)
    ('1 worker', '2 worker processes', '2 worker processes of 4 threads')
    """
    if not processes:
        return f"{workers} worker{'s' if workers > 1 else ''}"
    each = -(-workers // processes)
    threads = f" of {each} threads" if each > 1 else ""
    return f"{processes} worker process{'es' if processes > 1 else ''}{threads}"


def resident_bytes() -> int:
    """Return the most memory that this process has held until now, 0 where it is not known."""
    try:
        # ru_maxrss of a process that was forked begins at its parent's; VmHWM is its own
        with open("/proc/self/status", encoding="ascii") as status:
            fields: Mapping[str, Any] = dict(line.split(":", 1) for line in status)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _block_range(found: Sequence[Source], layer: str) -> tuple[int, int]:
    """Return bytes of the smallest block that is worth reading, and of the largest epoch."""
    chunk = max(1, *(source.chunk_bytes for source in found))
    epochs = [
        (4 * math.prod(run.shape(split, layer)), run, split)
        for run in (source.run for source in found)
        if run and run.keeps_samples
        for split in run.splits
        if layer in run.layers(split)
    ]
    whole = max([chunk, *(size for size, _, _ in epochs)])
    for size, run, split in sorted(epochs, key=lambda epoch: -epoch[0]):
        if size <= chunk:  # no chunk of what is left is larger; most arrays need not be opened
            break
        array = run.array(f"{split}/{layer}/{schema.ACTIVATIONS}")
        chunk = max(chunk, 4 * array.shape[2] * min(array.chunks[1], array.shape[1]))
    return chunk, whole
