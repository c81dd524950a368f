"""Figures: what is drawn is what was computed, nothing is hidden, and files are whole."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

import actstore
from actstore import plotting, queries
from actstore.errors import ActstoreError, InvalidParameterError
from actstore.plotting.figure import DRAWINGS
from actstore.plotting.style import STYLE, by_category, by_order, from_zero
from actstore.testing import planted_dataset

from .command_line import Answer
from .planted import THRESHOLD, WIDTHS

#: how each question is asked of the planted store for a figure: quickly
ASKED: dict[str, Callable[[actstore.Store], xr.Dataset]] = {
    "reconstruction": lambda s: queries.reconstruction(s.sel(epoch=-1), subsets=8),
    "clones": lambda s: queries.clones(s.sel(epoch=-1), threshold=(0.9, 0.99), subsets=8),
    "noise": lambda s: queries.noise(
        s.sel(epoch=-1), subsets=8, factors=4, repeats=3, eigenvalues=True
    ),
    "scaling": lambda s: queries.scaling(s, threshold=(0.9, 0.99), subsets=8),
    "error": lambda s: queries.error(s.sel(epoch=-1), subsets=8),
    "dynamics": lambda s: queries.dynamics(s, threshold=THRESHOLD, subsets=8),
    "ensemble": lambda s: queries.ensemble(s),
    "spectrum": lambda s: queries.spectrum(s.sel(epoch=-1)),
    "moments": lambda s: queries.moments(s.sel(epoch=-1, width=CELLS)),
}
#: root mean square difference of pixels, of 0…255, up to which two pictures are the same
ALIKE = 0.25
#: of reviewed pictures; and how many cells the side of the matrix in one of them has
DPI, CELLS = 64, 8
WEIGHT_DECAYS = ("weight_decay=0", "weight_decay=0.005")


class Answers(dict[str, xr.Dataset]):
    """Computed answers of the planted store, each asked once and not before it is needed."""

    def __init__(self, store: actstore.Store) -> None:
        super().__init__()
        self.store = store

    def __missing__(self, question: str) -> xr.Dataset:
        self[question] = ASKED[question](self.store).compute()
        return self[question]


@pytest.fixture(scope="module")
def answers(planted: actstore.Store) -> Answers:
    """Return the computed answer to every question of which there is a figure."""
    return Answers(planted)


@pytest.fixture(autouse=True)
def _settings_untouched() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


def growth(
    widths: tuple[int, ...] = (8, 16, 32, 64, 128),
    *,
    critical_size: float = 12.0,
    exponent: float = 1.0,
    settings: int = 1,
    train_error: float = 0.0,
) -> xr.Dataset:
    """Return a scaling answer by hand: n_clones = W^exponent / critical_size, exactly."""
    w = np.asarray(widths, float)
    ratio = np.tile(w**exponent / critical_size, (settings, 1))[..., None]
    has = ratio >= 2
    first = w[has[0, :, 0]].min() if has.any() else np.nan
    fits = {
        "exponent": exponent, "exponent_low": exponent - 0.1, "exponent_high": exponent + 0.1,
        "window_low": first, "window_high": w.max(), "critical_width": np.nan,
    }  # fmt: skip
    dims = ("setting", "width", "threshold")
    return xr.Dataset(
        {
            "width_ratio": (dims, ratio),
            "width_ratio_low": (dims, 0.9 * ratio),
            "width_ratio_high": (dims, 1.2 * ratio),
            "has_clones": (dims, has),
            "train_error": (dims[:2], np.full((settings, len(w)), train_error)),
            "seeds": (dims[:2], np.full((settings, len(w)), 2)),
            **{k: (("setting", "threshold"), np.full((settings, 1), v)) for k, v in fits.items()},
        },
        coords={
            "width": list(widths),
            "threshold": [0.98],
            "weight_decay": ("setting", np.arange(settings) / 100),
        },
        attrs={"criterion": "heldout", "split": "test", "layer": "last_hidden", "subsets": 40},
    )


def points(ax: Axes) -> list[tuple[float, float, Line2D]]:
    """Return every mark on the axes that stands alone: the counts of a scaling figure."""
    return [
        (float(x), float(y), line)
        for line in ax.lines
        if line.get_marker() not in ("", "None", None, "_", 3) and len(line.get_xdata()) == 1
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if np.isfinite([x, y]).all()
    ]


def line_called(ax: Axes, label: str) -> Line2D:
    """Return the one line whose legend entry is ``label``."""
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def title_of(ax: Axes) -> str:
    """Return the title, wherever the style of the figure puts it."""
    return ax.get_title(loc="left") + ax.get_title()


class Figures(dict[str, Figure]):
    """Figures of the planted store, laid out as saving does, each drawn once."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers

    def __missing__(self, question: str) -> Figure:
        self[question] = plotting.figure(question, self.answers[question])
        self[question].draw_without_rendering()
        return self[question]


@pytest.fixture(scope="module")
def figures(answers: Answers) -> Figures:
    """Return the figure of the answer to every question."""
    return Figures(answers)


# files


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_answer_gives_the_same_file(tmp_path: Path, kind: str) -> None:
    files = [tmp_path / f"{n}.{kind}" for n in "ab"]
    for file in files:
        plotting.save("scaling", growth(settings=2), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert files[0].read_bytes().startswith(start)
    assert sorted(tmp_path.iterdir()) == files


def test_every_question_has_a_figure() -> None:
    assert set(DRAWINGS) == set(queries.__all__)
    assert set(ASKED) == set(DRAWINGS)


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ActstoreError, match="cannot be written"):
        plotting.save("scaling", growth(), tmp_path / "none" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ActstoreError, match="give another place"):
        plotting.save("scaling", growth(), tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_wrong_kind_of_file_and_unknown_question_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match=r"a\.gif.*\.png, \.svg or \.pdf"):
        plotting.save("scaling", growth(), tmp_path / "a.gif")
    with pytest.raises(InvalidParameterError, match=r"'save'.*clones.*scaling"):
        plotting.figure("save", growth())


def test_missing_matplotlib_is_one_sentence_with_the_remedy() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from actstore.errors import MissingExtraError\n"
        "try:\n    import actstore.plotting\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("pip install 'actstore[plot]'")


