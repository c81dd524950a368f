"""Contests between wide and narrow networks are counted sample by sample, and the winner named."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest

import actstore
from actstore import schema
from actstore.errors import InvalidDataError, NotInStoreError
from actstore.kernels.partition import random_partition
from actstore.storage.writer import RunWriter
from actstore.testing import planted_dataset, raise_if_computes

from .command_line import Answer
from .planted_networks import CLASSES, error, network, record_networks
from .recordings import attributes

WIDTHS = (8, 16, 32)
#: width 16 has two seeds and 32 one: 4 x 8 against 32 has no wide ensemble, 2 x 8 against 16 has
SEEDS = {8: (0, 1, 2, 3), 16: (2, 5), 32: (7,)}
EPOCHS = (4, 9)
AVERAGES: dict[str, Callable[..., Any]] = {
    "logits": lambda members: members.mean(0),
    "probabilities": lambda members: softmax(members, axis=-1).mean(0),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("ensembles") / "ensembles.zarr"
    for width, seeds in SEEDS.items():
        record_networks(store, widths=[width], seeds=seeds, epochs=EPOCHS, weight_decay=0.005)
    # another setting, with seeds of its own that must not be mixed with the first one's
    return record_networks(
        store, widths=[8], seeds=(0, 1), epochs=[9], weight_decay=0.0, options={"noise": 2.0}
    )


@pytest.fixture(scope="module")
def store(path: Path) -> actstore.Store:
    return actstore.open(path)


@pytest.fixture(scope="module")
def answer(store: actstore.Store) -> xr.Dataset:
    return store.ensemble().compute()


def logits(width: int, seeds: Sequence[int], split: str = "test", **options: Any) -> Any:
    """Logits of some seeds, (member, sample, output)."""
    return np.stack([network(width, seed, **options).logits(split) for seed in seeds])


def labels(split: str = "test") -> Any:
    return network(8, 0).label[split]


def by_hand(right: NDArray[np.bool_], rival: NDArray[np.bool_]) -> tuple[int, int]:
    """Discordant samples, counted one by one."""
    pairs = list(zip(right, rival, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def contest(answer: xr.Dataset, narrow: int, wide: int) -> xr.Dataset:
    return answer.sel(contest=f"weight_decay=0.005: {wide // narrow} x {narrow} against {wide}")


# contests


def test_there_is_a_contest_for_every_width_and_multiple_that_has_the_seeds(
    answer: xr.Dataset,
) -> None:
    found = [
        tuple(int(answer[k].isel(contest=c)) for k in ("narrow_width", "wide_width", "members"))
        for c in range(answer.sizes["contest"])
    ]
    assert found == [(8, 16, 2), (8, 32, 4), (16, 32, 2)]


@pytest.mark.parametrize("average", list(AVERAGES))
@pytest.mark.parametrize(("narrow", "wide"), [(8, 16), (8, 32), (16, 32)])
def test_the_narrow_ensemble_is_the_first_seeds_averaged_and_compared_pair_by_pair(
    answer: xr.Dataset, narrow: int, wide: int, average: str
) -> None:
    y = labels()
    one = network(wide, SEEDS[wide][0]).logits("test")
    members = AVERAGES[average](logits(narrow, SEEDS[narrow][: wide // narrow]))
    found = contest(answer, narrow, wide)
    rival = found.sel(rival="narrow ensemble", average=average)
    assert float(found.error_wide) == error(one, y)
    assert float(rival.error_rival) == pytest.approx(error(members, y), abs=1e-12)
    only = by_hand(one.argmax(-1) == y, members.argmax(-1) == y)
    assert (int(rival.only_wide), int(rival.only_rival)) == only
    assert float(rival.p_value) == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    difference = (only[1] - only[0]) / len(y)
    assert float(rival.difference) == pytest.approx(difference)
    assert float(rival.difference) == pytest.approx(
        float(found.error_wide) - float(rival.error_rival)
    )
    assert float(rival.difference_low) < difference < float(rival.difference_high)


def test_the_narrow_network_alone_is_the_mean_over_all_its_seeds(answer: xr.Dataset) -> None:
    each = [error(one, labels()) for one in logits(8, SEEDS[8])]
    assert float(contest(answer, 8, 32).error_narrow) == pytest.approx(np.mean(each))


def test_logits_of_the_clones_average_to_those_of_the_wide_network(answer: xr.Dataset) -> None:
    clones = answer.sel(rival="clones", average="logits")
    np.testing.assert_array_equal(clones.error_rival, answer.error_wide)
    assert (clones.only_wide == 0).all()
    assert (clones.only_rival == 0).all()
    assert set(clones.winner.values) == {"draw"}
    assert (clones.p_value == 1).all()


def test_probabilities_of_the_clones_are_those_of_disjoint_rescaled_subsets(
    store: actstore.Store,
) -> None:
    found = contest(store.ensemble(rng_seed=3).compute(), 8, 32)
    net, y = network(32, 7), labels()
    part = random_partition(32, 8, seed=3)
    x = net.x["test"].astype(np.float64)
    members = np.stack(
        [4 * (x[:, part == k] @ net.weight[:, part == k].T) + net.bias for k in range(4)]
    )
    np.testing.assert_allclose(members.mean(0), net.logits("test"), atol=1e-10)
    expected = error(softmax(members, axis=-1).mean(0), y)
    rival = found.sel(rival="clones", average="probabilities")
    assert float(rival.error_rival) == pytest.approx(expected, abs=1e-12)


def test_a_wide_ensemble_needs_as_many_seeds_as_the_narrow_one(answer: xr.Dataset) -> None:
    y = labels()
    held = contest(answer, 8, 16).sel(rival="wide ensemble", average="logits")
    expected = error(logits(16, SEEDS[16]).mean(0), y)
    assert float(held.error_rival) == pytest.approx(expected)
    missing = contest(answer, 8, 32).sel(rival="wide ensemble")
    assert bool(missing.error_rival.isnull().all())
    assert set(missing.winner.values) == {""}


def test_every_run_counts_at_the_last_of_its_selected_epochs(store: actstore.Store) -> None:
    early = contest(store.sel(weight_decay=0.005, epoch=4).ensemble().compute(), 8, 16)
    expected = error(logits(8, SEEDS[8][:2], epoch=4).mean(0), labels())
    found = early.sel(rival="narrow ensemble", average="logits").error_rival
    assert float(found) == pytest.approx(expected)


def test_the_split_is_the_one_asked_for(store: actstore.Store) -> None:
    found = contest(store.ensemble(split="train").compute(), 8, 16)
    assert float(found.error_wide) == error(network(16, 2).logits("train"), labels("train"))


# who wins


def record_readouts(store: Path, readouts: dict[int, Sequence[Any]]) -> Path:
    """Record networks whose activations are the one-hot labels, with given readouts, by width."""
    y = np.arange(400) % CLASSES
    for width, weights in readouts.items():
        x = np.zeros((400, width), "float32")
        x[np.arange(400), y] = 1.0
        for seed, weight in enumerate(weights):
            writer = RunWriter.create(
                store, f"w{width}s{seed}", slots=1, attributes=attributes(width=width, seed=seed)
            )
            writer.write(
                1, {"test": {schema.DEFAULT_LAYER: x}}, labels={"test": y},
                readout=(weight, np.zeros(CLASSES)), metrics=None,
            )  # fmt: skip
            writer.close(complete=True)
    return store


def knows(width: int, classes: int) -> Any:
    """Return a readout that has this many classes right and answers one too high for the others."""
    weight = np.zeros((CLASSES, width))
    for c in range(CLASSES):
        weight[c if c < classes else (c + 1) % CLASSES, c] = 1.0
    return weight


@pytest.mark.parametrize(
    ("narrow", "wide", "winner"), [(2, 4, "wide"), (4, 2, "rival"), (3, 3, "draw")]
)
def test_the_answer_says_which_side_wins_whichever_it_is(
    tmp_path: Path, narrow: int, wide: int, winner: str
) -> None:
    path = record_readouts(tmp_path / "s.zarr", {4: [knows(4, narrow)] * 2, 8: [knows(8, wide)]})
    found = actstore.open(path).ensemble().compute()
    one = found.sel(rival="narrow ensemble").isel(contest=0)
    assert set(one.winner.values) == {winner}
    assert (one.difference == (narrow - wide) / CLASSES).all()
    assert ((one.p_value < 0.05) == (winner != "draw")).all()


# bias and variance


def test_bias_and_variance_add_up_to_the_squared_error(answer: xr.Dataset) -> None:
    y = np.eye(CLASSES)[labels()]
    for width in (8, 16):
        p = softmax(logits(width, SEEDS[width]), axis=-1)
        found = answer.sel(setting="weight_decay=0.005", width=width)
        brier = np.square(p - y).sum(-1).mean()
        assert float(found.squared_error) == pytest.approx(brier, rel=1e-9)
        assert float(found.bias2 + found.variance) == pytest.approx(brier, rel=1e-9)
        assert float(found.variance) == pytest.approx(p.var(0, ddof=1).sum(-1).mean(), rel=1e-9)


def test_one_seed_has_neither_bias_nor_variance(answer: xr.Dataset) -> None:
    found = answer.sel(setting="weight_decay=0.005", width=32)
    assert int(found.seeds) == 1
    for name in ("bias2", "variance", "squared_error"):
        assert bool(found[name].isnull())


def test_seeds_of_another_setting_are_not_mixed(answer: xr.Dataset) -> None:
    y = np.eye(CLASSES)[labels()]
    other = answer.sel(setting="weight_decay=0.0")
    p = softmax(logits(8, (0, 1), noise=2.0), axis=-1)
    expected = np.square(p - y).sum(-1).mean()
    assert float(other.squared_error.sel(width=8)) == pytest.approx(expected, rel=1e-9)
    assert other.seeds.values.tolist() == [2, 0, 0]
    assert not any("weight_decay=0.0:" in str(name) for name in answer.contest.values)


def test_models_on_other_data_sets_are_not_seeds_of_one_setting(tmp_path: Path) -> None:
    path = record_readouts(tmp_path / "s.zarr", {4: [knows(4, 2), knows(4, 3)]})
    rng = np.random.default_rng(0)
    writer = RunWriter.create(
        path, "other", slots=1,
        attributes=schema.run_attributes(width=4, seed=2, model="mlp", dataset="fashion"),
    )  # fmt: skip
    writer.write(
        1, {"test": {schema.DEFAULT_LAYER: rng.normal(size=(400, 4)).astype("float32")}},
        labels={"test": np.arange(400) % CLASSES}, readout=(knows(4, 4), np.zeros(CLASSES)),
    )  # fmt: skip
    writer.close(complete=True)
    found = actstore.open(path).ensemble().compute()
    assert sorted(found.seeds.values.ravel().tolist()) == [1, 2]
    assert sorted(found.setting.values.tolist()) == ["dataset=digits", "dataset=fashion"]


# laziness and bad input


def test_building_the_question_computes_nothing(store: actstore.Store) -> None:
    with raise_if_computes():
        built = store.ensemble()
    lazy = [name for name, v in built.data_vars.items() if v.chunks is not None]
    assert set(built.data_vars) - set(lazy) == {"seeds"}


def test_dims_are_those_that_are_documented(answer: xr.Dataset) -> None:
    for name in ("error_rival", "only_wide", "difference", "difference_low", "p_value", "winner"):
        assert answer[name].dims == ("contest", "rival", "average")
    for name in ("error_wide", "error_narrow"):
        assert answer[name].dims == ("contest",)
    for name in ("bias2", "variance", "squared_error", "seeds"):
        assert answer[name].dims == ("setting", "width")
    assert all(v.attrs["long_name"] for v in answer.data_vars.values())


def test_one_seed_a_width_is_no_ensemble_and_the_error_says_what_to_record(
    store: actstore.Store,
) -> None:
    few = store.sel(weight_decay=0.005, seed=[0, 5, 7])
    with pytest.raises(InvalidDataError, match=r"needs two seeds .* holds 1 of width 8, 1 of"):
        few.ensemble()


def test_seeds_without_a_multiple_of_their_width_still_have_bias_and_variance(
    store: actstore.Store,
) -> None:
    found = store.sel(width=8, weight_decay=0.005).ensemble()
    assert "contest" not in found.dims
    assert found.variance.values.item() > 0


def test_networks_on_other_samples_are_not_compared(tmp_path: Path) -> None:
    path = record_networks(tmp_path / "s.zarr", widths=[8], seeds=[0], epochs=[9])
    record_networks(path, widths=[8], seeds=[1], epochs=[9], options={"offset": 1})
    with pytest.raises(InvalidDataError, match="has other samples or labels than run"):
        actstore.open(path).ensemble()


def test_runs_without_readout_and_datasets_are_refused(tmp_path: Path) -> None:
    path = record_networks(tmp_path / "s.zarr", widths=[8], seeds=[0, 1], epochs=[9], readout=False)
    with pytest.raises(NotInStoreError, match="recorded without its readout"):
        actstore.open(path).ensemble()
    with pytest.raises(InvalidDataError, match="asked of a dataset"):
        actstore.ensemble(planted_dataset())


def test_a_split_that_is_not_there_names_those_that_are(store: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match="it holds test, train"):
        store.ensemble(split="valid")


# the command


def test_the_command_says_who_wins(path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("query", "ensemble", path, "--width", "8,16", "--format", "json")
    assert answer.code == 0, answer.err
    rows = [row for row in answer.json["rows"] if row.get("contest")]
    assert len(rows) == 6
    expected = contest(actstore.open(path).sel(width=[8, 16], epoch=-1).ensemble().compute(), 8, 16)
    for row in rows:
        one = expected.sel(rival=row["rival"], average=row["average"])
        assert row["only_rival"] == int(one.only_rival)
        assert row["winner"] == str(one.winner.values)
    table = cli("query", "ensemble", path, "--width", "8,16")
    assert table.code == 0
    assert "narrow ensemble" in table.out
    assert "variance" in table.out
    assert "winner: whose error is less by more than the 95 % interval" in table.out
    alone = cli("query", "ensemble", path, "--width", "8").out
    assert "no contest: it takes K seeds" in alone
    assert "winner" not in alone


def test_too_few_seeds_end_with_one_sentence(path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("query", "ensemble", path, "--width", 32)
    assert (answer.code, answer.out) == (1, "")
    assert "an ensemble needs two seeds of a width" in answer.err
    assert "Traceback" not in answer.err
