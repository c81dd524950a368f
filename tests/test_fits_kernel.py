"""Laws recovered from planted points, against scipy's fits; intervals by simulation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import curve_fit, least_squares

from actstore.errors import InvalidParameterError
from actstore.kernels.fits import (
    critical_width,
    critical_widths,
    decay_exponents,
    decay_law,
    power_law,
    power_law_exponents,
)

WIDTHS = np.array([8.0, 16, 32, 64, 128, 256, 512])


def noisy(y, spread, seed):
    return y * np.exp(spread * np.random.default_rng(seed).normal(size=len(y)))


# -- power law ----------------------------------------------------------------------------


def test_power_law_and_its_interval_are_those_of_linear_regression_of_logs():
    y = noisy(0.1 * WIDTHS**0.9, 0.1, 0)
    fit = power_law(WIDTHS, y, level=0.9)
    line = stats.linregress(np.log(WIDTHS), np.log(y))
    half = stats.t.ppf(0.95, 5) * line.stderr
    assert fit.exponent == pytest.approx(line.slope)
    assert fit.amplitude == pytest.approx(np.exp(line.intercept))
    assert (fit.low, fit.high) == pytest.approx((line.slope - half, line.slope + half))


def test_the_window_leaves_points_out_and_is_part_of_the_result():
    y = np.where(WIDTHS < 32, 1.0, WIDTHS / 32)
    fit = power_law(WIDTHS, y, window=(30, 300))
    assert (fit.window, fit.n_points) == ((32.0, 256.0), 4)
    assert fit.exponent == pytest.approx(1)
    assert power_law(WIDTHS, y).exponent < 0.9


def test_points_without_a_logarithm_are_not_counted():
    y = np.array([0.0, np.nan, -1.0, 8, 16, 32, np.inf])
    fit = power_law(WIDTHS, y)
    assert fit.n_points == 3
    assert fit.exponent == pytest.approx(1)


# -- decay --------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("given_floor", [True, False])
def test_decay_law_is_recovered(gamma, given_floor):
    error = 0.02 + 0.4 * WIDTHS**-gamma
    fit = decay_law(WIDTHS, error, error_inf=0.02 if given_floor else None)
    assert fit.gamma == pytest.approx(gamma, abs=1e-5)
    assert fit.amplitude == pytest.approx(0.4, rel=1e-4)
    assert fit.error_inf == pytest.approx(0.02, abs=1e-6)
    assert fit.error_inf_given is given_floor
    assert fit.low <= gamma + 1e-5
    assert fit.high >= gamma - 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_decay_law_is_the_relative_least_squares_of_scipy(seed):
    error = noisy(0.02 + 0.4 * WIDTHS**-0.7, 0.05, seed)

    def residuals(parameters):
        floor, height, gamma = parameters
        return 1 - (floor + height * WIDTHS**-gamma) / error

    starts = [(f, h, g) for f in (0, 0.01) for h in (0.2, 1) for g in (0.4, 1)]
    found = min(
        (least_squares(residuals, s, bounds=([0, 0, 0.01], [1, 100, 10])) for s in starts),
        key=lambda r: r.cost,
    )
    fit = decay_law(WIDTHS, error)
    ours = np.square(residuals((fit.error_inf, fit.amplitude, fit.gamma))).sum() / 2
    assert ours <= found.cost * (1 + 1e-8)
    assert fit.gamma == pytest.approx(found.x[2], rel=1e-3)


def test_a_given_floor_above_the_errors_and_a_growing_error_are_no_decay():
    for error, floor in [(0.3 * WIDTHS**-0.5, 0.5), (0.01 * WIDTHS**0.5, None)]:
        fit = decay_law(WIDTHS, error, error_inf=floor)
        assert np.isnan([fit.gamma, fit.amplitude, fit.low, fit.high]).all()
        assert fit.n_points == 7


def test_noise_alone_does_not_bound_the_exponent():
    fit = decay_law(WIDTHS[:5], noisy(np.full(5, 0.1), 0.2, 3) + 1e-3 / WIDTHS[:5])
    assert np.isnan(fit.gamma) or fit.high == np.inf or fit.low == 0


# -- critical width -----------------------------------------------------------------------


@pytest.mark.parametrize("critical", [10.0, 16.0, 40.0, 100.0])
@pytest.mark.parametrize("plateau", [1.0, None])
def test_critical_width_is_recovered(critical, plateau):
    ratio = 1 + np.maximum(0, WIDTHS - critical) / 14
    fit = critical_width(WIDTHS, ratio, plateau=plateau)
    assert fit.critical_width == pytest.approx(critical, rel=1e-4)
    assert fit.slope == pytest.approx(1 / 14, rel=1e-4)
    assert fit.plateau == pytest.approx(1, abs=1e-5)


def test_clones_of_one_size_at_every_width_have_that_size_as_critical_width():
    fit = critical_width(WIDTHS[2:], WIDTHS[2:] / 16)
    assert fit.critical_width == pytest.approx(16, rel=1e-6)
    assert fit.slope == pytest.approx(1 / 16)


@pytest.mark.parametrize("seed", range(4))
def test_critical_width_is_the_relative_least_squares_of_scipy(seed):
    ratio = noisy(1 + np.maximum(0, WIDTHS - 20) / 16, 0.05, seed)

    def line(w, bend, slope):
        return 1 + slope * np.maximum(0, w - bend)

    best = min(
        (
            curve_fit(line, WIDTHS, ratio, p0=(start, 0.05), sigma=ratio, full_output=True)
            for start in (9, 17, 24, 40)
        ),
        key=lambda found: np.square(found[2]["fvec"]).sum(),
    )
    fit = critical_width(WIDTHS, ratio)
    assert fit.critical_width == pytest.approx(best[0][0], rel=1e-3)
    assert fit.slope == pytest.approx(best[0][1], rel=1e-3)


def test_a_layer_that_never_has_clones_has_no_critical_width():
    fit = critical_width(WIDTHS, np.ones(7))
    assert np.isnan([fit.critical_width, fit.slope, fit.low, fit.high]).all()


@settings(max_examples=25)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_widths_in_other_units_scale_the_critical_width(scale, seed):
    ratio = noisy(1 + np.maximum(0, WIDTHS - 20) / 16, 0.05, seed)
    one, other = critical_width(WIDTHS, ratio), critical_width(WIDTHS * scale, ratio)
    assert other.critical_width == pytest.approx(one.critical_width * scale, rel=1e-5)
    assert other.slope * scale == pytest.approx(one.slope, rel=1e-5)


# -- all laws -----------------------------------------------------------------------------


@pytest.mark.parametrize("law", [power_law, decay_law, critical_width])
@pytest.mark.parametrize(
    ("w", "y"),
    [
        ([], []),
        ([8, 16], [1, 2]),
        ([8, 8, 8], [1, 2, 3]),
        ([8, 16, 32], [0, -1, np.nan]),
        ([np.nan, 16, 32], [1, 2, 3]),
    ],
)
def test_points_too_few_for_a_law_give_nan_and_no_exception(law, w, y):
    fit = dataclasses.asdict(law(w, y))
    count = fit.pop("n_points")
    assert count <= 3
    for known in ("level", "window", "error_inf_given"):
        fit.pop(known, None)
    assert np.isnan(list(fit.values())).all()


@pytest.mark.parametrize(("law", "parameters"), [(decay_law, 3), (critical_width, 2)])
def test_no_more_points_than_parameters_leave_no_interval(law, parameters):
    w = WIDTHS[: max(parameters, 3)]
    y = 0.1 + w**-0.5 if law is decay_law else 1 + np.maximum(0, w - 12) / 4
    fit = law(w, y, **({"plateau": None} if law is critical_width else {}))
    assert np.isnan([fit.low, fit.high]).all()


@pytest.mark.slow
def test_intervals_of_the_laws_cover_the_truth_in_95_of_100_simulations():
    draws = 1000
    hits = {"power": 0, "decay": 0, "decay, given floor": 0, "critical width": 0}
    w = np.geomspace(8, 512, 10)
    for seed in range(draws):
        fit = power_law(w, noisy(2 * w**-0.5, 0.1, seed))
        hits["power"] += fit.low <= -0.5 <= fit.high
        error = noisy(0.02 + 0.5 * w**-0.8, 0.03, seed)
        fit = decay_law(w, error)
        hits["decay"] += fit.low <= 0.8 <= fit.high
        fit = decay_law(w, error, error_inf=0.02)
        hits["decay, given floor"] += fit.low <= 0.8 <= fit.high
        fit = critical_width(w, noisy(1 + np.maximum(0, w - 20) / 16, 0.05, seed))
        hits["critical width"] += fit.low <= 20 <= fit.high
    coverage = {name: count / draws for name, count in hits.items()}
    # binomial sd 0.7 %; profile intervals of a non-linear parameter are a little off 95 %
    assert all(0.92 <= share <= 0.98 for share in coverage.values()), coverage


# -- many rows at once ----------------------------------------------------------------------


@pytest.mark.parametrize("known", [None, 0.02])
def test_rows_that_are_fitted_together_are_fitted_as_each_alone(known):
    rows = np.array([noisy(0.02 + 0.4 * WIDTHS**-0.7, 0.1, seed) for seed in range(12)])
    rows[3, 2] = np.nan
    rows[4, 5] = 0.0  # has no relative error: not a point
    rows[5] = rows[5][::-1]  # rises
    rows[6, 2:] = np.nan
    window = (8, 300)
    exponents = [power_law(WIDTHS, row, window=window).exponent for row in rows]
    np.testing.assert_allclose(power_law_exponents(WIDTHS, rows, window=window), exponents)
    gammas = [decay_law(WIDTHS, row, error_inf=known, window=window).gamma for row in rows]
    found = decay_exponents(WIDTHS, rows, error_inf=known, window=window)
    np.testing.assert_allclose(found, gammas, rtol=1e-7)
    # a bend between points that are in the window: below them a free plateau leaves it open
    ratios = np.array([noisy(1 + np.maximum(0, WIDTHS - 40) / 16, 0.1, seed) for seed in range(8)])
    ratios[3, 2] = np.nan
    plateau = known and 1.0
    bends = [critical_width(WIDTHS, row, plateau=plateau, window=window) for row in ratios]
    found = critical_widths(WIDTHS, ratios, plateau=plateau, window=window)
    np.testing.assert_allclose(found, [bend.critical_width for bend in bends], rtol=1e-7)
    assert np.isnan(gammas[5:7]).all()
    assert np.isfinite(gammas[:4]).all()


# -- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_law([1, 2], [1, 2, 3]), "equal length"),
        (lambda: power_law(np.ones((2, 2)), np.ones((2, 2))), "equal length"),
        (lambda: power_law([1, 2, 3], [1, 2, 3], window=(3, 1)), "smallest, largest"),
        (lambda: power_law([1, 2, 3], [1, 2, 3], level=95), "level"),
        (lambda: decay_law([1, 2, 3], [1, 2, 3], error_inf=-0.1), "not negative"),
        (lambda: critical_width([1, 2, 3], [1, 2]), "equal length"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(InvalidParameterError, match=message):
        call()