def test_no_window_system_is_touched() -> None:
    code = "import sys, actstore.plotting; print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# all figures


@pytest.mark.parametrize("question", list(ASKED))
def test_legends_stand_off_the_curves_and_titles_inside_the_figure(
    figures: Figures, question: str
) -> None:
    figure = figures[question]
    whole = figure.bbox
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1 + 1
        assert not any(box.overlaps(ax.bbox) for ax in figure.axes)
        assert figure._suptitle is not None
        assert not box.overlaps(figure._suptitle.get_window_extent())
    texts = [ax.title.get_window_extent() for ax in figure.axes]
    texts += [ax._left_title.get_window_extent() for ax in figure.axes]  # type: ignore[attr-defined]
    assert all(text.x1 <= whole.x1 + 1 for text in texts)


@pytest.mark.parametrize("question", list(ASKED))
def test_every_panel_names_both_axes_with_plain_numbers(figures: Figures, question: str) -> None:
    for ax in figures[question].axes:
        assert ax.get_xlabel() or ax.get_label() == "<colorbar>"
        assert ax.get_ylabel() or question == "ensemble"  # there each row has a name
        for axis in (ax.xaxis, ax.yaxis):
            words = [t.get_text() for t in axis.get_ticklabels() if t.get_text()]
            assert not any("^" in word or "\\times" in word or "e" in word[1:-1] for word in words
                           if not word.startswith(("none", "2 x", "W"))), words  # fmt: skip


@pytest.mark.parametrize("question", ["reconstruction", "scaling"])  # one of each form
def test_a_lazy_answer_is_drawn_as_the_computed_one(
    planted: actstore.Store, figures: Figures, question: str
) -> None:
    lazy = plotting.figure(question, ASKED[question](planted))
    for one, other in zip(lazy.axes, figures[question].axes, strict=True):
        assert len(one.lines) == len(other.lines)
        for a, b in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(a.get_ydata(), b.get_ydata())


def test_an_axes_of_the_caller_is_drawn_on_and_returned() -> None:
    left, right = Figure().subplots(1, 2)
    assert plotting.scaling(growth(), ax=right) is right
    assert not left.lines
    assert right.lines


@pytest.mark.parametrize("question", ["reconstruction", "clones", "noise", "scaling", "error"])
def test_one_axes_for_several_panels_is_refused_with_the_remedy(
    answers: Answers, question: str
) -> None:
    with pytest.raises(InvalidParameterError, match=rf"panels.*\.sel\(\).*figure\('{question}'"):
        getattr(plotting, question)(answers[question])


def test_forty_nine_settings_look_different() -> None:
    looks = [(look["color"], look["marker"]) for look in map(by_category, range(49))]
    assert len(set(looks)) == 49


@pytest.mark.parametrize("count", [2, 7, 12])
def test_ordered_colours_grow_lighter_so_that_grey_keeps_the_order(count: int) -> None:
    # luminance of ITU-R BT.709
    light = [np.dot(to_rgb(by_order(i, count)["color"]), [0.2126, 0.7152, 0.0722])
             for i in range(count)]  # fmt: skip
    assert (np.diff(light) > 0.02).all()
    assert light[-1] < 0.85


# scaling


def test_widths_without_clones_stand_in_the_row_none() -> None:
    result = growth(critical_size=12.0)
    ax = plotting.scaling(result)
    labels = dict(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    assert labels[1.0] == "none"
    marks = {round(x): y for x, y, _ in points(ax)}
    assert {w for w, y in marks.items() if y == 1.0} == {8, 16}
    for width in (32, 64, 128):
        assert marks[width] == pytest.approx(width / 12)


def test_a_width_that_was_never_run_has_no_mark() -> None:
    result = growth(settings=2)
    result["width_ratio"][1, 2] = np.nan
    result["has_clones"][1, 2] = False
    colour = by_category(1)["color"]
    ax = plotting.scaling(result)
    own = [x for x, _, line in points(ax) if to_hex(line.get_markeredgecolor()).upper() == colour]
    assert len(own) == len(result["width"]) - 1


def test_marks_are_hollow_where_the_training_error_is_above_zero() -> None:
    result = growth()
    result["train_error"][0, :3] = [0.1, 0.0, np.nan]
    faces = {round(x): to_hex(line.get_markerfacecolor()) for x, _, line in
             points(plotting.scaling(result))}  # fmt: skip
    full = to_hex(by_category(0)["color"])
    assert faces == {8: "#ffffff", 16: full, 32: "#bfbfbf", 64: full, 128: full}


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_the_fit_line_goes_through_points_that_follow_its_law(exponent: float) -> None:
    result = growth(exponent=exponent)
    ax = plotting.scaling(result)
    lines = [
        line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2
    ]
    (fit,) = lines
    x, y = np.asarray(fit.get_xdata(), float), np.asarray(fit.get_ydata(), float)
    np.testing.assert_allclose(y, x**exponent / 12)
    has = result["width"].values[result["has_clones"].values[0, :, 0]]
    assert x.tolist() == [has.min(), has.max()]


def test_the_reference_line_has_slope_one_and_ends_at_the_widest_layer() -> None:
    ax = plotting.scaling(growth(exponent=1.2))
    (line,) = [line for line in ax.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    assert np.diff(np.log(y)) / np.diff(np.log(x)) == pytest.approx(1)
    assert (x[-1], y[-1]) == (128, pytest.approx(128**1.2 / 12))


def test_bars_are_the_intervals_of_the_answer() -> None:
    result = growth()
    bars = [c for c in plotting.scaling(result).containers if isinstance(c, ErrorbarContainer)]
    ends = [seg[:, 1] for c in bars for seg in c.lines[2][0].get_segments() if len(seg)]
    expected = result["width_ratio"].values[result["has_clones"].values]
    np.testing.assert_allclose(sorted(e[0] for e in ends), 0.9 * expected)
    np.testing.assert_allclose(sorted(e[1] for e in ends), 1.2 * expected)


def test_a_single_setting_says_its_exponent_window_and_interval_in_the_title() -> None:
    title = title_of(plotting.scaling(growth()))
    assert "held-out R² ≥ 0.98" in title
    assert "width^1.00 (0.90…1.10), widths 32…128" in title


def test_without_clones_the_figure_says_so_and_draws_no_line() -> None:
    result = growth(critical_size=1000.0)
    for name in ("exponent", "window_low", "window_high"):
        result[name][:] = np.nan
    ax = plotting.scaling(result)
    assert "no clones at any width" in str(ax.get_legend_handles_labels()[1])
    assert not [line for line in ax.lines if len(line.get_xdata()) > 1]


def test_too_few_widths_for_a_fit_are_said() -> None:
    result = growth((32, 64))
    result["exponent"][:] = np.nan
    assert "clones at 2 of 2 widths: no fit" in str(
        plotting.scaling(result).get_legend_handles_labels()[1]
    )


def test_thresholds_share_one_scale(figures: Figures) -> None:
    first, second = figures["scaling"].axes
    assert first.get_ylim() == second.get_ylim()


# curves against subset size


def test_a_curve_is_the_mean_over_subsets_and_seeds(answers: Answers) -> None:
    result = answers["reconstruction"]
    one = result.isel(run=result.weight_decay.values == 0.005)
    ax = plotting.reconstruction(one)
    for width in WIDTHS[0.005]:
        mine = one["r2_heldout"].isel(run=one.width.values == width)
        mean = mine.mean(["run", "epoch", "subset"]).dropna("subset_size")
        line = line_called(ax, f"W = {width}")
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), mean.values)
        np.testing.assert_array_equal(np.asarray(line.get_xdata()), mean.subset_size.values)
    assert line_called(ax, "R² = 0.95").get_ydata()[0] == 0.95  # type: ignore[index]


