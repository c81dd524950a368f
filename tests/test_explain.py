"""What a query says before it runs is what it then does; bounds of memory are kept or refused."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import actstore
from actstore import queries, schema
from actstore.errors import InvalidParameterError
from actstore.queries.budget import budget, parse_bytes, resident_bytes, show_bytes
from actstore.queries.explain import Explanation
from actstore.queries.graph import task_kernel
from actstore.queries.sources import Loading, sources
from actstore.storage.run import EpochRead
from actstore.storage.writer import RunWriter
from actstore.testing import planted_dataset, planted_layer, raise_if_computes

from .command_line import own_process
from .planted import EPOCHS, SAMPLES, WIDTHS
from .recordings import every_byte, record

RUN = {"width": 32, "seed": 0, "weight_decay": 0.005}
#: per query what makes it small, and another that makes it look at samples
OPTIONS: dict[str, dict[str, Any]] = {
    "clones": {"subsets": 3},
    "dynamics": {"subsets": 3, "subset_size": [4], "splits": "test", "factors": 2, "repeats": 2},
    "ensemble": {},
    "error": {"subsets": 3, "refit": 1},
    "moments": {},
    "noise": {"subsets": 3, "repeats": 2},
    "reconstruction": {"subsets": 3, "fit_split": "train", "score_split": "test"},
    "scaling": {"subsets": 3},
    "spectrum": {},
}


def test_every_query_can_be_explained() -> None:
    assert set(OPTIONS) == set(queries.__all__)


@pytest.mark.parametrize("query", sorted(OPTIONS))
def test_explaining_computes_nothing_and_leaves_the_store_as_it_is(fresh: Path, query: str) -> None:
    before = every_byte(fresh)
    store = actstore.open(fresh)
    with raise_if_computes():
        plan = store.explain(query, **OPTIONS[query])
    assert plan.query == query
    assert plan.cached_epochs == 0
    assert min(plan.runs, plan.epochs, plan.tasks, plan.bytes_to_read, plan.flops) > 0
    assert every_byte(fresh) == before


def test_runs_epochs_and_bytes_are_those_that_are_read(fresh: Path) -> None:
    plan = actstore.open(fresh).explain("reconstruction")
    assert plan.runs == sum(2 * len(widths) for widths in WIDTHS.values())
    assert plan.epochs == plan.moments == plan.runs * len(EPOCHS)
    neurons = 2 * sum(sum(widths) for widths in WIDTHS.values())
    assert plan.bytes_to_read == len(EPOCHS) * SAMPLES["test"] * neurons * 4


def test_a_query_of_two_splits_reads_both(fresh: Path) -> None:
    store = actstore.open(fresh).sel(**RUN, epoch=-1)
    plan = store.explain("reconstruction", fit_split="train", score_split="test")
    assert plan.epochs == 1
    assert plan.moments == 2
    assert plan.bytes_to_read == sum(SAMPLES.values()) * 32 * 4


def test_what_is_cached_need_not_be_read(fresh: Path) -> None:
    store = actstore.open(fresh).sel(**RUN)
    one = store.explain("spectrum")
    store.sel(epoch=-1).spectrum().compute()
    after = store.explain("spectrum")
    assert (one.cached_epochs, after.cached_epochs) == (0, 1)
    assert after.bytes_to_read == one.bytes_to_read * (len(EPOCHS) - 1) // len(EPOCHS)
    assert after.flops < one.flops
    assert store.explain("spectrum", cache=False).cached_epochs == 0


def test_errors_read_samples_even_where_moments_are_cached(fresh: Path) -> None:
    chosen = actstore.open(fresh).sel(**RUN, epoch=-1)
    chosen.spectrum().compute()
    assert chosen.explain("spectrum").bytes_to_read == 0
    plan = chosen.explain("error", subsets=2)
    assert plan.moments == 0
    assert plan.bytes_to_read == sum(SAMPLES.values()) * 32 * 4


def test_tasks_are_those_that_dask_is_given(planted: actstore.Store) -> None:
    chosen = planted.sel(**RUN)
    answer = chosen.spectrum()
    graph = dict(answer.__dask_graph__())  # type: ignore[call-overload]
    plan = chosen.explain("spectrum")
    assert plan.tasks == len(graph)
    assert plan.moments == sum(isinstance(task_kernel(t), Loading) for t in graph.values())


def test_a_dataset_is_explained_too() -> None:
    data = planted_dataset(samples=100, width=8)
    plan = actstore.explain(data, "noise", subsets=2)
    assert (plan.runs, plan.epochs, plan.cached_epochs) == (1, 2, 0)
    assert plan.bytes_to_read == 2 * 100 * 8 * 4


def test_operations_grow_by_a_factorisation_a_subset(planted: actstore.Store) -> None:
    chosen = planted.sel(**RUN, epoch=-1)
    few, many = (chosen.explain("reconstruction", subsets=n).flops for n in (10, 1010))
    assert many - few == pytest.approx(1000 * 32**3 / 3)
    once = chosen.explain("spectrum", cache=False).flops
    assert once == pytest.approx(SAMPLES["test"] * 32**2 + 4 / 3 * 32**3)


def test_operations_grow_by_a_readout_a_subset_that_is_fitted_anew(planted: actstore.Store) -> None:
    chosen = planted.sel(**RUN, epoch=-1)
    few, many = (chosen.explain("error", refit=n).flops for n in (1, 101))
    outputs = chosen.only().readout().sizes[schema.OUTPUT]
    sizes = np.array([1, 2, 4, 8, 16, 32])
    fitted = (sizes**3 / 3 + 2 * sizes**2 * outputs).sum()
    scored = 2 * (SAMPLES["train"] + SAMPLES["test"]) * 32 * outputs * len(sizes)
    assert many - few == pytest.approx(100 * (fitted + scored))


def test_the_peak_is_program_answer_and_workers(planted: actstore.Store) -> None:
    found = sources(planted, layer=schema.DEFAULT_LAYER)
    plan = budget("noise", found, workers=3, result_bytes=1000)
    assert plan.workers == 3
    assert plan.peak_memory == plan.program_bytes + 1000 + 3 * plan.worker_bytes
    assert plan.program_bytes <= resident_bytes()


def test_less_memory_means_smaller_blocks_then_fewer_workers_then_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("actstore.queries.budget.resident_bytes", lambda: 2**28)
    splits = {"test": 40_000}
    store = record(tmp_path / "s.zarr", epochs=(0,), splits=splits, layers={"last_hidden": 64})
    found = sources(actstore.open(store), layer=schema.DEFAULT_LAYER)
    free = budget("noise", found, workers=1)
    each = free.worker_bytes
    assert free.block_bytes == 40_000 * 64 * 4
    for workers in (2, 1):  # two do not fit where there is room for one, however small their blocks
        enough = free.program_bytes + workers * each
        whole = budget("noise", found, memory=enough)
        assert (whole.workers, whole.block_bytes) == (workers, free.block_bytes)
        small = budget("noise", found, memory=enough - 10**7)
        assert (small.workers, small.block_bytes < free.block_bytes) == (workers, True)
        assert small.peak_memory <= enough - 10**7
    with pytest.raises(InvalidParameterError, match=r"memory .* was asked for, and noise at width"):
        budget("noise", found, memory=free.program_bytes + each // 4)


def test_what_the_refusal_says_is_needed_is_enough(planted: actstore.Store) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        planted.explain("noise", memory="1MiB", subsets=2)
    match = re.search(r"needs (\S+ [KMG]iB) with 1 worker", str(refused.value))
    assert match is not None
    enough = int(1.02 * parse_bytes(match[1]))  # it is shown to three digits
    assert planted.explain("noise", memory=enough, subsets=2).workers == 1


BLOCKWISE = {
    "reconstruction": {"subsets": 2},
    "error": {"subsets": 2, "refit": 2},
    "clones": {"subsets": 2, "threshold": 0.8},
    "ensemble": {},
}


@pytest.mark.parametrize("query", sorted(BLOCKWISE))
def test_blocks_of_samples_change_no_answer(tmp_path: Path, query: str) -> None:
    splits = {"train": 5000, "test": 4500}
    store = tmp_path / "s.zarr"
    for seed, width in ((0, 8), (1, 8), (0, 16)):
        name = f"width={width},seed={seed}"
        layers = {"last_hidden": width}
        record(store, name, epochs=(0, 1), seed=seed, splits=splits, layers=layers)
    whole = actstore.open(store)
    blocks = whole.narrow(lambda run: run.in_blocks(2048 * 16 * 4))
    read = blocks.sel(width=8, seed=0).dataset("train").activations
    assert len(read.chunksizes["sample"]) > 1
    # without the cache, which would hand the second the answer of the first
    options: dict[str, Any] = BLOCKWISE[query] | ({} if query == "ensemble" else {"cache": False})
    expected = getattr(whole, query)(**options).compute()
    answer = getattr(blocks, query)(**options).compute()
    for name, values in expected.data_vars.items():
        if values.dtype.kind in "fiu":
            # float32 activations are multiplied in float32, whose round-off goes with the block
            close = 1e-6 if "loss" in str(name) else 1e-12
            np.testing.assert_allclose(
                answer[name], values, rtol=close, atol=close, err_msg=str(name)
            )
        else:
            assert (answer[name].values == values.values).all()


def test_a_task_reads_no_more_than_a_block(tmp_path: Path) -> None:
    splits = {"test": 9000}
    store = record(tmp_path / "s.zarr", epochs=(0,), splits=splits, layers={"last_hidden": 8})
    run = actstore.open(store).only().in_blocks(2**18)
    array = run.dataset("test").activations.data
    reads = [task_kernel(task) for task in dict(array.dask).values()]
    sizes = [read.nbytes for read in reads if isinstance(read, EpochRead)]
    assert sum(sizes) == 9000 * 8 * 4
    assert max(sizes) <= 2**18


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("1.5 MB", 1_500_000), ("512mib", 2**29), ("7", 7), ("1KB", 1000), (9, 9)],
)
def test_sizes_are_understood_with_their_units(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "many", "0", "-1GiB", "2 Gb it", "GiB", "1e3"])
def test_a_size_that_is_none_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="give a size above 0 as"):
        parse_bytes(text)


def test_shown_sizes_are_read_back() -> None:
    for size in (1, 1023, 2048, 3 * 2**20, 5 * 2**30, 2**41):
        assert parse_bytes(show_bytes(size)) == pytest.approx(size, rel=0.01)


def test_a_query_that_is_not_there_names_those_that_are(planted: actstore.Store) -> None:
    with pytest.raises(InvalidParameterError, match="'clone' was asked for; there are clones"):
        planted.explain("clone")


# the command


def test_the_command_prints_the_plan_and_computes_nothing(cli: Any, fresh: Path) -> None:
    before = every_byte(fresh)
    asked = ["query", "noise", fresh, "--subsets", 2, "--explain"]
    lines = dict(line.split(None, 1) for line in cli(*asked).out.splitlines())
    assert lines["runs"] == "14"
    facts = json.loads(cli(*asked, "--format", "json").out)
    assert facts["runs"] == 14
    assert set(facts) == {field.name for field in dataclasses.fields(Explanation)}
    assert every_byte(fresh) == before


def test_the_command_refuses_a_memory_that_is_too_small(cli: Any, planted_path: Path) -> None:
    answer = cli("query", "spectrum", planted_path, "--memory", "1MiB")
    assert answer.code == 1
    assert "memory 1 MiB was asked for" in answer.err
    assert not answer.out


def test_the_command_answers_within_its_memory_as_without(cli: Any, planted_path: Path) -> None:
    asked = ["query", "error", planted_path, "--width", 32, "--subsets", 2, "--format", "json"]
    bounded = cli(*asked, "--memory", f"{resident_bytes() // 2**20 + 200}MiB")
    assert bounded.out == cli(*asked, "--memory", "64GiB").out


# the size of graphs


def test_a_graph_has_a_few_tasks_an_epoch_and_variable(planted: actstore.Store) -> None:
    answer: xr.Dataset = planted.clones(subsets=2)
    epochs = sum(len(run.epochs) for run in planted.values())
    assert len(dict(answer.__dask_graph__())) < 5 * len(answer.data_vars) * epochs  # type: ignore[call-overload]


# memory, measured in a process of its own

MEMORY = "320MiB"
MEASURE = (
    "from actstore.queries.budget import resident_bytes; print(resident_bytes(), file=sys.stderr)"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record an epoch of 82 MB, many times: 10 times as much as the memory that is allowed."""
    # mostly zeros, which take little room on the disk
    x = np.maximum(planted_layer(samples=80_000, width=256, signals=8, seed=0) - 1.5, 0)
    store = tmp_path_factory.mktemp("large") / "large.zarr"
    epochs = -(-10 * parse_bytes(MEMORY) // x.nbytes)
    attributes = schema.run_attributes(width=256, seed=0)
    writer = RunWriter.create(store, "wide", slots=epochs, attributes=attributes)
    readout = (np.eye(10, 256), np.zeros(10))
    labels = {"test": np.arange(len(x)) % 10}
    for epoch in range(epochs):
        writer.write(epoch, {"test": {"last_hidden": x}}, labels=labels, readout=readout)
    writer.close(complete=True)
    return store


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        ["reconstruction", "--subsets", "2", "--no-cache"],
        ["error", "--subsets", "2", "--splits", "test"],
    ],
)
def test_a_store_ten_times_the_memory_answers_the_same_within_what_is_said(
    large: Path, query: list[str]
) -> None:
    asked = ["query", query[0], large, *query[1:], "--epoch", "all", "--format", "json"]
    bound = ["--memory", MEMORY]
    said = own_process(*asked, *bound, "--explain", timeout=280).json
    assert said["bytes_to_read"] >= 10 * parse_bytes(MEMORY)
    assert said["peak_memory"] <= parse_bytes(MEMORY)
    assert said["block_bytes"] < 80_000 * 256 * 4
    answer = own_process(*asked, *bound, after=MEASURE, timeout=280)
    peak = int(answer.err.split()[-1])
    assert peak < 1.5 * said["peak_memory"]
    assert said["peak_memory"] < 1.5 * peak
    whole = own_process(*asked, "--memory", "64GiB", timeout=280).json["rows"]
    same(answer.json["rows"], whole)


