"""The error of whole networks follows the planted law of their width, and its window is told."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import least_squares

import actstore
from actstore.errors import InvalidDataError, InvalidParameterError, UndecidedWarning
from actstore.queries.settings import Settings
from actstore.queries.width_law import width_law
from actstore.testing import raise_if_computes

from .command_line import Answer
from .planted_networks import error, network, record_networks

WIDTHS = (4, 8, 16, 32)
GAMMA, FLOOR = 0.7, 0.03
SAMPLES = {"train": 60, "test": 60}
DECAYING, FLAT = "weight_decay=0.005", "weight_decay=0.0"


LAW = ["gamma", "gamma_low", "gamma_high", "error_inf", "gamma_window_low", "gamma_window_high"]


def fitted(store: actstore.Store, **options: Any) -> xr.Dataset:
    """Compute the law alone: the clones are another test's question."""
    return store.scaling(subsets=2, **options)[LAW].compute()


def law(width: float) -> float:
    return FLOOR + 0.5 * width**-GAMMA


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record networks whose logged test error follows the law, and some where it does not fall."""
    store = tmp_path_factory.mktemp("law") / "law.zarr"
    options = {"samples": SAMPLES}
    for width in WIDTHS:
        for seed in (0, 1, 2):
            record_networks(
                store, widths=[width], seeds=[seed], epochs=[9], options=options,
                # seeds differ; their mean is the law
                logged={"test_error": law(width) * (0.9, 1.0, 1.1)[seed]}, weight_decay=0.005,
            )  # fmt: skip
    return record_networks(
        store, widths=WIDTHS[:3], seeds=[0], epochs=[9], options=options,
        logged={"test_error": 0.25}, weight_decay=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(path: Path) -> actstore.Store:
    return actstore.open(path)


@pytest.mark.parametrize("error_inf", [None, FLOOR])
def test_the_planted_law_is_found_with_its_floor_free_or_given(
    store: actstore.Store, error_inf: float | None
) -> None:
    found = fitted(store, error_inf=error_inf).sel(setting=DECAYING)
    assert float(found.gamma) == pytest.approx(GAMMA, abs=1e-3)
    assert float(found.error_inf) == pytest.approx(FLOOR, abs=1e-3)
    assert float(found.gamma_low) <= GAMMA + 1e-3
    assert float(found.gamma_high) >= GAMMA - 1e-3
    assert (float(found.gamma_window_low), float(found.gamma_window_high)) == (4, 32)


def test_another_floor_gives_the_exponent_of_a_least_squares_fit(store: actstore.Store) -> None:
    w = np.array(WIDTHS, float)
    y = law(w)  # type: ignore[arg-type]
    for floor in (0.0, 0.01, 0.05):
        fit = least_squares(
            lambda p, floor=floor: (floor + np.exp(p[0]) * w ** -p[1]) / y - 1, [0, 0.5], xtol=1e-12
        )
        found = fitted(store, error_inf=floor).sel(setting=DECAYING)
        assert float(found.gamma) == pytest.approx(fit.x[1], rel=1e-4)


def test_an_error_that_does_not_fall_has_no_exponent(store: actstore.Store) -> None:
    found = fitted(store).sel(setting=FLAT)
    for name in ("gamma", "gamma_low", "gamma_high", "error_inf"):
        assert bool(found[name].isnull()), name
    assert float(found.gamma_window_high) == 16  # the widest that the setting has


def test_the_window_is_that_of_the_widths_that_were_used(store: actstore.Store) -> None:
    found = fitted(store, window=(5, 40), error_inf=FLOOR).sel(setting=DECAYING)
    assert (float(found.gamma_window_low), float(found.gamma_window_high)) == (8, 32)
    assert float(found.gamma) == pytest.approx(GAMMA, abs=1e-3)
    two = fitted(store, window=(16, 32)).sel(setting=DECAYING)
    assert bool(two.gamma.isnull())


def test_the_split_whose_error_is_fitted_is_the_one_asked_for(store: actstore.Store) -> None:
    chosen = store.sel(weight_decay=0.005)
    found = fitted(chosen, split="train", error_inf=0.0).isel(setting=0)
    w = np.array(WIDTHS, float)
    y = np.array([
        np.mean([error(n.logits("train"), n.label["train"]) for n in
                 (network(width, seed, samples=SAMPLES) for seed in (0, 1, 2))])
        for width in WIDTHS
    ])  # fmt: skip
    fit = least_squares(lambda p: np.exp(p[0]) * w ** -p[1] / y - 1, [0, 0.5], xtol=1e-12)
    assert float(found.gamma) == pytest.approx(fit.x[1], rel=1e-4)


def test_the_error_of_infinite_width_is_that_of_the_widest_seeds_averaged(
    store: actstore.Store,
) -> None:
    chosen = store.sel(weight_decay=0.005)
    found = fitted(chosen, error_inf="ensemble").isel(setting=0)
    nets = [network(32, seed, samples=SAMPLES) for seed in (0, 1, 2)]
    mean = np.mean([net.logits("test") for net in nets], axis=0)
    expected = error(mean, nets[0].label["test"])
    given = fitted(chosen, error_inf=expected).isel(setting=0)
    # where no law above that floor fits, there is no exponent and no floor either way
    for name in ("gamma", "gamma_low", "gamma_high", "error_inf"):
        np.testing.assert_equal(float(found[name]), float(given[name]), err_msg=name)
    if np.isfinite(found.gamma):
        assert float(found.error_inf) == expected


def test_without_logged_errors_there_is_no_law_and_no_failure(tmp_path: Path) -> None:
    path = record_networks(
        tmp_path / "s.zarr", widths=WIDTHS, seeds=[0], epochs=[9], metrics=False,
        options={"samples": SAMPLES},
    )  # fmt: skip
    assert bool(fitted(actstore.open(path)).isnull().all().to_array().all())


class Planted(Settings):
    """One setting of networks that logged these errors ``(seed, width)``."""

    def __init__(self, widths: Sequence[int], errors: Any) -> None:
        self.widths, self.errors = list(widths), errors

    @property
    def shape(self) -> tuple[int, int]:
        """One setting."""
        return (1, len(self.widths))

    def logged(self, name: str) -> dict[tuple[int, int], Any]:
        """Return the errors of the seeds of each width."""
        assert name == "test_error"
        return {(0, w): self.errors[:, w] for w in range(len(self.widths))}

    def law(self, error_inf: float | None) -> xr.Dataset:
        """Fit the law to them."""
        fit = width_law(
            self, split="test", layer="", error_inf=error_inf, window=None, rng_seed=0
        )  # fmt: skip
        return fit.isel(setting=0).compute()


def test_seeds_that_differ_widen_the_interval_of_an_exact_mean() -> None:
    """The mean over seeds lies on the law, so that the scatter of the widths says nothing."""
    exact = np.array([law(w) for w in WIDTHS])
    apart = 1 + np.array([[-0.2], [0.0], [0.2]]) * np.array([1, -1, 1, -1])
    narrow = Planted(WIDTHS, np.array([exact] * 3)).law(FLOOR)
    wide = Planted(WIDTHS, apart * exact).law(FLOOR)
    for found in (narrow, wide):
        assert float(found.gamma) == pytest.approx(GAMMA, abs=1e-3)
    assert float(wide.gamma_low) < GAMMA < float(wide.gamma_high)
    assert float(narrow.gamma_high - narrow.gamma_low) < 0.01
    # an oracle without resampling: the spread of γ when the mean of one width moves by its
    # standard error, in quadrature over widths
    error_of_mean = (apart * exact).std(0, ddof=1) / np.sqrt(3)
    moved = []
    for k in range(len(WIDTHS)):
        y = exact + error_of_mean * (np.arange(len(WIDTHS)) == k)
        fit = least_squares(
            lambda p, y=y: (FLOOR + np.exp(p[0]) * np.array(WIDTHS, float) ** -p[1]) / y - 1,
            [0, 0.5], xtol=1e-12,
        )  # fmt: skip
        moved.append(fit.x[1] - GAMMA)
    expected = 2 * 1.96 * float(np.sqrt(np.square(moved).sum()))
    assert float(wide.gamma_high - wide.gamma_low) == pytest.approx(expected, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 4])
def test_the_interval_of_gamma_covers_the_planted_law_of_widths(seeds: int) -> None:
    """Networks of 7 widths whose errors differ by 5 % from seed to seed."""
    widths = [8, 16, 32, 64, 128, 256, 512]
    truth = FLOOR + 0.5 * np.array(widths, float) ** -GAMMA
    rng = np.random.default_rng(seeds)
    for known in (None, FLOOR):
        hits = trials = 0
        for _ in range(250):
            errors = truth * (1 + 0.05 * rng.normal(size=(seeds, len(widths))))
            found = Planted(widths, errors).law(known)
            if np.isfinite(found.gamma.item()):
                trials += 1
                hits += found.gamma_low.item() <= GAMMA <= found.gamma_high.item()
        assert trials > 240
        # binomial sd 1.4 %; the farther of two ends covers a little more than each
        assert 0.92 <= hits / trials <= 0.995, f"{hits} of {trials}, error_inf {known}"


def test_runs_that_stopped_at_other_epochs_are_compared_with_a_warning(tmp_path: Path) -> None:
    for width, epochs in ((4, [0, 9]), (8, [0, 4]), (16, [0, 9])):
        record_networks(
            tmp_path / "s.zarr", widths=[width], seeds=[0], epochs=epochs,
            options={"samples": SAMPLES},
        )  # fmt: skip
    store = actstore.open(tmp_path / "s.zarr")
    with pytest.warns(UndecidedWarning, match=r"last epochs, 4 \(1 of the runs\), 9 \(2 of"):
        found = store.scaling(subsets=2)
    assert found.attrs["epochs"] == [4, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.sel(epoch=0).scaling(subsets=2).attrs["epochs"] == [0]


def test_every_variable_of_the_law_has_dims_name_and_unit(store: actstore.Store) -> None:
    found = store.scaling(subsets=2)
    for name in ("gamma", "gamma_low", "gamma_high", "error_inf", "gamma_window_low",
                 "gamma_window_high"):  # fmt: skip
        assert found[name].dims == ("setting",)
        assert found[name].attrs["long_name"]
    assert found.gamma_window_low.attrs["units"] == "neurons"


# laziness and bad input


@pytest.mark.parametrize("error_inf", [None, 0.1, "ensemble"])
def test_building_the_question_computes_nothing(store: actstore.Store, error_inf: Any) -> None:
    with raise_if_computes():
        built = store.sel(weight_decay=0.005).scaling(error_inf=error_inf)
    assert built.gamma.chunks is not None


def test_an_ensemble_of_one_seed_is_refused(store: actstore.Store) -> None:
    with pytest.raises(InvalidParameterError, match=rf"width 16, the widest of {FLAT}, has one"):
        store.scaling(error_inf="ensemble")


def test_an_ensemble_on_other_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    for seed in (0, 1):
        options = {"samples": SAMPLES, "offset": seed}
        record_networks(path, widths=[8], seeds=[seed], epochs=[9], options=options)
    with pytest.raises(InvalidDataError, match="has other samples or labels than run"):
        actstore.open(path).scaling(error_inf="ensemble")


def test_an_ensemble_of_runs_without_readout_is_refused(tmp_path: Path) -> None:
    path = record_networks(tmp_path / "s.zarr", widths=[8], seeds=[0, 1], epochs=[9], readout=False)
    with pytest.raises(InvalidParameterError, match="the runs hold no readout; give a number"):
        actstore.open(path).scaling(error_inf="ensemble")


@pytest.mark.parametrize("error_inf", [-0.1, 1.5, "best", np.nan])
def test_an_error_of_infinite_width_outside_0_to_1_is_refused(
    store: actstore.Store, error_inf: Any
) -> None:
    with pytest.raises(
        InvalidParameterError, match=r"error_inf=.* was asked for; give a number in"
    ):
        store.scaling(error_inf=error_inf)


# the command


def test_the_command_prints_the_law_with_its_window(path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("query", "scaling", path, "--subsets", 2, "--error-inf", FLOOR)
    assert answer.code == 0, answer.err
    said = " ".join(answer.out.split())  # lines are as wide as a terminal
    held = said.rpartition(f"{DECAYING}, test error - error_inf ~ width^-gamma, gamma 0.70 (")[2]
    assert held.partition(")")[2].startswith(" over 4…32, error_inf 0.03")
    assert f"{FLAT}, test error - error_inf cannot be told over 4…16" in said
    train = cli("query", "scaling", path, "--subsets", 2, "--split", "train")
    assert "train error - error_inf" in train.out
    assert "test error - error_inf" not in train.out


def test_without_logged_errors_the_command_prints_no_law(
    tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    path = record_networks(
        tmp_path / "s.zarr", widths=[4, 8], seeds=[0], epochs=[9], metrics=False,
        options={"samples": SAMPLES},
    )  # fmt: skip
    answer = cli("query", "scaling", path, "--subsets", 2)
    assert answer.code == 0, answer.err
    assert "error_inf" not in answer.out
    assert "nan" not in answer.out


def test_one_seed_and_an_ensemble_end_with_one_sentence(
    path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("query", "scaling", path, "--error-inf", "ensemble")
    assert (answer.code, answer.out) == (1, "")
    assert "has one seed; record more, or give a number" in answer.err