def test_the_band_holds_nine_tenths_of_subsets_and_seeds(answers: Answers) -> None:
    result = answers["reconstruction"]
    one = result.isel(run=(result.weight_decay.values == 0.005) & (result.width.values == 16))
    ax = plotting.reconstruction(one, criterion="paper")
    values = one["r2"].stack(all=("run", "epoch", "subset")).dropna("subset_size", how="all")
    low, high = np.quantile(values.values, [0.05, 0.95], axis=-1)
    vertices = next(c for c in ax.collections if len(c.get_paths()[0].vertices) > 4)
    y = np.asarray(vertices.get_paths()[0].vertices)[:, 1]
    assert y.min() == pytest.approx(low.min())
    assert y.max() == pytest.approx(high.max())


def test_runs_are_drawn_at_their_own_last_epoch() -> None:
    values = np.full((2, 3, 1, 2), np.nan)
    values[0, :, 0] = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    values[1, :2, 0] = [[0.2, 0.3], [0.7, 0.8]]  # stopped early
    dims = ("run", "epoch", "subset", "subset_size")
    result = xr.Dataset(
        {"r2": (dims, values), "r2_heldout": (dims, values)},
        coords={
            "run": ["a", "b"], "epoch": [0, 5, 10], "subset_size": [1, 2],
            "width": ("run", [4, 8]), "seed": ("run", [0, 0]),
        },
    )  # fmt: skip
    ax = plotting.reconstruction(result)
    np.testing.assert_allclose(line_called(ax, "W = 4").get_ydata(), [0.5, 0.6])
    np.testing.assert_allclose(line_called(ax, "W = 8").get_ydata(), [0.7, 0.8])
    assert "last epoch" in title_of(ax)


def test_epochs_of_one_width_are_curves_of_their_own() -> None:
    result = queries.reconstruction(planted_dataset(noise=(2.0, 1.0, 0.3)), subsets=5)
    ax = plotting.reconstruction(result)
    for epoch in (0, 1, 2):
        mean = result.r2_heldout.sel(epoch=epoch).mean(["run", "subset"]).dropna("subset_size")
        np.testing.assert_allclose(line_called(ax, f"epoch {epoch}").get_ydata(), mean)


def test_selecting_one_run_epoch_and_subset_still_draws() -> None:
    result = queries.reconstruction(planted_dataset(), subsets=5)
    ax = plotting.reconstruction(result.isel(run=0, epoch=0, subset=0))
    expected = result.r2_heldout[0, 0, 0].dropna("subset_size")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)


def test_dead_neurons_are_named_in_the_legend() -> None:
    data = planted_dataset(width=16, dead=3, noise=(0.3,))
    result = xr.concat(
        [queries.reconstruction(data, subset_size=[2, 4]).assign_coords(run=[n], width=("run", [w]))
         for n, w in (("a", 16), ("b", 32))], "run",
    )  # fmt: skip
    labels = plotting.reconstruction(result).get_legend_handles_labels()[1]
    assert "W = 16 (13 alive)" in labels


def test_noise_is_drawn_with_floor_null_and_the_convention_of_the_paper() -> None:
    result = queries.noise(planted_dataset(noise=(0.3,)), subsets=6, factors=[4, 8], repeats=3)
    ax = plotting.noise(result)
    one = result.isel(run=0, epoch=0)
    drawn = {
        "neurons outside the subset": one.residual_correlation_heldout.mean("subset"),
        "all neurons (paper)": one.residual_correlation.mean("subset"),
        "sampling floor, 400 samples": one.sampling_floor,
        "matched null, 4 factors": one.null.isel(factors=0),
        "matched null, 4 of 8 factors": one.null.isel(factors=1),
    }
    for label, values in drawn.items():
        held = values.values[np.isfinite(values.values)]
        np.testing.assert_allclose(line_called(ax, label).get_ydata(), held)


def test_a_null_whose_fit_did_not_converge_is_named_so(answers: Answers) -> None:
    single = queries.noise(planted_dataset(noise=(0.3,)), subsets=6, factors=4, repeats=2).compute()
    failed = single.assign(factors_converged=xr.zeros_like(single.factors_converged))
    assert line_called(plotting.noise(failed), "matched null, 4 factors\n(fit not converged)")
    chosen = answers.store.sel(width=[32, 64], weight_decay=0.005, seed=0, epoch=-1)
    result = queries.noise(chosen, subsets=3, factors=[4, 2], repeats=2).compute()
    result["factors_converged"][0, 0, 1] = False  # of the first width, with two factors
    ax = plotting.noise(result)
    assert line_called(ax, "matched null (4) of the same colour")
    assert line_called(ax, "matched null (2) of the same colour\n(fit not converged in 1 of 2)")
    followed = follow(answers).compute().isel(run=[0])
    followed["factors_converged"][0, -1] = False
    drawn = plotting.figure("dynamics", followed).axes[3]
    epochs = followed.sizes["epoch"]
    wanted = f"matched null of the same colour\n(fit not converged in 1 of {epochs})"
    assert line_called(drawn, wanted)