@pytest.mark.slow
def test_worker_processes_stay_within_what_is_said_of_each(large: Path) -> None:
    asked = ["query", "reconstruction", large, "--subsets", "2", "--no-cache", "--epoch", "0:20"]
    bound = ["--format", "json", "--memory", "900MiB", "--workers", "2"]
    said = own_process(*asked, *bound, "--explain", timeout=280).json
    assert said["processes"] == 2
    assert said["peak_memory"] <= parse_bytes("900MiB")
    measure = (  # the largest of its children, in KiB
        "import resource; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)"
    )
    answer = own_process(*asked, *bound, after=measure, timeout=280)
    peak = int(answer.err.split()[-1])
    assert peak < 1.5 * said["worker_memory"]
    assert said["worker_memory"] < 1.5 * peak
    whole = own_process(*asked, "--format", "json", "--memory", "64GiB", timeout=280)
    same(answer.json["rows"], whole.json["rows"])


def same(rows: Any, others: Any) -> None:
    """Compare answers that were summed over other blocks of samples."""
    for one, other in zip(rows, others, strict=True):
        for key, value in other.items():
            close = 1e-6 if "loss" in key else 1e-12  # float32 products, as above
            number = isinstance(value, float)
            expected = pytest.approx(value, rel=close, abs=close) if number else value
            assert one[key] == expected, key
