"""Where moments are all that a run keeps they are the record: checked, kept, merged, removed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore import schema
from actstore.errors import ActstoreError, StoreCorruptError
from actstore.kernels.moments import moments
from actstore.storage.merging import merge
from actstore.storage.removal import remove
from actstore.storage.repair import drop_epoch, repair
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import every_byte, one_epoch
from .test_crash import killed_in

Call = Callable[..., Any]
EPOCHS = (0, 5, 10)
WIDTHS = {split: {"last_hidden": 8} for split in ("train", "test")}


def epoch_of_moments(epoch: int, *, seed: int = 0) -> dict[str, Any]:
    """Return what :meth:`RunWriter.write` takes of an epoch whose samples are not kept."""
    whole = one_epoch(epoch, seed=seed)
    activations = whole.pop("activations")
    summed = {
        split: {layer: moments(x) for layer, x in layers.items()}
        for split, layers in activations.items()
    }
    return {"activations": WIDTHS, "moments": summed, **whole}


def record(store: Path, name: str = "run", *, seed: int = 0, complete: bool = True) -> Path:
    """Record a run of known moments and nothing else of its layer."""
    attributes = schema.run_attributes(width=8, seed=seed, keep=("moments",))
    writer = RunWriter.create(store, name, slots=4, attributes=attributes)
    for epoch in EPOCHS:
        writer.write(epoch, **epoch_of_moments(epoch, seed=seed))
    writer.close(complete=complete)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return record(tmp_path / "s")


def comoments(store: Path, name: str = "run") -> Any:
    return actstore.open(store).sel(run=name).moments(split="test").comoment.values[0]


def expected(*, seed: int = 0, epochs: tuple[int, ...] = EPOCHS) -> Any:
    return np.stack(
        [epoch_of_moments(e, seed=seed)["moments"]["test"]["last_hidden"].comoment for e in epochs]
    )


def stored(store: Path) -> list[Path]:
    """Return every file that holds a part of the moments of a split, or of their metadata."""
    files = sorted(p for p in store.glob("run/test/last_hidden/moments/**/*") if p.is_file())
    assert len(files) > 10
    return files


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_store_of_moments_is_whole(store: Path) -> None:
    assert verify(store, deep=True) == []
    np.testing.assert_array_equal(comoments(store), expected())


@pytest.mark.parametrize("harm", [flip, halve, Path.unlink])
def test_whatever_is_lost_of_moments_is_damage_and_is_left_alone(store: Path, harm: Any) -> None:
    """There are no activations to compute them from again: repairing would finish the loss."""
    for path in stored(store):
        before = path.read_bytes()
        harm(path)
        harmed = every_byte(store)
        found = verify(store, deep=True)
        assert [f for f in found if f.kind == "damage"], path
        assert not [f for f in found if f.harmless], path
        assert repair(store, deep=True) == found
        assert every_byte(store) == harmed
        try:
            read = comoments(store)
        except ActstoreError:
            pass
        else:  # what was harmed is not needed to read the values, which then are right
            np.testing.assert_array_equal(read, expected())
        path.write_bytes(before)
    assert verify(store, deep=True) == []


def test_lost_moments_are_never_a_number(store: Path) -> None:
    for path in store.glob("run/test/last_hidden/moments/*/c/1*"):
        before = {p: p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file()}
        for part in before:
            part.unlink()
        with pytest.raises(StoreCorruptError, match="keeps moments only, and those of test"):
            comoments(store)
        for part, data in before.items():
            part.write_bytes(data)
    np.testing.assert_array_equal(comoments(store), expected())


def test_moments_of_a_killed_epoch_are_rolled_back_byte_for_byte(tmp_path: Path) -> None:
    store = record(tmp_path / "s", complete=False)
    before = every_byte(store)
    killed_in("RunArrays.write_metrics", store, epoch=12, of="moments")
    assert every_byte(store) != before
    found = verify(store, deep=True)
    assert found
    assert all(finding.harmless for finding in found)
    np.testing.assert_array_equal(comoments(store), expected())
    assert repair(store, deep=True) == []
    assert every_byte(store) == before


def test_an_epoch_can_be_dropped_or_removed_and_the_others_keep_their_moments(
    store: Path, cli: Call
) -> None:
    drop_epoch(store, "run", 5)
    np.testing.assert_array_equal(comoments(store), expected(epochs=(0, 10)))
    assert verify(store, deep=True) == []
    assert cli("rm", store, "--run", "run", "--epoch", "0", "--yes").code == 0
    np.testing.assert_array_equal(comoments(store), expected(epochs=(10,)))
    assert verify(store, deep=True) == []
    remove(actstore.open(store), whole=True)
    assert len(actstore.open(store)) == 0


def test_moments_are_merged_bit_for_bit_and_damaged_ones_refused(tmp_path: Path) -> None:
    one, two = record(tmp_path / "one"), record(tmp_path / "two", "other", seed=1)
    merge(one, [two], existing="error")
    assert verify(one, deep=True) == []
    np.testing.assert_array_equal(comoments(one), expected())
    np.testing.assert_array_equal(comoments(one, "other"), expected(seed=1))
    three = record(tmp_path / "three", "run", seed=2)
    (three / "run/test/last_hidden/moments/comoment/c/1/0/0").unlink()
    record(tmp_path / "three", "third", seed=3)
    before = every_byte(one)
    with pytest.raises(StoreCorruptError, match=r"run 'run' of .* is damaged"):
        merge(one, [three], existing="overwrite")
    assert every_byte(one) == before