def dashes(line: Line2D) -> Any:
    """Return lengths of dashes and gaps; ``get_linestyle`` knows only that there are some."""
    return line._unscaled_dash_pattern  # type: ignore[attr-defined]


def test_every_null_that_was_asked_for_is_drawn_where_widths_are_several(
    answers: Answers,
) -> None:
    chosen = answers.store.sel(width=[32, 64], weight_decay=0.005, seed=0, epoch=-1)
    result = queries.noise(chosen, subsets=3, factors=[4, 2], repeats=2).compute()
    ax = plotting.noise(result)
    for number, asked in enumerate((4, 2)):
        entry = line_called(ax, f"matched null ({asked}) of the same colour")
        assert not len(np.ravel(entry.get_xdata()))
        null = result["null"].isel(factors=number, epoch=0)
        drawn = [line for line in ax.lines if line.get_label() == "_null"][number::2]
        assert len(drawn) == 2
        assert len({str(dashes(line)) for line in ax.lines if line.get_label() == "_null"}) == 2
        for line, values in zip(drawn, null.transpose("run", "subset_size").values, strict=True):
            assert dashes(line) == dashes(entry)
            np.testing.assert_allclose(line.get_ydata(), values[np.isfinite(values)])


def test_no_band_of_a_noise_figure_is_cut_off(figures: Figures) -> None:
    for ax in figures["noise"].axes:
        highest = max(
            float(path.vertices[:, 1].max())  # type: ignore[call-overload, index]
            for band in ax.collections for path in band.get_paths() if len(path.vertices)
        )  # fmt: skip
        assert highest <= ax.get_ylim()[1]
        assert ax.get_ylim()[0] == (
            0 if ax.get_yscale() == "linear" else 0.9
        )  # an eigenvalue is > 1


def test_the_largest_eigenvalue_stands_beside_the_edge_of_its_own_width(answers: Answers) -> None:
    result = answers["noise"].isel(run=answers["noise"].weight_decay.values == 0.005)
    ax = plotting.noise_eigenvalues(result)
    edges = [line for line in ax.lines if line.get_label() == "_edge"]
    assert len(edges) == len(WIDTHS[0.005])
    for edge, width in zip(edges, WIDTHS[0.005], strict=True):
        one = result.isel(run=result.width.values == width).isel(run=0, epoch=0)
        measured = one.largest_eigenvalue.mean("subset").dropna("subset_size")
        np.testing.assert_array_equal(edge.get_xdata(), measured.subset_size)
        neurons, dof = width - measured.subset_size, one["count"] - 1 - measured.subset_size
        expected = (1 + np.sqrt(neurons / dof)) ** 2
        np.testing.assert_allclose(np.asarray(edge.get_ydata(), float), expected)
        both = result.largest_eigenvalue.isel(run=result.width.values == width).mean(
            ["run", "subset"]
        )
        curve = np.asarray(line_called(ax, f"W = {width}").get_ydata(), float)
        np.testing.assert_allclose(curve, both.values.ravel()[np.isfinite(both.values.ravel())])


def test_eigenvalues_that_were_not_asked_for_have_no_panel() -> None:
    result = queries.noise(planted_dataset(noise=(0.3,)), subsets=3, factors=None)
    assert len(plotting.figure("noise", result).axes) == 1
    with pytest.raises(InvalidParameterError):
        plotting.noise_eigenvalues(result)


# clones


def test_the_error_of_each_part_is_drawn_full_where_it_is_a_clone(answers: Answers) -> None:
    result = pair(answers).compute().isel(run=1)
    ax = plotting.clone_errors(result)
    one = result.squeeze()
    clone = one.is_clone.values.astype(bool)
    drawn = {
        (split, full): one[f"clone_error_{split}"].values[clone == full]
        for split in ("test", "train") for full in (True, False)
    }  # fmt: skip
    lines = [line for line in ax.lines if line.get_label() == "_"]
    for line, ((_, full), values) in zip(lines, drawn.items(), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), values)
        assert (to_hex(line.get_markerfacecolor()) == "#ffffff") is not full
    held = one.clone_error_test.values[np.isfinite(one.clone_error_test.values)]
    assert f"{held.mean():.3f} test" in title_of(ax)


def test_counts_are_those_of_the_answer_averaged_over_seeds(
    answers: Answers,
) -> None:
    result = answers["clones"].isel(run=answers["clones"].weight_decay.values == 0.005)
    ax = plotting.clones(result.sel(threshold=0.9))
    one = result.sel(threshold=0.9).isel(epoch=0)
    for label, name in (
        ("n_clones = W_alive / w_c", "width_ratio"),
        ("certified, random partition", "certified_clones"),
        ("bound by components", "component_bound"),
    ):
        means = one[name].groupby("width").mean().values.astype(float)
        line = np.asarray(line_called(ax, label).get_ydata(), float)
        np.testing.assert_allclose(line, np.where(means >= 2, means, np.nan))


def test_a_single_width_over_epochs_is_drawn_against_epoch(planted: actstore.Store) -> None:
    result = queries.clones(planted.sel(width=32, weight_decay=0.005, seed=0), subsets=8)
    ax = plotting.clones(result)
    assert ax.get_xlabel() == "epoch"
    line = line_called(ax, "n_clones = W_alive / w_c")
    np.testing.assert_allclose(line.get_xdata(), result.epoch)


def matrix(values: Any) -> xr.Dataset:
    """Return a clones answer by hand that holds one matrix, padded to four parts."""
    padded = np.full((1, 1, 1, 4, 4), np.nan)
    padded[..., : len(values), : len(values)] = values
    dims = ("run", "epoch", "threshold", "clone", "other_clone")
    sizes = np.array([5.0, 5.0, 6.0, 6.0])
    return xr.Dataset(
        {"clone_to_clone_r2": (dims, padded), "clone_size": (dims[:4], sizes[None, None, None])},
        coords={"run": ["a"], "epoch": [0], "threshold": [0.9], "width": ("run", [16]),
                "seed": ("run", [0])},
    )  # fmt: skip


