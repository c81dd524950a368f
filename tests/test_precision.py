"""Rounding keeps what it says, changes the answers as little as it says, and saves the space."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import actstore
from actstore.errors import InvalidParameterError
from actstore.kernels.reconstruction import random_subsets
from actstore.storage.importing import import_run
from actstore.storage.precision import measure, round_mantissa
from actstore.storage.verify import verify
from actstore.storage.writer import RunWriter

from .recordings import attributes, one_epoch

Call = Callable[..., Any]
PATH = "run/test/last_hidden/activations"


def layer(samples: int = 600, width: int = 24) -> Any:
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(samples, 4)) @ rng.normal(size=(4, width))
    return (signals + 0.2 * rng.normal(size=signals.shape)).astype("f4")


# rounding

FLOATS = st_np.arrays("f4", 20, elements=st.floats(width=32, allow_nan=False))


@given(FLOATS)
def test_ten_bits_are_those_of_float16(x: Any) -> None:
    inside = x[(np.abs(x) < 65504) & ((np.abs(x) >= 2.0**-14) | (x == 0))]
    assert np.array_equal(round_mantissa(inside, 10), inside.astype("f2").astype("f4"))


@given(FLOATS)
def test_seven_bits_are_those_of_bfloat16(x: Any) -> None:
    expected = torch.from_numpy(x).bfloat16().float().numpy()
    finite = np.isfinite(expected)
    assert np.array_equal(round_mantissa(x, 7)[finite], expected[finite])


@given(FLOATS, st.integers(1, 23))
def test_rounding_is_within_half_a_last_bit_stays_finite_and_is_done_once(
    x: Any, keep_bits: int
) -> None:
    rounded = round_mantissa(x, keep_bits)
    finite = np.isfinite(x)
    assert np.array_equal(np.isfinite(rounded), finite)
    large = finite & (np.abs(x) >= np.finfo("f4").tiny) & (np.abs(x) < 1e38)
    apart = np.abs(rounded[large].astype("f8") - x[large])
    assert (apart <= 2.0 ** -(keep_bits + 1) * np.abs(x[large])).all()
    assert np.array_equal(round_mantissa(rounded, keep_bits), rounded)
    dropped = np.uint32((1 << (23 - keep_bits)) - 1)
    assert not (rounded[finite].view("u4") & dropped).any()


def test_the_measured_change_of_r2_is_that_of_ridge_regressions() -> None:
    x = layer()
    rounded = round_mantissa(x, 4).astype("f8")
    apart = []
    for order in random_subsets(24, subsets=3, seed=0):
        for w in range(1, 24):
            r2 = []
            for data in (x.astype("f8"), rounded):
                data = data - data.mean(0)
                fit = Ridge(1e-8 * np.trace(data.T @ data) / 24).fit(data[:, order[:w]], data)
                r2.append(
                    r2_score(data, fit.predict(data[:, order[:w]]),
                             multioutput="variance_weighted")
                )  # fmt: skip
            apart.append(abs(r2[0] - r2[1]))
    assert measure([x[:100], x[100:]], 4).r2 == pytest.approx(max(apart), rel=1e-4)
    assert 0 < measure([x], 10).r2 < 1e-5  # as measured on real layers: 2e-6
    assert 0 < measure([x], 10).residual_correlation < 1e-4
    assert measure([np.zeros((9, 4), "f4")], 4).r2 == 0


# recording


def rounding_writer(path: Path, keep_bits: int = 10) -> RunWriter:
    return RunWriter.create(
        path, "run", slots=3, attributes={**attributes(), "keep_bits": keep_bits}
    )


@pytest.mark.parametrize("neurons", [8, 300])  # a chunk by itself, and in a shard
def test_a_recorder_that_rounds_stores_rounded_values_and_says_so(
    tmp_path: Path, neurons: int, cli: Call
) -> None:
    writer = rounding_writer(tmp_path / "s")
    epoch = one_epoch(0, layers={"last_hidden": neurons})
    before = epoch["activations"]["test"]["last_hidden"].copy()
    writer.write(0, **epoch)
    writer.close(complete=True)
    run = actstore.open(tmp_path / "s").only()
    assert np.array_equal(epoch["activations"]["test"]["last_hidden"], before)
    assert np.array_equal(run.dataset().activations[0], round_mantissa(before, 10))
    assert run.attrs["precision"]["keep_bits"] == 10
    assert 0 < run.attrs["precision"]["r2_change"] < 1e-3
    assert verify(tmp_path / "s", deep=True) == []
    told = cli("info", tmp_path / "s", "run").out
    assert "rounded to 10 of 23 bits of mantissa; R² changes by" in told
    # what describes 8 neurons is longer than they are: nothing is called smaller that is not
    assert ("x smaller" in told) == (neurons == 300)


def test_rounding_nearly_halves_what_dense_activations_take(tmp_path: Path) -> None:
    """Gaussian numbers, which nothing compresses, take the 17.5 bits of 32 that are left."""
    x = {"test": {"last_hidden": [layer(5000, 256)]}}
    import_run(tmp_path / "s", x, epochs=[0])
    import_run(tmp_path / "s", x, epochs=[0], seed=1, keep_bits=10)
    exact, rounded = (
        sum(f.stat().st_size for f in (tmp_path / "s" / name).rglob("*") if f.is_file())
        for name in ("width=256,seed=0", "width=256,seed=1")
    )
    assert exact / rounded > 1.7


def test_moments_of_what_was_rounded_are_no_finding(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    torch.manual_seed(0)
    loader = [(torch.randn(50, 4) + 3, torch.zeros(50, dtype=torch.long))]
    with actstore.Recorder(tmp_path / "s", model, epochs=1, keep_bits=4) as recorder:
        recorder.record(1, test=loader)
    actstore.open(tmp_path / "s").moments(cache=True).compute()
    assert (tmp_path / "s" / "width=8,seed=0/test/last_hidden/moments").exists()
    assert verify(tmp_path / "s", deep=True) == []


def test_a_mantissa_has_23_bits_to_keep(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    with pytest.raises(InvalidParameterError, match="keep_bits=24 was asked for"):
        actstore.Recorder(tmp_path / "no", model, epochs=1, keep_bits=24)
