"""Examples run as they are written, on the store that the first of them records."""

import os
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from .examples import FOLDER, run_example


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


@pytest.mark.parametrize("name", ["own_training_loop.py", "xarray_session.py"])
def test_an_example_fits_a_screen_or_two(name: str) -> None:
    assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) <= 60
