"""Queries read nothing until values are asked for, and activations only once."""

import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
import zarr

import actstore
from actstore import queries, schema
from actstore.errors import StoreCorruptError, StoreWarning
from actstore.queries import sources
from actstore.queries.table import shown
from actstore.storage import cache
from actstore.storage.writer import RunWriter
from actstore.testing import planted_dataset, raise_if_computes

from .command_line import own_process
from .planted import EPOCHS, SAMPLES
from .recordings import attributes, every_byte, one_epoch

NAMES = sorted(queries.__all__)
#: what is known without reading activations: metrics, and what follows from them and from names
IN_MEMORY = {
    "train_error", "test_error", "train_loss", "seeds", "interpolation_epoch", "equal_neurons",
    "gamma", "gamma_low", "gamma_high", "gamma_window_low", "gamma_window_high", "error_inf",
}  # fmt: skip
#: these need labels and readout, which only a store has
OF_A_STORE = {"error", "ensemble"}


def without_activations(store: Path) -> Path:
    """Remove every byte of activations, and leave their arrays."""
    for chunks in store.glob("*/*/*/activations/c"):
        shutil.rmtree(chunks)
    return store


def ask(store: Any, name: str) -> xr.Dataset:
    return getattr(queries, name)(store)  # type: ignore[no-any-return]


# building a graph


@pytest.mark.parametrize("name", NAMES)
def test_a_question_is_built_without_computing_anything(planted: actstore.Store, name: str) -> None:
    with raise_if_computes():
        answer = ask(planted.sel(width=[8, 16]), name)
    eager = {str(k) for k, v in answer.data_vars.items() if v.chunks is None}
    assert eager <= IN_MEMORY
    assert len(answer.data_vars) > len(eager)


@pytest.mark.parametrize("name", NAMES)
def test_what_rows_show_is_chosen_without_computing_anything(
    planted: actstore.Store, name: str
) -> None:
    options = {"dynamics": {"subset_size": [2, 4]}}.get(name, {})
    answer = getattr(queries, name)(planted.sel(width=[8, 16]), **options)
    with raise_if_computes():
        rows = shown(answer)
    assert any(v.chunks is not None for v in rows.data_vars.values())


@pytest.mark.parametrize("name", sorted(set(NAMES) - OF_A_STORE))
def test_a_question_to_a_dataset_is_built_without_computing_anything(name: str) -> None:
    for data in (planted_dataset(), planted_dataset().chunk(sample=100), planted_dataset().load()):
        with raise_if_computes():
            answer = ask(data, name)
        assert any(v.chunks is not None for v in answer.data_vars.values())


def test_every_question_is_built_on_a_store_that_has_lost_its_activations(fresh: Path) -> None:
    """Nothing of them can have been read then, nor are they written."""
    store = actstore.open(without_activations(fresh)).sel(width=[8, 16])
    before = every_byte(fresh)
    answers = {name: ask(store, name) for name in NAMES}
    assert every_byte(fresh) == before
    with pytest.raises(StoreCorruptError, match=r"activations.* cannot be read .*missing"):
        answers["reconstruction"].compute()


def test_shapes_are_known_before_values(planted: actstore.Store) -> None:
    for name in ("reconstruction", "clones", "noise", "spectrum", "dynamics", "moments"):
        answer = ask(planted.sel(width=[8, 16], seed=0), name)
        values = answer.compute()
        assert values.sizes == answer.sizes
        for key, variable in answer.data_vars.items():
            assert values[key].dtype == variable.dtype, f"{name}.{key}"
            assert values[key].shape == variable.shape


@pytest.fixture(scope="module")
def long_sweep(tmp_path_factory: pytest.TempPathFactory) -> actstore.Store:
    """Make a store of 8 widths that says it holds 200 epochs: no graph reads them."""
    path = tmp_path_factory.mktemp("long") / "long.zarr"
    for width in (8, 16, 32, 64, 96, 128, 192, 256):
        layers = {"last_hidden": width}
        writer = RunWriter.create(path, f"w{width}", slots=200, attributes=attributes(width=width))
        writer.write(0, **one_epoch(0, layers=layers))
        writer.close(complete=False)
        marker: Any = zarr.open_group(path, mode="r+")[f"w{width}/{schema.EPOCH}"]
        marker[:] = np.arange(200)
    return actstore.open(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in NAMES if name not in ("ensemble", "scaling")),  # of one epoch
        ("dynamics", {"subset_size": [4, 8]}),
        ("error", {"refit": 10}),
    ],
)
def test_a_graph_of_200_epochs_and_8_widths_has_few_tasks_and_is_built_at_once(
    long_sweep: actstore.Store, name: str, options: dict[str, Any]
) -> None:
    """The aim is a second on an idle core; the CPU time of this thread stays below four."""
    begun = time.thread_time()
    answer = getattr(queries, name)(long_sweep, **options)
    spent = time.thread_time() - begun
    assert answer.sizes["epoch"] == 200
    tasks = len(dict(answer.__dask_graph__()))  # type: ignore[arg-type]
    per_variable = tasks / (8 * 200 * len(answer.data_vars))
    assert per_variable < 12, f"{tasks} tasks"
    assert spent < 4, f"{spent:.2f} s"


