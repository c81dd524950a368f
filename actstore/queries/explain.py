"""What a question would read and compute, told before anything of it runs."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from actstore import queries, schema
from actstore.errors import InvalidParameterError
from actstore.queries.budget import Budget, budget, crew, in_blocks, show_bytes
from actstore.queries.graph import task_kernel
from actstore.queries.parameters import subset_sizes
from actstore.queries.sources import Data, Loading, Source, sources
from actstore.queries.table import shown
from actstore.storage.cache import cached
from actstore.storage.run import EpochRead


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a question would read and compute.

    Attributes
    ----------
    query : str
    runs, epochs : int
        Runs that are asked, and their epochs together.
    cached_epochs : int
        Moments (of an epoch and split) that the cache holds, out of ``moments``.
    moments : int
        Moments that are needed.
    bytes_to_read : int
        Activations that have to be read: those whose moments the cache does not hold, and those
        of which samples are needed.
    flops : float
        Floating-point operations, about (see :func:`explain`).
    tasks : int
        Of the dask graph.
    workers : int
        Tasks at a time, as many as fit into the memory: threads of this process, or of others.
    processes : int
        Worker processes; 0 if the workers are threads of this one.
    block_bytes : int
        Activations that a task reads at once.
    worker_memory : int
        Estimated bytes of each worker: of a process with its threads and its program.
    peak_memory : int
        Estimated bytes at the peak, of all processes together: program, answer, and workers.
    """

    query: str
    runs: int
    epochs: int
    cached_epochs: int
    moments: int
    bytes_to_read: int
    flops: float
    tasks: int
    workers: int
    processes: int
    block_bytes: int
    worker_memory: int
    peak_memory: int

    def __str__(self) -> str:
        """Return a line a fact, for a person."""
        # moments that were recorded, or are cached, are read whole
        blocks = f", reading blocks of {show_bytes(self.block_bytes)}"
        reading = blocks if self.bytes_to_read else ""
        lines = {
            "runs": self.runs,
            "epochs": self.epochs,
            "moments": f"{self.moments}, {self.cached_epochs} of them cached",
            "to read": f"{show_bytes(self.bytes_to_read)} of activations",
            "to compute": f"{self.flops / 1e9:.3g} Gflop",
            "tasks": self.tasks,
            "workers": crew(self.workers, self.processes) + reading,
            "peak memory": f"{show_bytes(self.peak_memory)} in all, "
            f"{show_bytes(self.worker_memory)} of it in each worker",
        }
        return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


class Answer(NamedTuple):
    """The lazy answer of a query that stays within a budget.

    Attributes
    ----------
    result : Dataset
        All of it.
    wanted : Dataset
        What is to be computed of it.
    """

    result: xr.Dataset
    wanted: xr.Dataset
    sources: Sequence[Source]
    budget: Budget