def test_the_matrix_shows_the_parts_there_are_and_leaves_the_diagonal_out() -> None:
    values = np.array([[1, 0.8, 0.9], [0.7, 1, 0.6], [0.85, 0.95, 1]])
    ax = plotting.clone_matrix(matrix(values))
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)  # type: ignore[no-untyped-call]
    np.testing.assert_array_equal(np.isnan(shown), np.eye(3, dtype=bool))
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(shown[off], values[off])
    title = title_of(ax)
    assert f"3 parts of 5…6 neurons, R² {values[off].mean():.3f} (0.600…0.950)" in title
    assert ax.images[0].get_clim() == (0, 1)


def test_a_matrix_of_one_part_says_that_there_is_nothing_to_compare() -> None:
    ax = plotting.clone_matrix(matrix(np.ones((1, 1))))
    assert [t.get_text() for t in ax.texts] == ["fewer than two parts"]


# error, dynamics, ensemble, spectrum


def test_the_last_point_of_an_error_curve_is_the_whole_network(planted: actstore.Store) -> None:
    runs = planted.sel(width=[16, 32], weight_decay=0.005, seed=0, epoch=-1)
    result = queries.error(runs, subsets=6, splits="test").compute()
    ax = plotting.error(result)
    whole = [float(result.error.isel(run=r, split=0, epoch=0).sel(subset_size=w).mean())
             for r, w in enumerate(result.width.values)]  # fmt: skip
    np.testing.assert_allclose(line_called(ax, "whole networks").get_ydata(), whole)
    assert np.asarray(line_called(ax, "W = 16").get_ydata())[-1] == pytest.approx(whole[0])


def decaying(gamma: float, left: float, interval: tuple[float, float]) -> xr.Dataset:
    """Return an error answer by hand that follows its law exactly."""
    sizes = np.array([1, 2, 4, 8, 16, 32, 64])
    error = left + 0.3 * sizes.astype(float) ** -gamma
    dims = ("run", "epoch", "split", "subset", "subset_size")
    law = {"gamma": gamma, "gamma_low": interval[0], "gamma_high": interval[1], "error_inf": left,
           "window_low": 2.0, "window_high": 64.0}  # fmt: skip
    return xr.Dataset(
        {"error": (dims, np.tile(error, (1, 1, 1, 3, 1))),
         **{k: (dims[:3], np.full((1, 1, 1), v)) for k, v in law.items()}},
        coords={"run": ["a"], "epoch": [9], "split": ["test"], "subset_size": sizes,
                "width": ("run", [64]), "seed": ("run", [0])},
    )  # fmt: skip


def test_the_decay_is_drawn_on_its_law_and_names_exponent_and_window() -> None:
    ax = plotting.error_decay(decaying(0.5, 0.02, (0.4, 0.6)))
    fit = line_called(ax, "fit a w^-γ")
    x = np.asarray(fit.get_xdata(), float)
    np.testing.assert_allclose(np.asarray(fit.get_ydata(), float), 0.3 * x**-0.5)
    assert (x.min(), x.max()) == (2, 64)
    title = title_of(ax)
    assert "γ = 0.50 (0.40…0.60), sizes 2…64" in title


def test_an_exponent_that_is_not_determined_gets_no_line() -> None:
    ax = plotting.error_decay(decaying(0.5, 0.02, (0.0, np.inf)))
    assert [line.get_label() for line in ax.lines] == ["as trained"]
    assert "not determined" in title_of(ax)


def test_whole_networks_are_drawn_with_train_and_test_error() -> None:
    widths = (8, 16, 32, 64)
    result = growth(widths)
    test = 0.01 + 0.4 / np.asarray(widths)
    result["test_error"] = (("setting", "width"), test[None])
    law = {"gamma": 1.0, "gamma_low": 0.9, "gamma_high": 1.1, "error_inf": 0.01,
           "gamma_window_low": 8.0, "gamma_window_high": 64.0}  # fmt: skip
    for name, value in law.items():
        result[name] = ("setting", [value])
    ax = plotting.width_error(result)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), test)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 0)
    fit = np.asarray(ax.lines[2].get_xydata())
    np.testing.assert_allclose(fit[:, 1], 0.01 + 0.4 / fit[:, 0])


def test_a_triangle_marks_the_first_epoch_of_zero_train_error(
    answers: Answers,
) -> None:
    result = answers["dynamics"].isel(run=answers["dynamics"].weight_decay.values == 0.005)
    ax = plotting.dynamics(result)
    marks = [float(x) for x, y, line in points(ax) if line.get_marker() == "v" and y > 0.7]
    assert marks == [10.0] * len(WIDTHS[0.005])
    clones = line_called(ax, "W = 64")
    ratio = result.width_ratio.isel(run=result.width.values == 64).mean("run").values.ravel()
    np.testing.assert_allclose(clones.get_ydata(), np.where(ratio >= 2, ratio, np.nan))


def follow(answers: Answers) -> xr.Dataset:
    """Ask how subsets of one width fare over the epochs, with weight decay and without."""
    return queries.dynamics(
        answers.store.sel(width=32), subset_size=[2, 4, 8], subsets=6, splits=["test"], factors=4,
        repeats=2, threshold=THRESHOLD,
    )  # fmt: skip


def test_subsets_that_are_followed_are_drawn_by_epoch(answers: Answers) -> None:
    result = follow(answers).compute()
    one = result.isel(run=result.weight_decay.values == 0.005)
    ax = plotting.followed(one)
    for size in (2, 4, 8):
        mean = one.r2_heldout.sel(subset_size=size).mean(["run", "subset"])
        np.testing.assert_allclose(line_called(ax, f"subsets of {size}").get_ydata(), mean)
    whole = plotting.figure("dynamics", result)
    axes = [ax.get_ylabel() for ax in whole.axes]
    assert axes[4::2] == [
        "held-out R² (neurons outside)", "mean |correlation| of residuals", "test error of subsets"
    ]  # fmt: skip
    noise = whole.axes[7]
    floor = line_called(noise, "sampling floor").get_ydata()
    np.testing.assert_allclose(floor, one.sampling_floor.isel(subset_size=0).mean("run"))
    dashed = next(line for line in noise.lines if line.get_label() == "_")
    null = one["null"].sel(subset_size=2).mean("run").squeeze()
    np.testing.assert_allclose(np.asarray(dashed.get_ydata(), float), null)


