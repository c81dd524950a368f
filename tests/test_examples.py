"""Examples run as they are written, on the store that the first of them records."""

import os
import runpy
import sys
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> None:
    """Run an example as ``python examples/NAME …`` does."""
    before, sys.argv = sys.argv, [name, *arguments]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record a store by the training loop of one's own."""
    path = tmp_path_factory.mktemp("own") / "own.zarr"
    run("own_training_loop.py", str(path))
    return path


def test_an_xarray_session_selects_computes_and_plots(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = tmp_path / "session.png"
    before = {path: os.stat(path).st_mtime_ns for path in own.rglob("activations/c/**/*")}
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("it must not wait for anyone"))
    plt.switch_backend("Agg")
    run("xarray_session.py", str(own), str(figure))
    plt.close("all")
    said = capsys.readouterr().out
    assert "dask.array" in said  # lazy when it is first printed
    assert "between classes / within" in said
    image = matplotlib.image.imread(figure)
    assert image.shape[1] > 1000
    assert image[..., :3].std() > 0.05  # something is drawn
    after = {path: os.stat(path).st_mtime_ns for path in own.rglob("activations/c/**/*")}
    assert before == after


@pytest.mark.parametrize("name", ["own_training_loop.py", "xarray_session.py"])
def test_an_example_fits_a_screen_or_two(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 60