def explain(
    data: Data,
    query: str,
    *,
    memory: int | str | None = None,
    workers: int | None = None,
    processes: bool = False,
    threads: int = 1,
    full: bool = True,
    **parameters: Any,
) -> Explanation:
    r"""Say what a query would read and compute, without reading or computing it.

    Parameters
    ----------
    data : Store or Dataset
        What the query would be asked of.
    query : str
        Its name, such as ``"noise"``.
    memory : int or str, optional
        Bound on the memory, in bytes or as ``"2GiB"``.
    workers : int, optional
        By default as many as there are cores and fit.
    processes : bool
        Whether the workers are not threads of this process but of others.
    threads : int
        Of each of these processes.
    full : bool
        Whether all arrays of the answer are wanted, or only what its rows show.
    **parameters
        Those of the query.

    Returns
    -------
    Explanation

    Raises
    ------
    InvalidParameterError
        If there is no such query, or it cannot be run within the memory.

    Notes
    -----
    The operations counted, for N samples, W neurons, T subsets of sizes w, o outputs: moments
    :math:`N W^2`; curves :math:`T W^3 / 3`; scored on another split :math:`T \sum_w 4 w^2 W`;
    residual correlations :math:`T W^3 / 3`, with their null :math:`r (2 + t / 3) W^3` for r
    repeats and t subsets (4 at most) and :math:`100 \, W^3` for its fit; spectrum and the bound
    of clones :math:`4 W^3 / 3`; a partition :math:`W^3` a threshold; errors of subsets
    :math:`2 N W o T`; readouts of r subsets fitted anew :math:`r \sum_w (w^3 / 3 + 2 w^2 o)`, and
    scored :math:`2 N W o r` a size; logits :math:`2 N W o`. The peak of memory is explained at
    :func:`actstore.queries.budget.budget`.

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> plan = explain(planted_dataset(), "reconstruction", subsets=10)
    >>> plan.epochs, plan.bytes_to_read
    (2, 102400)
    """
    answer = answer_within(
        data, query, memory=memory, workers=workers, processes=processes, threads=threads,
        full=full, **parameters,
    )  # fmt: skip
    found, plan = answer.sources, answer.budget
    tasks = _tasks(answer.wanted)
    reading = _Reading(tasks, found)
    told = _told(query, answer.result, parameters)
    return Explanation(
        query=query,
        runs=reading.runs,
        epochs=reading.epochs,
        cached_epochs=reading.cached,
        moments=reading.moments,
        bytes_to_read=reading.bytes,
        flops=reading.flops + _flops(query, found, reading, told),
        tasks=len(tasks),
        workers=plan.workers,
        processes=plan.processes,
        block_bytes=plan.block_bytes,
        worker_memory=plan.process_bytes or plan.worker_bytes,
        peak_memory=plan.peak_memory,
    )


def answer_within(
    data: Data,
    query: str,
    *,
    memory: int | str | None = None,
    workers: int | None = None,
    processes: bool = False,
    threads: int = 1,
    full: bool = True,
    **parameters: Any,
) -> Answer:
    """Ask a query so that it can be computed within a bound of memory.

    Parameters and errors are those of :func:`explain`. Lazy: nothing is read until values are
    asked for, with as many workers as the budget says.
    """
    if query not in queries.__all__:
        raise InvalidParameterError(
            f"query {query!r} was asked for; there are {', '.join(queries.__all__)}"
        )
    ask: Callable[..., xr.Dataset] = getattr(queries, query)
    result = ask(data, **parameters)
    wanted = result if full else shown(result)
    layer = parameters.get("layer", schema.DEFAULT_LAYER)
    found = sources(data, layer=layer, split=_first_split(query, _told(query, result, parameters)))
    # whatever has a null holds as many matrices as noise
    heaviest = "noise" if parameters.get("factors") is not None else query
    plan = budget(
        heaviest, found, layer=layer, samples=_reads_samples(wanted), memory=memory,
        workers=workers, processes=processes, threads=threads, result_bytes=2 * wanted.nbytes,
    )  # fmt: skip
    if plan.block_bytes < plan.epoch_bytes:
        result = ask(in_blocks(data, plan.block_bytes), **parameters)
        wanted = result if full else shown(result)
    return Answer(result, wanted, found, plan)