def test_the_null_of_each_rule_is_drawn_and_named(answers: Answers) -> None:
    one = follow(answers).compute().isel(run=[0])
    rules = {"gap": one["null"], "bic": 0.5 * one["null"]}
    several = one.assign(null=xr.concat(rules.values(), dim="factors", join="override"))
    several = several.assign_coords(factors=list(rules))
    noise = plotting.figure("dynamics", several).axes[3]
    keys = {rule: line_called(noise, f"matched null ({rule}) of the same colour") for rule in rules}
    assert len({str(dashes(key)) for key in keys.values()}) == 2
    for rule, null in rules.items():
        alike = [line for line in noise.lines if dashes(line) == dashes(keys[rule])]
        drawn = [line for line in alike if line is not keys[rule]]
        expected = null.isel(run=0).transpose("subset_size", "epoch").values
        np.testing.assert_allclose([line.get_ydata() for line in drawn], expected)


def test_subsets_of_several_widths_are_not_mixed() -> None:
    result = queries.dynamics(planted_dataset(), subset_size=[2, 4], subsets=3)
    several = xr.concat(
        [result.assign_coords(run=[n], width=("run", [w])) for n, w in (("a", 16), ("b", 32))],
        "run",
    )
    with pytest.raises(InvalidParameterError):
        plotting.followed(several)


def trained(errors: list[list[float]], epochs: tuple[int, ...] = (1, 2, 5)) -> xr.Dataset:
    """Return what dynamics returns of the train errors of some seeds, at these epochs."""
    first = [
        next((e for e, x in zip(epochs, one, strict=True) if x == 0), np.nan) for one in errors
    ]
    clones = np.full((len(errors), len(epochs), 1), 3.0)
    return xr.Dataset(
        {"width_ratio": (("run", "epoch", "threshold"), clones),
         "alive": ("run", [8] * len(errors)),
         "train_error": (("run", "epoch"), errors), "interpolation_epoch": ("run", first)},
        coords={"run": [f"r{n}" for n in range(len(errors))], "epoch": list(epochs),
                "threshold": [0.9], "width": ("run", [8] * len(errors)),
                "seed": ("run", list(range(len(errors))))},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "marked"),
    [
        ([[0.5, 0.0, 0.0], [0.5, 0.1, 0.0]], [5]),  # not 3.5, their mean: that was no epoch
        ([[0.5, 0.0, 0.0], [0.5, 0.1, 0.1]], []),
        ([[0.5, 0.0, 0.0]], [2]),
    ],
)
def test_zero_train_error_is_marked_when_every_seed_has_reached_it(
    errors: list[list[float]], marked: list[int]
) -> None:
    ax = plotting.dynamics(trained(errors))
    marks = [line for line in ax.lines if line.get_marker() == "v" and line.get_label()[0] == "_"]
    assert [x for line in marks for x in np.ravel(line.get_xdata())] == marked
    said = [label for label in ax.get_legend_handles_labels()[1] if "zero train error" in label]
    assert len(said) == len(marked)
    assert all(("all seeds" in label) is (len(errors) > 1) for label in said)


def test_the_errors_of_all_settings_have_one_scale() -> None:
    """One alone has small errors, which stretch its axis."""
    several = trained([[0.5, 0.4, 0.3], [0.5, 0.01, 0.001]])
    whole = plotting.figure("dynamics", several.assign_coords(lr=("run", [0.1, 0.2])))
    one, other = whole.axes[:2]
    assert one.get_ylabel() == other.get_ylabel() == "error"
    assert one.get_yscale() == other.get_yscale() == "symlog"
    assert one.get_ylim() == other.get_ylim()


def test_a_mark_at_zero_error_is_whole() -> None:
    ax = plotting.figure("dynamics", trained([[0.2, 0.1, 0.0]])).axes[0]
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[0] < 0


def test_a_figure_says_of_which_epoch_and_seeds_it_is(answers: Answers) -> None:
    def footer(question: str, **chosen: Any) -> str:
        store = answers.store.sel(weight_decay=0.005, **chosen)
        whole = plotting.figure(question, getattr(queries, question)(store, subsets=2))
        return str(whole.get_supxlabel())

    last = max(run.epochs[-1] for run in answers.store.values())
    seeds = sorted({run.seed for run in answers.store.values()})
    several = footer("reconstruction", width=[32, 64], epoch=-1)
    assert f", epoch {last}, {len(seeds)} seeds, 2 random subsets (rng_seed 0)" in several
    assert f", epoch {last}, {len(seeds)} seeds," in footer("scaling", epoch=-1)
    assert f", epoch {last}, seed {seeds[-1]}," in footer("clones", seed=seeds[-1], epoch=-1)
    assert "epoch" not in footer("dynamics", width=32, seed=0)  # there it is the axis


def test_early_epochs_are_stretched_only_if_they_were_recorded_more_densely() -> None:
    def axis_of(epochs: list[int]) -> str:
        n = len(epochs)
        result = xr.Dataset(
            {"width_ratio": (("run", "epoch", "threshold"), np.full((1, n, 1), 3.0))},
            coords={"run": ["a"], "epoch": epochs, "threshold": [0.9], "width": ("run", [8]),
                    "seed": ("run", [0])},
        )  # fmt: skip
        return plotting.dynamics(result).get_xscale()

    assert axis_of([0, 10, 20, 30]) == "linear"
    assert axis_of([0, 1, 2, 5, 10, 100]) == "symlog"


def test_who_wins_is_counted_from_the_intervals() -> None:
    low = np.array([-0.2, 0.1, -0.1, np.nan]).reshape(4, 1, 1)
    high = np.array([-0.1, 0.2, 0.1, np.nan]).reshape(4, 1, 1)
    dims = ("contest", "rival", "average")
    result = xr.Dataset(
        {"difference": (dims, (low + high) / 2), "difference_low": (dims, low),
         "difference_high": (dims, high)},
        coords={"contest": [f"wd=0: 2 x {w} against {2 * w}" for w in (2, 4, 8, 16)],
                "rival": ["narrow ensemble"], "average": ["logits"]},
    )  # fmt: skip
    ax = plotting.ensemble(result)
    assert ax.get_legend_handles_labels()[1] == [
        "narrow ensemble, logits\nwide wins 1, rival 1, draws 1"
    ]
    assert next(t.get_text() for t in ax.get_yticklabels()) == "2 x 2 against 4"


