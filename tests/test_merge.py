"""Stores of several machines become one, run by run, whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import actstore
from actstore.errors import (
    InvalidParameterError,
    RunExistsError,
    RunLockedError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreWriteError,
)
from actstore.storage import merging
from actstore.storage.cache import Leaf, load_moments
from actstore.storage.local import LocalFiles
from actstore.storage.merging import merge
from actstore.storage.repair import repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, every_byte, one_epoch, record

Call = Callable[..., Any]


@pytest.fixture
def stores(tmp_path: Path, recorded: list[Path]) -> list[Path]:
    return [Path(shutil.copytree(path, tmp_path / path.name)) for path in recorded]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Record on two machines: a finished run each with a cache, and an unfinished one."""
    folder = tmp_path_factory.mktemp("merge")
    one = record(folder / "one", "a", seed=0)
    record(one, "unfinished", seed=5, slots=6, complete=False)
    two = record(folder / "two", "b", seed=1)
    created = actstore.open(one)["a"].attrs["created"]
    load_moments(Leaf(str(one), "a", "test", "last_hidden", created), 1, cache=True)
    return [one, two]


def below(store: Path, run: str) -> dict[str, bytes]:
    return {k: v for k, v in every_byte(store).items() if k.startswith(f"{run}/")}


def test_runs_are_copied_byte_for_byte_and_continued(
    stores: list[Path], tmp_path: Path, cli: Call
) -> None:
    answer = cli("merge", tmp_path / "all", *stores)
    assert answer.code == 0, answer.err
    assert [line.split(" of ")[0] for line in answer.out.splitlines()] == [
        "copied: a", "copied: unfinished", "copied: b"
    ]  # fmt: skip
    for store, runs in zip(stores, (["a", "unfinished"], ["b"]), strict=True):
        for run in runs:
            assert below(tmp_path / "all", run) == below(store, run)
    assert verify(tmp_path / "all", deep=True) == []
    writer = RunWriter.append(tmp_path / "all", "unfinished")
    writer.write(20, **one_epoch(20, seed=5))
    writer.close(complete=True)
    assert verify(tmp_path / "all", deep=True) == []


def test_merging_again_copies_nothing(stores: list[Path], tmp_path: Path) -> None:
    merge(tmp_path / "all", stores)
    before = every_byte(tmp_path / "all")
    outcomes = [one.outcome for one in merge(tmp_path / "all", stores)]
    assert outcomes == ["same", "same", "same"]
    assert every_byte(tmp_path / "all") == before


def test_different_runs_of_one_name_are_refused_skipped_or_replaced(
    stores: list[Path], tmp_path: Path
) -> None:
    target = record(tmp_path / "all", "b", seed=7)
    before = every_byte(target)
    with pytest.raises(RunExistsError, match="hold different runs called 'b'"):
        merge(target, stores)
    with pytest.raises(RunExistsError, match="hold different runs called 'b'"):
        merge(tmp_path / "new", [target, stores[1]])
    assert every_byte(target) == before
    assert not (tmp_path / "new").exists()
    assert merge(target, stores[1:], existing="skip")[0].outcome == "skipped"
    assert every_byte(target) == before
    assert merge(target, stores[1:], existing="overwrite")[0].outcome == "replaced"
    assert below(target, "b") == below(stores[1], "b")
    assert verify(target, deep=True) == []


def test_what_cannot_be_merged_is_refused_before_anything_is_copied(
    stores: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "all"
    with pytest.raises(StoreNotFoundError):
        merge(target, [*stores, tmp_path / "nothing"])
    with pytest.raises(InvalidParameterError, match="given twice"):
        merge(stores[0], [stores[1], stores[0]])
    with pytest.raises(InvalidParameterError, match="expected error, skip or overwrite"):
        merge(target, stores, existing="no")  # type: ignore[arg-type]
    writer = RunWriter.append(stores[0], "unfinished")
    with pytest.raises(RunLockedError, match="wait for it"):
        merge(target, stores)
    writer.close(complete=False)
    shutil.rmtree(stores[1] / "b/test/last_hidden/activations/c/1")
    with pytest.raises(StoreCorruptError, match=r"run 'b' .* is damaged"):
        merge(target, stores)
    assert not target.exists()


def test_a_run_that_went_on_replaces_its_earlier_copy(stores: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "all"
    merge(target, stores[:1])
    writer = RunWriter.append(stores[0], "unfinished")
    writer.write(20, **one_epoch(20, seed=5))
    writer.close(complete=True)
    earlier = shutil.copytree(target, tmp_path / "earlier")
    outcomes = {one.run: one.outcome for one in merge(target, stores[:1])}
    assert outcomes == {"a": "same", "unfinished": "replaced"}
    assert below(target, "unfinished") == below(stores[0], "unfinished")
    assert {one.outcome for one in merge(target, [earlier])} == {"same"}
    assert actstore.open(target)["unfinished"].epochs.tolist() == [0, 5, 10, 20]


def test_a_run_without_an_epoch_is_left_out_and_gives_way(
    stores: list[Path], tmp_path: Path
) -> None:
    RunWriter.create(stores[0], "begun", slots=2, attributes=attributes()).close(complete=False)
    RunWriter.create(tmp_path / "all", "b", slots=2, attributes=attributes()).close(complete=False)
    outcomes = {one.run: one.outcome for one in merge(tmp_path / "all", stores)}
    assert outcomes == {"a": "copied", "b": "copied", "begun": "empty", "unfinished": "copied"}
    assert below(tmp_path / "all", "b") == below(stores[1], "b")


def test_a_group_of_the_users_own_is_not_replaced(stores: list[Path], tmp_path: Path) -> None:
    merge(tmp_path / "all", stores[:1])
    (tmp_path / "all" / "b").mkdir()
    (tmp_path / "all" / "b" / "notes.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="something else called 'b'"):
        merge(tmp_path / "all", stores)
    assert (tmp_path / "all" / "b" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("step", "killed"),
    [(0, True), (1, True), (4, True), (8, True), (9, True), (10, True), (4, False), (10, False)],
)
def test_a_copy_that_stops_anywhere_is_not_seen_and_is_repeated(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, killed: bool
) -> None:
    """Stop before each change of the disk, by a full disk or, without a farewell, by a kill."""
    target = tmp_path / "all"
    record(target, "mine", epochs=(0,), seed=3)
    before = every_byte(target)
    steps, inside = 0, False

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal steps, inside
            if inside:  # a part of one step
                return function(*arguments, **keywords)
            steps += 1
            if steps > step:
                raise OSError(28, "No space left on device")
            inside = True
            try:
                return function(*arguments, **keywords)
            finally:
                inside = False

        return call

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_copy_tree", counted(merging._copy_tree))
        for name in ("create", "put"):
            patch.setattr(LocalFiles, name, counted(getattr(LocalFiles, name)))
        patch.setattr(merging.layout, "make_marker", counted(merging.layout.make_marker))
        if killed:
            patch.setattr(merging, "delete_run", lambda *_: None)
        with pytest.raises(StoreWriteError, match=r"No space left on device.*merge again"):
            merge(target, stores[1:])
    seen = actstore.open(target)
    whole = step == 10  # the marker is there, and only "complete" is not
    visible = [name for name, run in seen.items() if len(run.epochs)]
    assert visible == (["b", "mine"] if killed and whole else ["mine"])
    if not killed:
        assert every_byte(target) == before
    assert all(one.harmless for one in verify(target, deep=True))
    merge(target, stores[1:])
    assert actstore.open(target)["b"].epochs.tolist() == [0, 5, 10]
    assert repair(target, deep=True) == []