# computing it


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Note every reading of the moments of an epoch."""
    seen: list[tuple[str, str, int]] = []

    def count(leaf: Any, slot: int, **options: Any) -> Any:
        seen.append((leaf.run, leaf.split, slot))
        return cache.load_moments(leaf, slot, **options)

    monkeypatch.setattr(sources, "load_moments", count)
    return seen


@pytest.mark.parametrize("name", ["reconstruction", "clones", "noise", "scaling", "dynamics"])
def test_an_epoch_is_loaded_once_for_all_variables_of_an_answer(
    planted: actstore.Store, counted: list[tuple[str, str, int]], name: str
) -> None:
    chosen = planted.sel(width=[8, 16], seed=0)
    answer = ask(chosen, name)
    assert counted == []
    answer.compute()
    epochs = 1 if name == "scaling" else len(EPOCHS)
    assert len(counted) == len(set(counted)) == len(chosen) * epochs


def test_two_splits_of_one_question_load_each_once(
    planted: actstore.Store, counted: list[tuple[str, str, int]]
) -> None:
    chosen = planted.sel(width=16, seed=0, weight_decay=0.005)
    chosen.clones(select_split="train", score_split="test").drop_vars(
        ["clone_error_train", "clone_error_test"], errors="ignore"
    ).compute()
    assert sorted(split for _, split, _ in counted) == ["test"] * 3 + ["train"] * 3


def test_asking_for_one_epoch_loads_one(
    planted: actstore.Store, counted: list[tuple[str, str, int]]
) -> None:
    planted.sel(width=16).reconstruction(subsets=2).sel(epoch=5).isel(run=0).compute()
    assert [slot for _, _, slot in counted] == [EPOCHS.index(5)]


def test_the_graph_gives_the_same_answer_on_every_scheduler(planted: actstore.Store) -> None:
    answer = planted.sel(width=[8, 16], seed=0, weight_decay=0.005, epoch=-1).clones(subsets=4)
    with dask.config.set(scheduler="synchronous"):
        expected = answer.compute()
        # what worker processes are sent (tests of the command line start some)
        travelled = cloudpickle.loads(cloudpickle.dumps(answer)).compute()
    with dask.config.set(scheduler="threads", num_workers=4):
        xr.testing.assert_identical(answer.compute(), expected)
    xr.testing.assert_identical(travelled, expected)


def test_tasks_do_not_carry_the_data_of_a_dataset() -> None:
    """Each task is pickled with what it refers to: the samples must not travel with every one."""
    data = planted_dataset(samples=4000, width=32).load()
    whole = data.activations.nbytes
    for name in ("reconstruction", "clones", "noise"):
        size = len(cloudpickle.dumps(dict(ask(data, name).__dask_graph__())))  # type: ignore[arg-type]
        assert size < 3 * whole, f"{name}: {size} bytes for {whole} of data"


# the cache


@pytest.fixture
def chosen(fresh: Path) -> Callable[[], actstore.Store]:
    """Open one run of a store without a cache, anew at each call."""
    return lambda: actstore.open(fresh).sel(width=16, seed=0, weight_decay=0.005)


def comoments(store: Path) -> list[Path]:
    return sorted(store.glob("width=16,weight_decay=0.005,seed=0/test/*/moments/comoment/c/*/*/*"))


def test_a_second_question_reads_no_activations(
    fresh: Path, chosen: Callable[[], actstore.Store]
) -> None:
    first = chosen().reconstruction(subsets=3).compute()
    assert len(comoments(fresh)) == len(EPOCHS)
    without_activations(fresh)
    xr.testing.assert_identical(chosen().reconstruction(subsets=3).compute(), first)
    assert chosen().scaling(threshold=0.5).compute().has_clones.all()


def test_without_cache_nothing_is_written_and_nothing_kept_is_read(
    fresh: Path, chosen: Callable[[], actstore.Store]
) -> None:
    before = every_byte(fresh)
    expected = chosen().reconstruction(subsets=3, cache=False).compute()
    assert every_byte(fresh) == before
    chosen().moments(cache=True).compute()
    for path in comoments(fresh):
        path.write_bytes(b"damaged")
    xr.testing.assert_identical(chosen().reconstruction(subsets=3, cache=False).compute(), expected)


def test_moments_larger_than_the_activations_are_kept_only_on_request(fresh: Path) -> None:
    wide = 64
    assert 2 * wide >= SAMPLES["train"]
    run = actstore.open(fresh).sel(width=wide, seed=0, weight_decay=0.005, epoch=-1)
    run.moments(split="train").compute()
    assert not list(fresh.glob("*/train/*/moments"))
    run.moments(split="train", cache=True).compute()
    assert list(fresh.glob("*/train/*/moments"))


@pytest.mark.parametrize("damage", ["bytes", "empty", "lost chunk", "document"])
def test_a_damaged_cache_is_computed_anew_and_said_so(
    fresh: Path, chosen: Callable[[], actstore.Store], damage: str
) -> None:
    expected = chosen().reconstruction(subsets=3).compute()
    first = comoments(fresh)[0]
    document = first.parents[4] / "zarr.json"
    if damage == "lost chunk":
        first.unlink()
    elif damage == "document":
        document.write_text("{")
    else:
        first.write_bytes(b"" if damage == "empty" else b"\0" * first.stat().st_size)
    with pytest.warns(StoreWarning, match="damaged") as warned:
        again = chosen().reconstruction(subsets=3).compute()
    xr.testing.assert_identical(again, expected)
    assert all("computed anew" in str(w.message) for w in warned)
    with warnings.catch_warnings():  # and mended
        warnings.simplefilter("error")
        xr.testing.assert_identical(chosen().reconstruction(subsets=3).compute(), expected)


def test_the_cache_of_an_earlier_recording_is_not_believed(
    fresh: Path, chosen: Callable[[], actstore.Store]
) -> None:
    expected = chosen().reconstruction(subsets=3).compute()
    for document in fresh.glob("*/test/*/moments/zarr.json"):
        document.write_text(document.read_text().replace('"created": "20', '"created": "19'))
    with pytest.warns(StoreWarning, match="earlier recording"):
        again = chosen().reconstruction(subsets=3).compute()
    xr.testing.assert_identical(again, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen().reconstruction(subsets=3).compute()


def test_a_store_that_cannot_be_written_is_answered_with_a_warning(
    fresh: Path, chosen: Callable[[], actstore.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    expected = chosen().reconstruction(subsets=3, cache=False).compute()
    before = every_byte(fresh)
    # permissions do not stop root, who runs tests in containers
    monkeypatch.setattr(cache, "_group", refuse)
    with pytest.warns(StoreWarning, match="not cached .Read-only file system.*--no-cache"):
        answer = chosen().reconstruction(subsets=3).compute()
    xr.testing.assert_identical(answer, expected)
    assert every_byte(fresh) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen().reconstruction(subsets=3, cache=False).compute()


@pytest.mark.parametrize("stale", [False, True])
def test_threads_that_make_one_cache_do_not_get_in_each_others_way(
    fresh: Path, stale: bool
) -> None:
    def few() -> actstore.Store:
        return actstore.open(fresh).sel(width=[16, 32], seed=0)

    expected = few().moments(cache=False).compute()
    if stale:
        few().sel(epoch=0).moments().compute()
        for document in fresh.glob("*/test/*/moments/zarr.json"):
            document.write_text(document.read_text().replace('"created": "20', '"created": "19'))

    def one(_: int) -> xr.Dataset:
        with dask.config.set(scheduler="threads", num_workers=4):
            return few().moments().compute()

    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        if stale:
            warnings.simplefilter("ignore", StoreWarning)
        answers = list(pool.map(one, range(4)))
    for answer in answers:
        xr.testing.assert_identical(answer, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(few().moments().compute(), expected)


def test_processes_that_make_one_cache_do_not_get_in_each_others_way(
    fresh: Path, chosen: Callable[[], actstore.Store]
) -> None:
    expected = chosen().moments(cache=False).compute()
    command = ("query", "moments", fresh, "--width", 16, "--epoch", "all", "--format", "json")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: own_process(*command), range(2)))
    assert [(a.code, a.err) for a in answers] == [(0, "")] * 2
    assert answers[0].json == answers[1].json
    without_activations(fresh)
    xr.testing.assert_identical(chosen().moments().compute(), expected)