def test_a_setting_has_one_name_in_every_panel(answers: Answers) -> None:
    titles = {title_of(ax) for ax in plotting.figure("ensemble", answers["ensemble"]).axes}
    assert {"weight_decay=0", "weight_decay=0.005"} & titles
    assert not {title for title in titles if title.endswith("=0.0")}


def test_bias_and_variance_leave_widths_of_one_seed_out() -> None:
    values = np.array([[0.4, np.nan, 0.2]])
    result = xr.Dataset(
        {name: (("setting", "width"), k * values) for k, name in
         enumerate(("bias2", "variance", "squared_error"), 1)},
        coords={"width": [8, 16, 32], "weight_decay": ("setting", [0.0])},
    )  # fmt: skip
    ax = plotting.bias_variance(result)
    drawn = {tuple(line.get_ydata()) for line in ax.lines if len(line.get_xdata()) == 2}
    assert drawn == {(0.4, 0.2), (0.8, 0.4), (3 * 0.4, 3 * 0.2)}


def test_the_spectrum_is_drawn_as_shares_of_the_variance() -> None:
    data = planted_dataset(width=8, noise=(0.3,))
    result = queries.spectrum(data, fraction=0.9)
    ax = plotting.spectrum(result)
    values = np.linalg.eigvalsh(np.cov(data.activations.values[0].astype(float).T))[::-1]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values / values.sum(), rtol=1e-6)
    needed = int(np.searchsorted(np.cumsum(values / values.sum()), 0.9)) + 1
    assert f"90 % of the variance in {needed} components" in ax.get_legend_handles_labels()[1][0]


def test_neurons_are_drawn_by_how_much_they_vary(answers: Answers) -> None:
    chosen = answers.store.sel(width=[16, 32], weight_decay=0.005)
    ax = plotting.moments(queries.moments(chosen.sel(epoch=[5, 10])))
    for width in (16, 32):
        seeds = chosen.sel(width=width, epoch=10).values()
        layers = [run.dataset("test").activations.values[0].astype(float) for run in seeds]
        expected = np.mean([np.sort(x.std(0, ddof=1))[::-1] for x in layers], axis=0)
        drawn = line_called(ax, f"W = {width}")
        assert np.ravel(drawn.get_xdata()).tolist() == list(range(1, width + 1))
        np.testing.assert_allclose(drawn.get_ydata(), expected, rtol=1e-6)


def test_like_neurons_are_drawn_together() -> None:
    """Three signals, each in two neurons apart, and a dead neuron."""
    rng = np.random.default_rng(0)
    x = np.hstack([np.tile(rng.normal(size=(300, 3)), 2), np.ones((300, 1))])
    x[:, :6] += 0.1 * rng.normal(size=(300, 6))
    result = queries.moments(xr.Dataset({"activations": (("sample", "neuron"), x)}))
    ax = plotting.correlations(result)
    drawn = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert drawn.shape == (6, 6)
    assert np.isnan(np.diag(drawn)).all()
    expected = np.abs(np.corrcoef(x[:, :6].T)[~np.eye(6, dtype=bool)])
    np.testing.assert_allclose(np.sort(drawn[~np.eye(6, dtype=bool)]), np.sort(expected), rtol=1e-9)
    assert (np.diag(drawn, 1)[::2] > 0.9).all()  # pairs are neighbours
    assert f"6 alive neurons, mean |correlation| {expected.mean():.3f}" in title_of(ax)
    curve = plotting.moments(result)
    assert "W = 7 (6 alive)" in curve.get_legend_handles_labels()[1]
    np.testing.assert_allclose(np.ravel(curve.lines[0].get_ydata())[-1], 0, atol=1e-12)


@pytest.mark.parametrize("neurons", [0, 1])
def test_without_two_alive_neurons_there_is_no_matrix(neurons: int) -> None:
    x = np.ones((20, 3))
    x[:, :neurons] += np.random.default_rng(0).normal(size=(20, neurons))
    whole = plotting.figure(
        "moments", queries.moments(xr.Dataset({"activations": (("sample", "neuron"), x)}))
    )
    assert "fewer than two alive neurons" in [text.get_text() for text in whole.axes[1].texts]


def test_the_widest_network_of_each_setting_shows_its_neurons(answers: Answers) -> None:
    result = queries.moments(answers.store.sel(width=[8, 16], epoch=-1))
    whole = plotting.figure("moments", result)
    matrices = [ax for ax in whole.axes if ax.images]
    assert [ax.images[0].get_array().shape for ax in matrices] == [(16, 16)] * 2
    assert [title_of(ax).partition("\n")[0] for ax in matrices] == [
        f"{setting}, W = 16" for setting in WEIGHT_DECAYS
    ]


# the figure of the paper


def test_the_figure_of_the_paper_has_a_column_a_setting(answers: Answers) -> None:
    figure = plotting.paper({name: answers[name] for name in plotting.PAPER})
    titles = [title_of(ax) for ax in figure.axes]
    assert titles[:6] == [
        *WEIGHT_DECAYS, *WEIGHT_DECAYS, *(f"test error, {setting}" for setting in WEIGHT_DECAYS)
    ]  # fmt: skip
    assert titles[6:] == ["held-out R² ≥ 0.9", "held-out R² ≥ 0.99", "error of whole networks"]
    line = line_called(figure.axes[0], "R² = 0.9")  # the first threshold of the scaling
    assert line.get_linestyle() == ":"


def test_the_figure_of_the_paper_names_the_answers_it_lacks(answers: Answers) -> None:
    with pytest.raises(InvalidParameterError, match="without noise, error, scaling"):
        plotting.paper({"reconstruction": answers["reconstruction"]})


# the command


