"""Whatever happens to the bytes of a store is found, or harmless; repair touches no good value."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from actstore.cli import actstore as cli
from click.testing import CliRunner

import actstore
from actstore.errors import NotInStoreError, RunLockedError, StoreNotFoundError
from actstore.storage import compaction
from actstore.storage.cache import Leaf, load_moments
from actstore.storage.repair import drop_epoch, repair
from actstore.storage.successors import SUCCESSORS
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, every_byte, one_epoch, record

SHARDED = {"splits": {"test": 30, "train": 20}, "layers": {"last_hidden": 260}}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record a finished run with cached moments and an unfinished one."""
    store = tmp_path_factory.mktemp("verify") / "s"
    record(store, "done", decay=0.1, **SHARDED)  # type: ignore[arg-type]
    record(store, "begun", slots=5, complete=False, seed=1)
    for slot in (0, 2):
        load_moments(leaf(store), slot, cache=True)
    return store


@pytest.fixture
def store(tmp_path: Path, recorded: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "s"))


def leaf(store: Path) -> Leaf:
    run = actstore.open(store)["done"]
    place = (str(store), "done", "test", "last_hidden", run.attrs["created"])
    return Leaf(*place, run.keep_bits, run.successor("test", "last_hidden"))


def test_an_intact_store_has_no_findings(store: Path) -> None:
    before = every_byte(store)
    assert verify(store) == []
    assert verify(store, deep=True) == []
    assert repair(store, deep=True) == []
    assert every_byte(store) == before


