"""Tables fit a terminal of 80 columns, whatever is asked, and lose nothing by it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from actstore.cli.table import KEYS, table
from hypothesis import given
from hypothesis import strategies as st

from .command_line import Answer
from .planted import record_run
from .recordings import record
from .test_moments_only_store import record as record_moments

Call = Callable[..., Answer]

#: what of the options changes a table, for each question
ASKED = {
    "reconstruction": ["", "--epoch all", "--fit-split train --score-split test"],
    "clones": ["--threshold 0.9 --threshold 0.99 --epoch all", "--strategy greedy", "--parts 2"],
    "noise": [
        f"--repeats 1 {'--eigenvalues' * shown} --factors {factors}"
        for shown in (0, 1)
        for factors in ("none", "gap", "gap,bic,1")
    ],
    "scaling": ["", "--threshold 0.9 --threshold 0.99 --error-inf ensemble"],
    "error": ["", "--epoch all --refit 1", "--splits test --window 2 16"],
    "dynamics": [
        "--threshold 0.9 --threshold 0.99",
        "--subset-size 2,4",
        "--splits train,test",
        "--subset-size 2,4 --splits train,test --factors gap,bic --repeats 1",
    ],
    "ensemble": [""],
    "spectrum": ["", "--epoch all --fraction 0.5 --fraction 0.9"],
    "moments": ["", "--epoch all"],
}
WITH_SUBSETS = {"reconstruction", "clones", "noise", "scaling", "error", "dynamics"}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record runs of two widths and seeds whose settings differ in four ways, one of many words."""
    store = tmp_path_factory.mktemp("several") / "several.zarr"
    for seed in (0, 1):
        for width in (8, 16):
            for decay, words in ((0.005, "flipped and cropped by four pixels"), (0.0, "as it is")):
                record_run(
                    store, width=width, seed=seed, weight_decay=decay, learning_rate=0.1 + decay,
                    augmentation=words, label_smoothing=20 * decay,
                )  # fmt: skip
    return store


def widest(answer: Answer) -> int:
    return max(map(len, answer.out.splitlines()))


@pytest.mark.parametrize("options", ["planted", "several"])
@pytest.mark.parametrize("question", list(ASKED))
def test_every_table_of_a_question_fits_a_terminal(
    question: str, options: str, planted_path: Path, several: Path, cli: Call
) -> None:
    store = planted_path if options == "planted" else several
    few = ("--subsets", 2) if question in WITH_SUBSETS else ()
    for asked in ASKED[question]:
        answer = cli("query", question, store, "--width", "8,16", *few, *asked.split())
        assert answer.code == 0, answer.err
        assert widest(answer) <= 80, asked


def test_what_is_followed_of_subsets_has_tables_of_its_own(planted_path: Path, cli: Call) -> None:
    asked = ("--width", 8, "--where", "weight_decay=0.005", "--seed", 0, "--subsets", 2)
    more = ("--subset-size", "2,4", "--splits", "train,test")
    alone = cli("query", "dynamics", planted_path, *asked).out
    said = cli("query", "dynamics", planted_path, *asked, *more).out
    clones, r2, error = (part for part in said.split("\n\n") if "---" in part)
    assert clones in alone
    assert "heldout" in r2
    assert len(re.findall("train|test", error)) == 3 * 2 * 2  # epochs, splits, sizes


def test_runs_and_stores_and_plans_fit_a_terminal(
    planted_path: Path, several: Path, tmp_path: Path, cli: Call
) -> None:
    one = "width=8,weight_decay=0.0,seed=0"
    for asked in (
        ("runs", several),
        ("info", several),
        ("info", planted_path, one),
        ("verify", several),
        ("query", "noise", several, "--explain"),
        ("compact", planted_path, "--keep-bits", 10, "--run", one, "--dry-run"),
        ("rm", planted_path, "--width", 8, "--dry-run"),
        ("record", tmp_path / "new.zarr", "--recipe", "digits", "--explain"),
        ("record", tmp_path / "new.zarr", "--recipe", "cifar10-wrn28", "--width", 8, "--explain"),
    ):
        answer = cli(*asked)
        assert answer.code == 0, answer.err
        assert max(map(len, [*answer.out.splitlines(), ""])) <= 80, asked


def test_where_no_activations_are_read_nothing_is_said_of_blocks(tmp_path: Path, cli: Call) -> None:
    asked = ("query", "spectrum", "--explain", "--no-cache")
    assert "reading blocks of " in cli(*asked, record(tmp_path / "samples.zarr")).out
    said = cli(*asked, record_moments(tmp_path / "moments.zarr")).out
    assert "0 B of activations" in said
    assert "blocks" not in said


@given(
    settings=st.dictionaries(
        st.text("abcxyz_", min_size=1, max_size=24).filter(lambda key: key not in KEYS),
        st.lists(st.text("pqr st", min_size=1, max_size=30).map(str.strip), min_size=3, max_size=3),
        max_size=9,
    ),
    values=st.lists(st.floats(-1e9, 1e9).filter(lambda x: x % 1 > 0.01), max_size=9),
)
def test_a_table_of_any_settings_fits_and_shows_every_value(
    settings: dict[str, list[str]], values: list[float]
) -> None:
    rows: list[dict[str, Any]] = [
        {**{key: of[n] for key, of in settings.items()}, "width": 2**n, "epoch": 100,
         **{f"value_{k}": x + n for k, x in enumerate(values)}}
        for n in range(3)
    ]  # fmt: skip
    text = table(rows, list(rows[0]), settings=list(settings))
    assert max(map(len, text.splitlines())) <= 80
    told = "".join(text.split())
    for row in rows:
        for value in row.values():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value) or "none"
            assert "".join(shown.split()) in told


def test_characters_of_two_columns_leave_a_table_straight() -> None:
    rows = [{"note": "学習率", "width": 8}, {"note": "plain", "width": 16}]
    assert table(rows, ["note", "width"]).splitlines() == [
        "  note  width", "------  -----", "学習率      8", " plain     16"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    ["runs", "info", "verify", "query scaling", "query clones", "query clones --where note=none",
     "query clones --run none", "rm --all --dry-run"],
)  # fmt: skip
def test_what_strangers_wrote_commands_no_terminal(command: str, tmp_path: Path, cli: Call) -> None:
    store = record(tmp_path / "s", "stranger", note="\x1b[2J\x9b31mred\x07\x7f\nnew")
    named = (store / "stranger").rename(store / "\x07red")  # click drops what begins with ESC [
    next(named.glob("test/last_hidden/activations/c/0/*/*")).unlink()
    record(store, "plain", note="plain")
    words = command.split()
    place = 2 if words[0] == "query" else 1
    answer = cli(*words[:place], store, *words[place:])
    told = answer.out + answer.err
    assert "red" in told
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told)
