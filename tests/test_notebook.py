"""In a notebook: stores and runs are tables, answers draw themselves, a bar shows progress."""

import io
from html.parser import HTMLParser
from pathlib import Path

import distributed
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import actstore
from actstore.errors import InvalidParameterError, NotInStoreError
from actstore.notebook import Bar
from actstore.testing import planted_dataset

from .planted import record_run

VOID = {"br", "hr", "img", "input", "link", "meta"}


class Elements(HTMLParser):
    """Names and attributes of the elements of a page; fails where they are not nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag, and that it waits for its end."""
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element."""
        assert tag in VOID or self.open.pop() == tag


def test_a_store_shows_its_runs_and_how_far_the_sweep_is(planted: actstore.Store) -> None:
    elements = Elements(planted._repr_html_()).found
    assert sum(tag == "tr" for tag, _ in elements) == len(planted) + 2  # two rows of headings
    (bar,) = [attrs for tag, attrs in elements if tag == "progress"]
    assert bar == {"value": str(len(planted)), "max": str(len(planted))}
    assert f": {len(planted)} runs, {len(planted)} complete" in planted._repr_html_()


def test_one_run_is_a_run_and_is_asked_for_by_its_name(planted: actstore.Store) -> None:
    one = planted.sel(width=8, weight_decay=0.0, seed=1)
    assert ": 1 run, 1 complete" in one._repr_html_()
    assert repr(one).splitlines()[0].endswith(": 1 run>")
    with pytest.raises(NotInStoreError, match=r"no run 0 in .*; it holds width=8"):
        one[0]  # type: ignore[index]


def test_a_run_shows_its_epochs_layers_and_metrics(planted: actstore.Store) -> None:
    page = planted.sel(width=8, weight_decay=0.0, seed=1).only()._repr_html_()
    assert "3 epochs" in page
    assert "last_hidden" in page
    assert "train_error" in page
    assert ("table", {"border": "1"}) not in Elements(page).found


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    path = tmp_path / "<script>alert(1)<" / "store.zarr"
    path.parent.mkdir()
    record_run(path, width=8, seed=0, weight_decay=0.0)
    store = actstore.open(path)
    run = store.only()
    run.attrs["model"] = "<script>alert(2)</script>"
    for page in (store._repr_html_(), run._repr_html_()):
        assert "script" not in [tag for tag, _ in Elements(page).found]


def test_an_answer_draws_itself_and_what_sel_has_left_of_it(planted: actstore.Store) -> None:
    answer = planted.sel(epoch=-1, seed=0).reconstruction(subsets=3)
    whole = answer.actstore.plot()
    assert [ax.get_title(loc="left") for ax in whole.axes] == [
        "weight_decay=0", "weight_decay=0.005"
    ]  # fmt: skip
    assert whole._repr_png_().startswith(b"\x89PNG")
    ax = Figure().subplots()
    chosen = answer.isel(run=answer.weight_decay.values == 0.005)
    assert chosen.actstore.plot(ax=ax) is ax
    assert ax.lines


def test_a_dataset_that_is_no_answer_is_not_drawn() -> None:
    with pytest.raises(InvalidParameterError, match=r"no question of actstore.*\.plot\(\)"):
        planted_dataset().actstore.plot()


def test_an_answer_without_a_figure_says_of_what_there_are() -> None:
    axes = Figure().subplots()
    with pytest.raises(InvalidParameterError, match="there are figures of clones, dynamics"):
        xr.Dataset(attrs={"query": "save"}).actstore.plot(ax=axes)


def test_the_bar_reaches_its_end_on_threads(capsys: pytest.CaptureFixture[str]) -> None:
    lazy = actstore.spectrum(planted_dataset())
    with actstore.progress():
        shown = lazy.compute()
    last = capsys.readouterr().out.rpartition("\r")[2]
    assert "100% Completed" in last
    assert "left" not in last
    xr.testing.assert_identical(shown, lazy.compute())


@pytest.mark.parametrize(("share", "said"), [(0.25, " about 90.00 s left"), (0, ""), (1, "")])
def test_the_time_left_is_that_of_the_rest_at_the_same_speed(share: float, said: str) -> None:
    file = io.StringIO()
    Bar(out=file)._draw_bar(share, 30.0)
    assert file.getvalue().rstrip().rpartition("|")[2] == (said or " 30.00 s")


def test_the_bar_reaches_its_end_on_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    lazy = actstore.spectrum(planted_dataset())
    here = lazy.compute(scheduler="synchronous")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        actstore.progress(),
    ):
        there = lazy.compute()
        assert np.isfinite(there.eigenvalue.values).any()
    assert "100% Completed" in capsys.readouterr().out
    xr.testing.assert_allclose(there, here)