def test_only_a_store_can_be_verified(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        verify(tmp_path / "nothing")
    with pytest.raises(StoreNotFoundError):
        repair(tmp_path)


# ---------------------------------------------------------------- damage of each kind


def flip(path: Path, *, place: float = 0.5, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


X = "done/test/last_hidden/activations"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    # name: (damage, words of the finding, whether it is found without reading every value)
    "shard lost": (lambda s: (s / X / "c/1/0/0").unlink(), "c/1/0/0: is missing", True),
    "shard cut": (
        lambda s: (s / X / "c/1/0/0").write_bytes((s / X / "c/1/0/0").read_bytes()[:5000]),
        "c/1/0/0: its index of chunks is damaged",
        True,
    ),
    "shard empty": (lambda s: (s / X / "c/1/0/0").write_bytes(b""), "is cut short", True),
    "chunk empty": (
        lambda s: (s / "begun/test/last_hidden/activations/c/1/0/0").write_bytes(b""),
        "is cut short",
        True,
    ),
    "bit in shard": (lambda s: flip(s / X / "c/1/0/0", place=0.3), "0/0: cannot be read", False),
    "bit in index": (lambda s: flip(s / X / "c/1/0/0", place=0.9999), "index of chunks", True),
    "label lost": (lambda s: (s / "done/test/label/c/0").unlink(), "done/test/label", True),
    "bit in label": (lambda s: flip(s / "done/test/label/c/0"), "done/test/label", True),
    "bit in samples": (lambda s: flip(s / "done/train/sample/c/0"), "done/train/sample", True),
    "marker lost": (lambda s: (s / "done/epoch/c/0").unlink(), "all epochs are lost", True),
    "bit in marker": (lambda s: flip(s / "done/epoch/c/0"), "done/epoch: cannot be read", True),
    "metric lost": (lambda s: (s / "done/train_error/c/0").unlink(), "values are miss", True),
    "bit in metric": (lambda s: flip(s / "done/train_error/c/0"), "done/train_error", True),
    "readout lost": (lambda s: (s / "done/readout/bias/c/2/0").unlink(), "bias/c/2/0", True),
    "bit in readout": (lambda s: flip(s / "done/readout/weight/c/0/0/0"), "weight/c/0", False),
    "root document": (
        lambda s: edit(s / "zarr.json", lambda d: d["attributes"].update(created="x")),
        "zarr.json: does not match its checksum",
        True,
    ),
    "run document lost": (lambda s: (s / "done/zarr.json").unlink(), "is lost to readers", True),
    "width edited": (
        lambda s: edit(s / "done/zarr.json", lambda d: d["attributes"].update(width=256)),
        "done/zarr.json: does not match its checksum",
        True,
    ),
    "fill value edited": (
        lambda s: edit(s / X / "zarr.json", lambda d: d.update(fill_value=0.0)),
        "activations/zarr.json: does not match its checksum",
        True,
    ),
    "one epoch cut off": (
        lambda s: edit(s / X / "zarr.json", lambda d: d.update(shape=[2, 30, 260])),
        r"has shape \(2, 30, 260\)",
        True,
    ),
    "one epoch more": (
        lambda s: edit(s / X / "zarr.json", lambda d: d.update(shape=[4, 30, 260])),
        r"has shape \(4, 30, 260\)",
        True,
    ),
    "layer lost": (lambda s: shutil.rmtree(s / "done/test/last_hidden"), "is missing", True),
    "split lost": (lambda s: shutil.rmtree(s / "done/test"), "is missing", True),
    "metric folder lost": (lambda s: shutil.rmtree(s / "done/test_loss"), "loss: is miss", True),
    "marker folder lost": (lambda s: shutil.rmtree(s / "done/epoch"), "no epoch can be told", True),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_found_named_and_left_alone_by_repair(store: Path, case: str) -> None:
    damage, words, shallow = DAMAGES[case]
    damage(store)
    before = every_byte(store)
    found = [str(one) for one in verify(store, deep=True)]
    assert found
    assert any(line.startswith("damage: ") for line in found)
    assert any(re.search(words, line) for line in found), found
    assert bool(verify(store)) == shallow
    assert [str(one) for one in repair(store, deep=True)] == found
    assert every_byte(store) == before


def test_values_that_are_not_finite_are_found(store: Path) -> None:
    """As a foreign writer could store them, checksums and all."""
    array = zarr.open_array(store / X, mode="r+")
    array[1, 3, 7] = np.inf
    (found,) = verify(store, deep=True)
    assert found.path == f"{X}/c/1/0/0"
    assert "1 values that are NaN or infinite" in found.problem


# ---------------------------------------------------------------- leftovers and caches


def test_leftovers_of_killed_writers_are_found_and_removed(store: Path) -> None:
    before = every_byte(store)
    leftovers = {
        "zarr.1.partial": b"x",
        "done/epoch/c/0.2.partial": b"x",
        f"{X}/c/3/0/0": b"beyond the end",
        "begun/test/last_hidden/activations/c/3/0/0": b"not finished",
        "never/zarr.1.partial": b"x",
        "done/half/zarr.1.partial": b"x",
    }
    for name, data in leftovers.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)
    found = verify(store)
    assert {one.kind for one in found} == {"leftover"}
    assert repair(store, deep=True) == []
    assert every_byte(store) == before
    assert not (store / "never").exists()


def test_a_file_that_nobody_knows_is_named_and_kept(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    (store / "done/test/notes.txt").write_text("mine")
    zarr.open_group(store, mode="r+").create_group("mine", attributes={"my": "own"})
    found = verify(store)
    assert [str(one) for one in found] == [
        "foreign: done/test/notes.txt: is no part of a store",
        "foreign: notes.txt: is no part of a store",
    ]
    assert repair(store) == found


CACHE = "done/test/last_hidden/moments"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: flip(s / CACHE / "comoment/c/2/0/0"), "cannot be read"),
        (lambda s: (s / CACHE / "mean/c/0/0").unlink(), "differs|cannot be read"),
        (lambda s: (s / CACHE / "mean/zarr.json").unlink(), "mean has lost its metadata"),
        (lambda s: (s / CACHE / "zarr.json").unlink(), "cannot be read|lost"),
        (
            lambda s: zarr.open_group(s / CACHE, mode="r+").attrs.update({"created": "earlier"}),
            "is of an earlier recording",
        ),
        (
            lambda s: zarr.open_array(s / CACHE / "mean", mode="r+").__setitem__((0, 3), 7.0),
            "slot 0 differs from the moments of the activations",
        ),
        (
            lambda s: zarr.open_array(s / CACHE / "count", mode="r+").__setitem__(0, 29),
            "slot 0 differs",
        ),
    ],
)
def test_a_wrong_cache_is_found_and_dropped(
    store: Path, damage: Callable[[Path], object], words: str
) -> None:
    data = {k: v for k, v in every_byte(store).items() if not k.startswith(CACHE)}
    damage(store)
    (found,) = verify(store, deep=True)
    assert (found.kind, found.path) == ("cache", CACHE)
    assert re.search(words, found.problem), found
    assert repair(store, deep=True) == []
    assert every_byte(store) == data


# ---------------------------------------------------------------- dropping an epoch


def test_a_dropped_epoch_is_gone_and_the_others_stay(store: Path) -> None:
    (store / X / "c/1/0/0").write_bytes(b"damaged")
    assert verify(store)
    drop_epoch(store, "done", 5)
    assert verify(store, deep=True) == []
    run = actstore.open(store)["done"]
    assert run.epochs.tolist() == [0, 10]
    assert run.complete
    x = run.dataset().activations
    for epoch in (0, 10):
        expected = one_epoch(epoch, **SHARDED)  # type: ignore[arg-type]
        assert np.array_equal(x.sel(epoch=epoch), expected["activations"]["test"]["last_hidden"])
        assert (
            float(run.metrics().train_error.sel(epoch=epoch))
            == (expected["metrics"]["train_error"])
        )
    assert run.select(-1).epochs.tolist() == [10]
    assert load_moments(leaf(store), 2, cache=True).count == 30  # still cached, and still right


