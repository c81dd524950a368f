"""The store format as the README describes it, read with zarr alone; a kept store opens for ever.

``python -m tests.test_format`` makes the kept store, once a format. It is never made anew.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr

import actstore
from actstore.storage.repair import drop_epoch
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, one_epoch, record

README = Path(__file__).parents[1] / "README.md"
KEPT = Path(__file__).parent / "data" / "store-format-1.zarr"
SHAPE: Any = {"splits": {"test": 12}, "layers": {"last_hidden": 5}}


def make(path: Path) -> None:
    """Record each thing that a store can hold: a finished run, a dropped epoch, an open run."""
    record(path, "finished", epochs=(0, 1, 5), weight_decay=0.005, **SHAPE)
    drop_epoch(path, "finished", 1)
    record(path, "open", epochs=(0,), slots=3, complete=False, seed=1, weight_decay=0.0, **SHAPE)
    RunWriter.create(path, "begun", slots=2, attributes=attributes(width=5, seed=2)).close(
        complete=False
    )
    given = {**attributes(width=260, seed=3), "keep_bits": 7}  # wide enough for a shard
    writer = RunWriter.create(path, "rounded", slots=1, attributes=given)
    writer.write(3, **one_epoch(3, seed=3, splits={"test": 10}, layers={"last_hidden": 260}))
    writer.close(complete=True)
    actstore.open(path).sel(run="finished").moments(cache=True).compute(scheduler="synchronous")


def read_by_the_text(path: Path) -> dict[str, Any]:
    """Read a store with zarr alone, doing what the README says and nothing else."""
    root = zarr.open_group(path, mode="r", zarr_format=3)
    assert root.attrs["actstore_format"] == 1
    runs: dict[str, Any] = {}
    for name, group in root.groups():
        if not {"width", "seed", "hyper_parameters"} <= set(group.attrs):
            continue
        marker = np.asarray(group["epoch"][:])  # type: ignore[index]
        slots = np.flatnonzero(marker != -1)
        run: dict[str, Any] = {"epochs": marker[slots].tolist(), "splits": {}}
        runs[name] = run
        if not len(slots):
            continue
        held: Any = dict(group.attrs)

        def at(path: str, group: zarr.Group = group) -> Any:
            return group[path]

        run["metrics"] = {metric: at(metric)[:][slots] for metric in held["metrics"]}
        if held["outputs"]:
            run["weight"] = np.stack([at("readout/weight")[s] for s in slots])
            run["bias"] = np.stack([at("readout/bias")[s] for s in slots])
            assert run["bias"].shape == (len(slots), held["outputs"])
        for split, parts in held["splits"].items():
            found = run["splits"][split] = {"label": at(f"{split}/label")[:]}
            found["sample"] = at(f"{split}/sample")[:]
            for layer, neurons in parts["layers"].items():
                if "activations" in held.get("keep", ["activations"]):
                    x = np.stack([at(f"{split}/{layer}/activations")[s] for s in slots])
                    assert x.shape == (len(slots), parts["samples"], neurons)
                    found[layer] = x
                if f"{split}/{layer}/moments" in group:
                    moments = at(f"{split}/{layer}/moments")
                    same = ("created", "keep_bits")
                    if all(moments.attrs.get(key) == held.get(key) for key in same):
                        count = moments["count"][:]
                        found[f"{layer} moments"] = {
                            int(marker[s]): (count[s], moments["mean"][s], moments["comoment"][s])
                            for s in slots
                            if count[s] != -1
                        }
    return runs


def check(path: Path) -> None:
    """Compare what is read by the text with what was recorded and with what actstore reads."""
    seen = read_by_the_text(path)
    assert {name: run["epochs"] for name, run in seen.items()} == {
        "finished": [0, 5], "open": [0], "begun": [], "rounded": [3]
    }  # fmt: skip
    for name, seed in (("finished", 0), ("open", 1)):
        for place, epoch in enumerate(seen[name]["epochs"]):
            expected = one_epoch(epoch, seed=seed, **SHAPE)
            test = seen[name]["splits"]["test"]
            x = expected["activations"]["test"]["last_hidden"]
            assert np.array_equal(test["last_hidden"][place], x)
            assert np.array_equal(test["label"], expected["labels"]["test"])
            assert np.array_equal(test["sample"], expected["samples"]["test"])
            assert np.array_equal(seen[name]["weight"][place], expected["readout"][0])
            assert np.array_equal(seen[name]["bias"][place], expected["readout"][1])
            for metric, value in expected["metrics"].items():
                assert seen[name]["metrics"][metric][place] == value
    moments = seen["finished"]["splits"]["test"]["last_hidden moments"]
    assert sorted(moments) == [0, 5]
    for epoch, (count, mean, comoment) in moments.items():
        x = one_epoch(epoch, seed=0, **SHAPE)["activations"]["test"]["last_hidden"].astype("f8")
        assert count == 12
        assert mean == pytest.approx(x.mean(0))
        assert comoment == pytest.approx(np.cov(x.T) * 11)
    x = seen["rounded"]["splits"]["test"]["last_hidden"]
    exact = one_epoch(3, seed=3, splits={"test": 10}, layers={"last_hidden": 260})
    exact = exact["activations"]["test"]["last_hidden"]
    assert 0 < np.max(np.abs(x[0] - exact) / np.abs(exact)) <= 2.0**-8
    opened = actstore.open(path)
    for name in ("finished", "open", "rounded"):
        held = seen[name]["splits"]["test"]["last_hidden"]
        assert np.array_equal(opened[name].dataset().activations, held)
    assert verify(path, deep=True) == []


def test_a_store_is_read_with_zarr_alone_by_what_the_readme_says(tmp_path: Path) -> None:
    make(tmp_path / "s")
    check(tmp_path / "s")


def test_the_kept_store_opens_and_holds_what_was_recorded(tmp_path: Path) -> None:
    assert sum(f.stat().st_size for f in KEPT.rglob("*") if f.is_file()) < 100_000
    path = Path(shutil.copytree(KEPT, tmp_path / "kept.zarr"))  # a query may write its cache
    check(path)
    opened = actstore.open(path)
    assert opened.sel(run="finished").clones(threshold=0.9).n_clones.shape[:2] == (1, 2)
    writer = RunWriter.append(path, "open")
    writer.write(7, **one_epoch(7, seed=1, **SHAPE))
    writer.close(complete=True)
    assert verify(path, deep=True) == []


def test_checksums_are_those_that_the_readme_defines(tmp_path: Path) -> None:
    make(tmp_path / "s")
    documents = list((tmp_path / "s").rglob("zarr.json"))
    assert len(documents) > 20
    for file in documents:
        document = json.loads(file.read_text())
        if not document["attributes"]:
            assert document["node_type"] == "group"
            continue
        found = document["attributes"].pop("metadata_crc32c")
        document.pop("consolidated_metadata", None)
        if (document.get("dimension_names") or [None])[0] == "epoch":
            del document["shape"][0]
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        assert found == f"{google_crc32c.value(text.encode()):08x}"
        if "data_crc32c" in document["attributes"]:
            array: Any = zarr.open_array(file.parent, mode="r")
            data = np.asarray(array[:]).astype("<i8").tobytes()
            assert document["attributes"]["data_crc32c"] == f"{google_crc32c.value(data):08x}"


def test_every_array_of_a_store_is_in_the_text(tmp_path: Path) -> None:
    make(tmp_path / "s")
    text = README.read_text("utf-8").split("## The store format")[1].split("\n## ")[0]
    assert len(text.splitlines()) <= 80
    shapes = {}
    for path, node in zarr.open_group(tmp_path / "s", mode="r").members(max_depth=None):
        names = path.split("/")
        if isinstance(node, zarr.Array):
            dims: Any = node.metadata.dimension_names  # type: ignore[union-attr]
            shapes[names[-1]] = (", ".join(dims), str(node.dtype))
    for name, (dims, dtype) in shapes.items():
        listed = name if name not in ("train_error", "test_loss") else "<metric>"
        lines = [line.split() for line in text.splitlines() if line.split()[:1] == [listed]]
        assert any(dims in " ".join(line) and dtype in " ".join(line) for line in lines), name
    held = set(zarr.open_group(tmp_path / "s/rounded", mode="r").attrs)
    assert {name for name in held if f"`{name}`" not in text} == set()


if __name__ == "__main__":
    if KEPT.exists():
        sys.exit(f"{KEPT} exists: a kept store is never made anew")
    KEPT.parent.mkdir(exist_ok=True)
    make(KEPT)
