"""Examples run as they are written, on the store that the first of them records."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from .bucket import BUCKET, Server, wire_to
from .examples import FOLDER, run_example
from .planted import record_run

pytestmark = pytest.mark.timeout(900)  # the demonstration trains for a minute, or five if others do


def test_an_xarray_session_selects_computes_and_plots(
    own_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = tmp_path / "session.png"
    before = {path: os.stat(path).st_mtime_ns for path in own_store.rglob("activations/c/**/*")}
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("it must not wait for anyone"))
    plt.switch_backend("Agg")
    run_example("xarray_session.py", own_store, figure)
    plt.close("all")
    said = capsys.readouterr().out
    assert "dask.array" in said  # lazy when it is first printed
    assert "between classes / within" in said
    image = matplotlib.image.imread(figure)
    assert image.shape[1] > 1000
    assert image[..., :3].std() > 0.05  # something is drawn
    after = {path: os.stat(path).st_mtime_ns for path in own_store.rglob("activations/c/**/*")}
    assert before == after


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py")))
def test_an_example_fits_a_screen_or_two(name: str) -> None:
    assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) <= 60


def test_a_question_of_one_s_own_is_answered_at_every_epoch(
    demo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("custom_query.py", demo_folder / "digits.zarr")
    *_, answered = capsys.readouterr().out.partition("epoch")
    rows = [line.split() for line in answered.splitlines() if line.strip()]
    assert [int(row[0]) for row in rows] == [0, 1, 2, 5, 10, 20, 40, 60, 80, 100]
    for _, *r2 in rows:
        assert [float(value) for value in r2] == sorted(map(float, r2))
    assert float(rows[-1][-1]) > 0.9  # 32 of 256 neurons


def test_clones_over_training_are_told_and_drawn(
    demo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("clones_over_training.py", demo_folder / "digits.zarr", tmp_path / "dynamics.png")
    assert "first recorded epoch with two clones or more" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "dynamics.png")[..., :3].std() > 0.05


def test_every_hidden_layer_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("several_layers.py", tmp_path / "layers.zarr")
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.splitlines() if "critical size" in line] == [
        "hidden_1", "hidden_2", "hidden_3"
    ]  # fmt: skip


def test_a_wide_network_meets_its_rivals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("wide_against_ensemble.py", tmp_path / "seeds.zarr", 2)
    said = capsys.readouterr().out
    assert "4 x 16 against 64" in said
    assert "bias2" in said


def test_a_store_in_a_bucket_is_asked_on_a_cluster(
    tmp_path: Path, bucket: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (16, 32, 64):
        record_run(tmp_path / "planted.zarr", width=width, seed=0, weight_decay=0.005)
    with wire_to(bucket) as wire:
        for name, value in wire.environment.items():
            monkeypatch.setenv(name, value)
        where = f"s3://{BUCKET}/{tmp_path.name}/planted.zarr"
        actstore = str(Path(sys.executable).parent / "actstore")
        subprocess.run([actstore, "merge", where, tmp_path / "planted.zarr"], check=True)
        example = [sys.executable, str(FOLDER / "bucket_and_cluster.py"), where]
        said = subprocess.run(example, check=True, capture_output=True, text=True).stdout
    assert "weight_decay=0.005: n_clones ~ width^" in said
    assert said.rstrip().splitlines()[-1].split()[0] == "64"