def test_an_epoch_of_an_unfinished_run_can_be_recorded_again_after_dropping(store: Path) -> None:
    drop_epoch(store, "begun", 10)
    writer = RunWriter.append(store, "begun")
    assert writer.committed == (0, 5)
    writer.write(10, **one_epoch(10, seed=7))
    writer.write(11, **one_epoch(11, seed=1))
    writer.close(complete=True)
    x = actstore.open(store)["begun"].dataset().activations
    expected = one_epoch(10, seed=7)["activations"]["test"]["last_hidden"]
    assert np.array_equal(x.sel(epoch=10), expected)
    assert verify(store, deep=True) == []


def test_a_run_whose_only_epoch_is_dropped_can_be_continued(tmp_path: Path) -> None:
    record(tmp_path / "s", epochs=[3])
    drop_epoch(tmp_path / "s", "run", 3)
    assert not actstore.open(tmp_path / "s").only().complete
    assert RunWriter.append(tmp_path / "s", "run").committed == ()


def test_an_epoch_that_is_not_there_cannot_be_dropped(store: Path) -> None:
    before = every_byte(store)
    with pytest.raises(NotInStoreError, match="no epoch 7 in run 'done'; it holds 0, 5, 10"):
        drop_epoch(store, "done", 7)
    with pytest.raises(NotInStoreError, match="no epoch -1 in run 'begun'"):
        drop_epoch(store, "begun", -1)
    with pytest.raises(NotInStoreError, match="no run 'x'"):
        drop_epoch(store, "x", 0)
    assert every_byte(store) == before


def test_a_run_that_is_being_written_is_not_repaired(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "s", "run", slots=2, attributes=attributes())
    writer.write(0, **one_epoch(0))
    with pytest.raises(RunLockedError):
        drop_epoch(tmp_path / "s", "run", 0)
    assert repair(tmp_path / "s") == []
    writer.close(complete=False)


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_line_a_finding_and_exits_with_1(store: Path) -> None:
    run = CliRunner().invoke
    clean = run(cli, ["verify", str(store), "--deep"])
    assert (clean.exit_code, clean.stdout) == (0, "")
    assert "nothing found" in clean.stderr
    (store / X / "c/1/0/0").unlink()
    (store / "zarr.1.partial").write_bytes(b"x")
    found = run(cli, ["verify", str(store)])
    assert found.exit_code == 1
    assert found.stdout.splitlines() == [
        f"damage: {X}/c/1/0/0: is missing",
        "leftover: zarr.1.partial: half written by a writer that was killed",
    ]
    as_json = run(cli, ["verify", str(store), "--format", "json"])
    assert [row["kind"] for row in json.loads(as_json.stdout)["findings"]] == ["damage", "leftover"]
    repaired = run(cli, ["verify", str(store), "--repair"])
    assert (repaired.exit_code, len(repaired.stdout.splitlines())) == (1, 1)
    refused = run(cli, ["verify", str(store), "--drop-epoch", "done", "5"])
    assert (refused.exit_code, "give --repair too" in refused.stderr) == (2, True)
    dropped = run(cli, ["verify", str(store), "--repair", "--drop-epoch", "done", "5"])
    assert (dropped.exit_code, dropped.stdout) == (0, "")


# ---------------------------------------------------------------- fuzz