def test_plot_draws_and_says_so_on_stderr_alone(
    planted_path: Path, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    file = tmp_path / "scaling.svg"
    answer = cli("plot", "scaling", planted_path, "--threshold", "0.9", "-o", file)
    assert (answer.code, answer.out) == (0, "")
    assert str(file) in answer.err
    assert b"</svg>" in file.read_bytes()


def test_plot_paper_draws_all_panels_from_one_store(
    planted_path: Path, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    file = tmp_path / "paper.svg"
    chosen = ("--width", "8,16", "--where", "weight_decay=0.005", "--threshold", "0.9")
    answer = cli("plot", "paper", planted_path, *chosen, "-o", file)
    assert (answer.code, answer.out) == (0, "")
    assert b"</svg>" in file.read_bytes()


def test_plot_paper_explains_each_of_its_questions_and_draws_nothing(
    planted_path: Path, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    file = tmp_path / "paper.svg"
    bounds = ("--memory", "500MB", "--subsets", 5, "--split", "train", "--explain")
    answer = cli("plot", "paper", planted_path, *bounds, "-o", file)
    assert answer.code == 0, answer.err
    said = [line for line in answer.out.splitlines() if line and not line.startswith(" ")]
    assert said == list(plotting.PAPER)
    assert answer.out.count("to compute") == len(said)
    assert not file.exists()


def test_plot_without_matplotlib_computes_nothing(
    tmp_path: Path, cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for asked in (("plot", "scaling"), ("plot", "paper")):
        answer = cli(*asked, tmp_path / "not even looked for.zarr", "-o", tmp_path / "a.png")
        assert answer.code == 1
        assert "pip install 'actstore[plot]'" in answer.err


def test_a_second_store_is_refused_with_the_remedy(
    planted_path: Path, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("plot", "scaling", planted_path, planted_path, "-o", tmp_path / "a.png")
    assert answer.code == 2
    assert "'actstore merge' makes one of several" in answer.err


def test_plot_without_a_file_or_with_a_wrong_one_computes_nothing(
    planted_path: Path, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    assert cli("plot", "scaling", planted_path).code == 2
    assert cli("plot", "scaling", planted_path, "-o", tmp_path / "a.gif").code == 1
    assert list(tmp_path.iterdir()) == []


# reviewed pictures


def pair(answers: Answers) -> xr.Dataset:
    """Ask for a partition of one width with weight decay and without, to stand side by side."""
    return queries.clones(answers.store.sel(width=32, seed=0, epoch=-1), parts=8, subsets=8)


def decay(_: Answers) -> Figure:
    """Draw the one panel whose law is known exactly, and where it is not determined."""
    figure = Figure((14, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    plotting.error_decay(decaying(0.5, 0.02, (0.4, 0.6)), ax=left)
    plotting.error_decay(decaying(0.5, 0.02, (0.0, np.inf)), ax=right)
    return figure


def growths(_: Answers) -> Figure:
    """Draw what the planted store lacks: train errors above zero, and a fit of the error."""
    result = growth(settings=2)
    result["width_ratio"][0] = 1.2
    result["has_clones"][0] = False
    result["exponent"][0] = np.nan
    result["train_error"][:, 0] = 0.01
    result["test_error"] = 0.01 + 0.4 / result["width"] + 0.1 * result["train_error"]
    law = {"gamma": 1.0, "gamma_low": 0.9, "gamma_high": 1.1, "error_inf": 0.01,
           "gamma_window_low": 8.0, "gamma_window_high": 128.0}  # fmt: skip
    figure = Figure((8, 7.4), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    plotting.scaling(result, ax=top)
    plotting.width_error(result.assign({k: ("setting", [v, v]) for k, v in law.items()}), ax=bottom)
    return figure


PICTURES: dict[str, Callable[[Answers], Figure]] = {
    **{q: lambda answers, q=q: plotting.figure(q, answers[q]) for q in ASKED},  # type: ignore[misc]
    "followed": lambda answers: plotting.figure("dynamics", follow(answers)),
    "parts": lambda answers: plotting.figure("clones", pair(answers)),
    "decay": decay,
    "growth": growths,
    "paper": lambda answers: plotting.paper({name: answers[name] for name in plotting.PAPER}),
}


def without_words(figure: Figure) -> Figure:
    """Leave words out, and give each panel a place that does not depend on them.

    Each version of matplotlib sets type, and so lays a figure out, a little differently: 3.9 and
    3.11 differ by 27…47 (the unit of ALIKE) with words, by less than ALIKE without. What words
    say, and that none is cut off or on a curve, is tested above.
    """
    figure.set_layout_engine("none")
    for part in figure.subfigs or [figure]:
        wide, high = part.bbox.size / figure.dpi * DPI
        rows = -(-len(part.axes) // 2)
        # whole multiples of the cells of a matrix, so that no edge of a cell lies within a pixel
        w, h = (int(size) // CELLS * CELLS for size in (0.45 * wide, 0.85 * high / rows))
        for place, ax in enumerate(part.axes):
            x, y = int(wide / 2) * (place % 2) + 16, int(high / rows) * (place // 2) + 16
            ax.set_axes_locator(None)  # a bar of colours follows its panel otherwise
            ax.set_aspect("auto")
            ax.set_box_aspect(None)
            ax.set_position((x / wide, y / high, w / wide, h / high))
    for artist in figure.findobj(lambda one: isinstance(one, Text | Legend)):
        artist.set_visible(False)
    return figure


@pytest.mark.parametrize("name", list(PICTURES))
def test_figures_look_as_reviewed(name: str, answers: Answers, tmp_path: Path) -> None:
    """Compare with a picture that a person has looked at.

    After a change that is meant, look at the new picture, which the message names, and copy it
    over the old one.
    """
    drawn = tmp_path / f"{name}.png"
    with mpl.rc_context(STYLE):
        without_words(PICTURES[name](answers)).savefig(drawn, dpi=DPI)
    reviewed = Path(__file__).parent / "baselines" / f"{name}.png"
    difference = compare_images(str(reviewed), str(drawn), tol=ALIKE)
    assert difference is None, difference


def test_where_nothing_is_wrong_or_left_over_the_axes_stand_still() -> None:
    """Warnings are errors here, so limits that are one another would be one."""
    whole = queries.noise(
        planted_dataset(noise=(0.3,)), subset_size=32, subsets=2, factors=None, eigenvalues=True
    )
    plotting.figure("noise", whole)
    ax = Figure().subplots()
    from_zero(ax, 0.0)
    assert ax.get_ylim()[1] > 0