def _told(query: str, result: xr.Dataset, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with the splits of errors, which the runs decide if nobody else."""
    return {**parameters, "splits": result.attrs["splits"]} if query == "error" else parameters


def _first_split(query: str, parameters: dict[str, Any]) -> str:
    keys = ("splits",) if query == "error" else ("fit_split", "select_split", "split")
    given = next((parameters[key] for key in keys if parameters.get(key)), "test")
    return given if isinstance(given, str) else str(given[0])


def _reads_samples(wanted: xr.Dataset) -> bool:
    graphs = (v.data.dask for v in wanted.variables.values() if hasattr(v.data, "dask"))
    return any(name.startswith(schema.ACTIVATIONS) for graph in graphs for name in graph.layers)


def _tasks(wanted: xr.Dataset) -> dict[Any, Any]:
    """Return the tasks that the values of a dataset need."""
    arrays = [v.data for v in wanted.variables.values() if hasattr(v.data, "__dask_graph__")]
    if not arrays:
        return {}
    graph = HighLevelGraph.merge(*(array.dask for array in arrays))
    keys = {key for array in arrays for key in flatten(array.__dask_keys__())}  # type: ignore[no-untyped-call]
    return dict(graph.cull(keys).to_dict())


class _Reading:
    """What the tasks of a graph read, by run and epoch."""

    def __init__(self, tasks: dict[Any, Any], found: Sequence[Source]) -> None:
        slots: dict[Loading, list[int]] = defaultdict(list)
        reads: set[EpochRead] = set()
        for task in tasks.values():
            kernel = task_kernel(task)
            if isinstance(kernel, Loading):
                slots[kernel].append(int(task[3][0]))
            elif isinstance(kernel, EpochRead) and kernel.name == schema.ACTIVATIONS:
                reads.add(kernel)
        by_name = {source.name: source for source in found}
        self.cached = 0
        self.bytes = sum(read.nbytes for read in reads)
        self.flops = 0.0
        self.moments = sum(len(each) for each in slots.values())
        seen = {(read.run, read.slot) for read in reads}
        for load, each in slots.items():
            run = by_name[load.leaf.run].run
            assert run is not None
            if load.cache and run.keeps_samples:
                held = cached(load.leaf, np.asarray(each))
            else:  # moments that are the record are read whatever is thought of a cache
                held = np.full(len(each), not run.keeps_samples)
            self.cached += int(held.sum())
            samples, width = run.shape(load.leaf.split, load.leaf.layer)
            self.bytes += int((~held).sum()) * samples * width * 4
            self.flops += float((~held).sum()) * samples * width**2
            seen |= {(load.leaf.run, slot) for slot in each}
        self.by_run = {run: sum(name == run for name, _ in seen) for run, _ in seen}
        for source in found:
            if source.run is None:  # a dataset is read whole, once
                samples, width = source.samples, source.width
                self.by_run[source.name] = len(source.epochs)
                self.moments += len(source.epochs)
                self.bytes += len(source.epochs) * samples * width * 4
                self.flops += len(source.epochs) * float(samples) * width**2
        self.runs, self.epochs = len(self.by_run), sum(self.by_run.values())


def _flops(query: str, found: Sequence[Source], reading: _Reading, given: dict[str, Any]) -> float:
    """Return about how many operations a query takes beside the moments; see :func:`explain`."""
    subsets = int(given.get("subsets", 100 if query == "error" else 40))
    refit = int(given.get("refit", 0))
    total = 0.0
    for source in found:
        w, epochs = float(source.width), reading.by_run.get(source.name, 0)
        sizes = subset_sizes(given.get("subset_size"), found)
        exist = [size for size in sizes if size <= source.width]
        factorise, eigen = w**3 / 3, 4 / 3 * w**3
        each = 0.0
        if query in ("reconstruction", "clones", "scaling", "dynamics"):
            each += subsets * factorise
        if query == "reconstruction" and given.get("score_split"):
            each += subsets * sum(4 * size**2 * w for size in exist)
        if query in ("spectrum", "dynamics"):
            each += eigen
        if query == "clones":
            each += np.size(given.get("threshold", 0.95)) * (w**3 + eigen)
        follow = any(given.get(key) is not None for key in ("subset_size", "splits", "factors"))
        if query == "noise" or (query == "dynamics" and follow):
            each += subsets * factorise
        if given.get("factors", "gap" if query == "noise" else None) is not None:
            null = given.get("repeats", 20) * (2 + min(4, subsets) / 3) + 100
            each += np.size(given.get("factors", "gap")) * null * w**3
        splits = given.get("splits") or (("test",) if query == "ensemble" else ())
        if splits and source.run is not None:
            outputs = source.run.array(f"{schema.READOUT}/{schema.BIAS}").shape[-1]
            for split in [splits] if isinstance(splits, str) else splits:
                samples, _ = source.run.shape(split, given.get("layer", schema.DEFAULT_LAYER))
                times = 2 if query == "ensemble" else 2 * subsets + 2 * refit * len(exist)
                each += float(times * samples * outputs) * w
            each += refit * sum(size**3 / 3 + 2 * size**2 * outputs for size in exist)
        total += epochs * each
    return total