def readable(store: Path) -> dict[str, Any]:
    """Return every value that actstore reads, or that it refuses."""
    values: dict[str, Any] = {}

    def note(key: str, read: Callable[[], Any]) -> Any:
        try:
            values[key] = read()
        except Exception as error:  # any error is loud enough
            values[key] = error
        return values[key]

    opened = note("store", lambda: actstore.open(store))
    values.pop("store")
    if isinstance(opened, Exception):
        return {"store": opened}
    values["runs"] = list(opened)
    for name, run in opened.items():
        note(f"{name}/attrs", lambda run=run: json.dumps(run.attrs, sort_keys=True))
        note(f"{name}/epochs", lambda run=run: run.epochs.tolist())
        note(f"{name}/metrics", lambda run=run: run.metrics().to_dict())
        note(f"{name}/weight", lambda run=run: run.readout().weight.values)
        note(f"{name}/bias", lambda run=run: run.readout().bias.values)
        for split in ("test", "train"):
            note(f"{name}/{split}/label", lambda run=run, s=split: run.labels(s).to_dict())
            data = note(f"{name}/{split}", lambda run=run, s=split: run.dataset(s).activations)
            values.pop(f"{name}/{split}")
            for place in range(3):
                key = f"{name}/{split}/{place}"
                if isinstance(data, Exception):
                    values[key] = data
                else:
                    note(key, lambda data=data, p=place: data[p].values)
    for slot in (0, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            moments = note(
                f"moments/{slot}", lambda slot=slot: load_moments(leaf(store), slot, cache=True)
            )
            if not isinstance(moments, Exception):
                values[f"moments/{slot}"] = np.concatenate(
                    [[moments.count], moments.mean, moments.comoment.ravel()]
                ).round(6)
    return values


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.allclose(a, b, rtol=1e-9, equal_nan=True)
    return repr(a) == repr(b)


def damage_something(store: Path, rng: np.random.Generator) -> str:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    how = rng.choice(["flip", "flip", "truncate", "delete", "zero"])
    place = int(rng.integers(max(1, len(data))))
    if how == "flip" and data:
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
    elif how == "truncate":
        path.write_bytes(data[:place])
    elif how == "zero":
        path.write_bytes(bytes(len(data)))
    else:
        path.unlink()
    return f"{how} {path.relative_to(store)} at {place}"


def fuzz(recorded: Path, folder: Path, seeds: range) -> None:
    known = readable(recorded)
    assert not any(isinstance(value, Exception) for value in known.values())
    for seed in seeds:
        rng = np.random.default_rng(seed)
        store = folder / f"s{seed}"
        shutil.copytree(recorded, store)
        done = [damage_something(store, rng) for _ in range(rng.integers(1, 4))]
        what = f"seed {seed}: {'; '.join(done)}"
        try:
            found = verify(store, deep=True)
        except actstore.errors.ActstoreError:
            shutil.rmtree(store)
            continue  # cannot be opened at all, and says so
        damaged = any(one.kind == "damage" for one in found)
        values = readable(store)
        wrong = [
            key
            for key, value in known.items()
            if not isinstance(values.get(key), Exception) and not same(value, values.get(key))
        ]
        if not damaged:
            assert not wrong, f"{what}: {wrong} differ and nothing was found: {found}"
            assert not any(isinstance(v, Exception) for v in values.values()), f"{what}: {values}"
        if any(one.action for one in found):  # repair mends it, and makes nothing worse
            assert not any(one.action for one in repair(store, deep=True)), what
            after = readable(store)
        else:
            after = values
        for key, value in values.items():
            if not isinstance(value, Exception):
                assert same(value, after.get(key)), f"{what}: repair changed {key}"
        shutil.rmtree(store)


def test_no_damage_is_silent(recorded: Path, tmp_path: Path) -> None:
    fuzz(recorded, tmp_path, range(16))


@pytest.mark.parametrize("key", [b'"shape"', b'"dimension_names"', b'"attributes"'])
def test_metadata_whose_keys_are_damaged_are_found(store: Path, key: bytes) -> None:
    file = store / "done/train_error/zarr.json"
    file.write_bytes(file.read_bytes().replace(key, key[:2] + b"?" + key[3:]))
    assert "done/train_error/zarr.json" in [one.path for one in verify(store)]


def test_moments_of_activations_that_are_lost_are_not_dropped(store: Path) -> None:
    """A slot of the cache is damaged; the others may be all that is left of the layer."""
    layer = store / "done/test/last_hidden"
    for file in (layer / "moments/count/c/0", layer / "activations/zarr.json"):
        file.write_bytes(file.read_bytes()[:-3])
    kept = load_moments(leaf(store), 2, cache=True)
    found = repair(store, deep=True)
    assert {one.kind: one.action for one in found} == {"damage": "", "cache": ""}
    assert np.array_equal(load_moments(leaf(store), 2, cache=True).comoment, kept.comoment)


def test_no_damage_is_silent_where_a_compaction_was_killed(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(recorded, tmp_path / "killed")

    def die(group: Any) -> None:
        if SUCCESSORS in group.attrs:
            raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "settle", die)
    with pytest.raises(KeyboardInterrupt):
        list(compaction.compact(actstore.open(store).sel(run="done"), keep_bits=10))
    assert "settle" in [one.action for one in verify(store)]
    fuzz(store, tmp_path, range(6))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_damage_is_silent_a_thousand_times(recorded: Path, tmp_path: Path) -> None:
    fuzz(recorded, tmp_path, range(1000, 2000))
