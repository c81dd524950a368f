"""The command line says what the library says, in the words of the shell."""

import contextlib
import csv
import importlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import xarray as xr
import zarr
from actstore.cli.output import as_json
from actstore.cli.sections import ASKING, TRAINING, Sectioned
from actstore.cli.table import table

import actstore
from actstore import queries, schema
from actstore.queries.table import rows
from actstore.storage.location import open_or_create_root
from actstore.storage.writer import RunWriter

from .command_line import Answer, entry_point, own_process, start
from .planted import EPOCHS, THRESHOLD, record_run
from .recordings import attributes, every_byte, record

Call = Callable[..., Answer]

ONE = ("--width", 16, "--seed", 0, "--where", "weight_decay=0.005")
QUICK = ("--subsets", 4)


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that the installed entry point has, with its words."""
    group: Any = inspect.getmodule(entry_point()).actstore  # type: ignore[union-attr]

    def below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield words, command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                try:
                    inner = command.get_command(click.Context(command), name)
                except ImportError:  # a test below says so
                    continue
                yield from below((*words, name), inner)

    yield from below((), group)


COMMANDS = dict(commands())
QUESTIONS = {words[1]: c for words, c in COMMANDS.items() if words[:1] == ("query",) and words[1:]}


# help


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...], cli: Call) -> None:
    for flag in ("--help", "-h"):
        answer = cli(*words, flag)
        assert (answer.code, answer.err) == (0, "")
        examples = [line for line in answer.out.splitlines() if line.startswith("  actstore ")]
        assert any(" ".join(words) in example for example in examples)
    assert len(COMMANDS[words].get_short_help_str(200)) > 10


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns(words: tuple[str, ...]) -> None:
    context = click.Context(
        COMMANDS[words], info_name=" ".join(("actstore", *words)), terminal_width=80
    )
    assert max(map(len, COMMANDS[words].get_help(context).splitlines())) <= 80


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_names_every_option_once(words: tuple[str, ...]) -> None:
    context = click.Context(COMMANDS[words], info_name="actstore", terminal_width=80)
    told = COMMANDS[words].get_help(context).splitlines()
    starts = [line.split("  ")[1] for line in told if re.match(r"  (-\w, )?--", line)]
    found = [flag for words_of_it in starts for flag in re.findall(r"--[\w-]+", words_of_it)]
    shown = [
        flag
        for option in COMMANDS[words].get_params(context)
        if isinstance(option, click.Option) and not option.hidden
        for flag in [*option.opts, *option.secondary_opts]
        if flag.startswith("--")
    ]
    assert sorted(found) == sorted(shown)


def test_sections_of_the_help_name_no_option_that_is_gone() -> None:
    for sections in (ASKING, TRAINING):
        commands = [
            command
            for command in COMMANDS.values()
            if isinstance(command, Sectioned) and command.sections is sections
        ]
        known = {
            flag
            for command in commands
            for option in command.get_params(click.Context(command))
            for flag in option.opts
        }
        named = [flag for flags in sections.values() for flag in flags.split()]
        assert set(named) <= known
        assert len(set(named)) == len(named)


def test_every_example_of_the_help_is_a_call_that_the_command_takes() -> None:
    """No example names an option that is gone."""
    seen = 0
    for words, command in COMMANDS.items():
        context = click.Context(command)
        for line in command.get_help(context).splitlines():
            given = line.split()
            if given[: len(words) + 1] != ["actstore", *words] or isinstance(command, click.Group):
                continue
            arguments = [a for a in line.split("  ")[1].split() if a != "actstore"][len(words) :]
            command.make_context("actstore", arguments)
            seen += 1
    assert seen >= len(COMMANDS) - 4


def test_the_version_is_that_of_the_library(cli: Call) -> None:
    assert cli("--version").out == f"actstore, version {actstore.__version__}\n"


def test_every_command_is_listed_with_one_sentence(cli: Call) -> None:
    listed = cli("--help").out
    for words in COMMANDS:
        if len(words) == 1:
            assert re.search(rf"^  {words[0]} +[A-Z].*\.$", listed, re.MULTILINE), words


def test_help_is_shown_before_any_library_is_loaded() -> None:
    loaded = "print(*[m for m in ('numpy', 'xarray', 'zarr', 'torch') if m in sys.modules])"
    answer = own_process("--help", after=loaded)
    assert answer.out.splitlines()[-1] == ""


def test_help_answers_in_a_moment() -> None:
    """The aim is 0.25 s of CPU time on an idle core; twice that is left for a busy one."""
    spent = []
    for _ in range(3):
        before = os.times()
        subprocess.run(start("--help"), capture_output=True, check=True)
        after = os.times()
        spent.append(
            after.children_user - before.children_user
            + after.children_system - before.children_system
        )  # fmt: skip
    assert min(spent) <= 0.5


def test_a_query_loads_neither_torch_nor_matplotlib(planted_path: Path) -> None:
    loaded = "print(*sys.modules, file=sys.stderr)"
    answer = own_process("query", "scaling", planted_path, *QUICK, after=loaded)
    assert answer.code == 0, answer.err
    modules = set(answer.err.split())
    assert {"xarray", "dask", "zarr"} <= modules
    assert not modules & {"torch", "torchvision", "matplotlib", "sklearn", "distributed"}
    assert not modules & {"pyarrow", "scipy.fftpack", "jinja2"}


def test_libraries_hidden_while_others_load_can_be_had_afterwards() -> None:
    code = (
        "import sys\n"
        "from actstore.cli.loading import libraries\n"
        "with libraries():\n"
        "    import actstore.queries.explain\n"
        "assert 'pyarrow' not in sys.modules\n"
        "import jinja2, pyarrow, scipy.fftpack\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# symmetry of commands and functions

SELECTION = {"width", "seed", "where", "run", "epoch"}
OUTPUT = {"form", "output", "plot"}
COMPUTE = {"workers", "scheduler", "memory", "explain"}


def test_there_is_a_command_for_every_question() -> None:
    assert set(QUESTIONS) == set(queries.__all__)


@pytest.mark.parametrize("name", queries.__all__)
def test_options_of_a_question_are_its_keywords_a_selection_or_an_output(name: str) -> None:
    keywords = {
        key: p
        for key, p in inspect.signature(getattr(queries, name)).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    options = {p.name: p for p in QUESTIONS[name].params if isinstance(p, click.Option)}
    assert set(options) == set(keywords) | SELECTION | OUTPUT | COMPUTE


@pytest.mark.parametrize("name", queries.__all__)
def test_defaults_of_a_question_are_those_of_its_keywords(name: str, planted_path: Path) -> None:
    """Compare what the command passes on with what the function assumes."""
    taken: dict[str, Any] = {}

    def spy(data: Any, **options: Any) -> Any:
        taken.update(options)
        raise SystemExit(0)

    signature = inspect.signature(getattr(queries, name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, name, spy)
        patch.setattr(sys, "argv", ["actstore", "query", name, str(planted_path)])
        with pytest.raises(SystemExit):
            entry_point()()
    for key, given in taken.items():
        default = signature.parameters[key].default
        as_sequence = tuple(given) if isinstance(given, list | tuple) else given
        assert as_sequence == default, key
    assert set(taken) == {k for k, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


# answers


@pytest.mark.parametrize("name", ["reconstruction", "clones", "noise", "scaling", "moments"])
def test_json_rows_are_the_rows_of_the_library(
    name: str, planted: actstore.Store, planted_path: Path, cli: Call
) -> None:
    options: dict[str, Any] = {} if name == "moments" else {"subsets": 4}
    flags = QUICK if options else ()
    answer = cli("query", name, planted_path, *ONE, *flags, "--format", "json").json
    chosen = planted.sel(width=16, seed=0, weight_decay=0.005, epoch=-1)
    result = getattr(queries, name)(chosen, **options)
    assert list(answer) == ["query", "parameters", "rows"]
    assert answer["query"] == name
    assert answer["rows"] == json.loads(json.dumps(rows(result)))
    assert answer["rows"]
    assert answer["parameters"] == json.loads(
        json.dumps({k: v for k, v in result.attrs.items() if k != "query"})
    )


@pytest.mark.parametrize("name", ["reconstruction", "clones", "noise", "scaling", "moments"])
def test_keys_of_a_row_are_names_of_variables_and_the_same_in_every_row(
    name: str, planted_path: Path, cli: Call
) -> None:
    found = cli("query", name, planted_path, "--width", "8,16", "--format", "json").json["rows"]
    result = getattr(queries, name)(actstore.open(planted_path).sel(width=8))
    named = {str(n) for n in [*result.variables]}
    for row in found:
        assert list(row) == list(found[0])
        for key in row:
            base = key.removesuffix("_low").removesuffix("_high")
            assert key in named or base in named, key
    assert {"width", "weight_decay"} <= set(found[0])


def test_no_clones_are_null_in_json_none_in_a_table_and_empty_in_csv(
    planted_path: Path, cli: Call
) -> None:
    ask = ("query", "scaling", planted_path, "--where", "weight_decay=0", "--threshold", THRESHOLD)
    row = cli(*ask, "--format", "json").json["rows"][0]
    assert (row["n_clones"], row["has_clones"]) == (None, False)
    lines = list(csv.DictReader(io.StringIO(cli(*ask, "--format", "csv").out)))
    assert [line["n_clones"] for line in lines] == ["", "", ""]
    table = cli(*ask).out
    assert table.count("none") >= 3
    assert "no clones at any width" in table


def test_csv_holds_the_numbers_of_json(planted_path: Path, cli: Call) -> None:
    ask = ("query", "clones", planted_path, "--seed", 0, *QUICK, "--format")
    lines = list(csv.DictReader(io.StringIO(cli(*ask, "csv").out)))
    found = cli(*ask, "json").json["rows"]
    assert list(lines[0]) == list(found[0])
    for line, row in zip(lines, found, strict=True):
        for key, value in row.items():
            if isinstance(value, float):
                assert float(line[key]) == value
            else:
                assert line[key] == ("" if value is None else str(value))


def test_thresholds_and_selections_are_repeatable(planted_path: Path, cli: Call) -> None:
    found = cli(
        "query", "clones", planted_path, "--width", 8, "--width", "16,32", "--seed", 1,
        "--where", "weight_decay=0.005", "--threshold", 0.5, "--threshold", 0.9, *QUICK,
        "--format", "json",
    ).json["rows"]  # fmt: skip
    assert {row["width"] for row in found} == {8, 16, 32}
    assert {row["threshold"] for row in found} == {0.5, 0.9}
    assert {row["seed"] for row in found} == {1}


def test_where_is_repeatable_in_queries_and_in_runs(planted_path: Path, cli: Call) -> None:
    both = ("--where", "weight_decay=0.005", "--where", "weight_decay=0", "--format", "json")
    for ask in (("query", "moments", planted_path), ("runs", planted_path)):
        found = cli(*ask, *both).json["rows"]
        assert {row["weight_decay"] for row in found} == {0.0, 0.005}, ask


@pytest.mark.parametrize("key", ["width=8", "seed=1"])
def test_where_may_name_the_width_or_the_seed_too(key: str, planted_path: Path, cli: Call) -> None:
    name, value = key.split("=")
    for ask in (("query", "moments", planted_path), ("runs", planted_path)):
        found = cli(*ask, "--where", key, "--format", "json").json["rows"]
        assert {row[name] for row in found} == {int(value)}, ask


@pytest.mark.parametrize(
    ("asked", "epochs"),
    [
        ("-1", [10]),
        ("0", [0]),
        ("0,5", [0, 5]),
        ("5:", [5, 10]),
        (":5", [0, 5]),
        ("all", [0, 5, 10]),
    ],
)
def test_epochs_are_chosen_by_number_range_or_all(
    asked: str, epochs: list[int], planted_path: Path, cli: Call
) -> None:
    answer = cli("query", "moments", planted_path, *ONE, "--epoch", asked, "--format", "json")
    assert [row["epoch"] for row in answer.json["rows"]] == epochs


def test_a_table_fits_a_terminal_and_names_the_criterion(planted_path: Path, cli: Call) -> None:
    for name in ({*QUESTIONS} - {"ensemble"}) | {"runs"}:
        asked = ("runs",) if name == "runs" else ("query", name)
        answer = cli(*asked, planted_path, "--seed", 0)
        assert answer.code == 0
        assert max(map(len, answer.out.splitlines())) <= 80, name
        ruler = next(n for n, line in enumerate(answer.out.splitlines()) if line[:1] == "-")
        table = "\n".join(answer.out.splitlines()[ruler:]).split("\n\n")[0].splitlines()
        assert len({len(line) for line in table}) == 1, name  # right-aligned
        criteria = {"clones", "scaling", "dynamics"}
        assert ("held-out R²" in answer.out) == (name in criteria)


def test_what_is_the_same_in_every_row_of_a_wide_table_is_said_once() -> None:
    some: list[dict[str, Any]] = [
        {"contest": f"wd={wd}: 2 x 8 against 16", "a_very_long_column_name": 0.5, "seed": 3,
         "rival": "n" * 30, "n_clones": None, "value": 100 + wd} for wd in (0, 1)
    ]  # fmt: skip
    columns = ["contest", "a_very_long_column_name", "seed", "rival", "n_clones", "value"]
    said, first, second = table(some, columns).split("\n\n")
    assert said == f"a very long column name 0.5, seed 3, rival {'n' * 30}"
    assert first.splitlines()[0] == "wd=0:"
    assert first.splitlines()[-1].split() == ["2", "x", "8", "against", "16", "none", "100"]
    assert second.splitlines()[0] == "wd=1:"
    assert "seed" in table(some[:1], columns)  # one row has nothing to compare with


def test_stdout_carries_the_answer_and_nothing_else(
    planted_path: Path, tmp_path: Path, cli: Call
) -> None:
    saved = tmp_path / "rows.csv"
    answer = cli("query", "moments", planted_path, "--format", "json", "-o", saved)
    assert answer.json["query"] == "moments"
    assert answer.err == f"saved {saved}\n"


# saving

SAVED = ["reconstruction", "clones", "noise", "scaling", "moments"]


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_a_saved_answer_is_the_answer(
    name: str, suffix: str, planted: actstore.Store, planted_path: Path, tmp_path: Path, cli: Call
) -> None:
    path = tmp_path / f"answer{suffix}"
    flags = () if name == "moments" else QUICK
    done = cli("query", name, planted_path, "--width", "8,16", "--seed", 0, *flags, "-o", path)
    assert done.code == 0, done.err
    options: dict[str, Any] = {} if name == "moments" else {"subsets": 4}
    expected = getattr(queries, name)(planted.sel(width=[8, 16], seed=0, epoch=-1), **options)
    engine: Any = "zarr" if suffix == ".zarr" else "scipy"
    with xr.open_dataset(path, engine=engine) as saved:
        xr.testing.assert_allclose(saved.load(), expected.compute())
        # NetCDF does not tell a list of one number from the number
        assert {k: np.atleast_1d(v).tolist() for k, v in saved.attrs.items()} == {
            k: np.atleast_1d(v).tolist() for k, v in expected.attrs.items()
        }
        for variable in expected.data_vars:
            assert saved[variable].attrs["long_name"] == expected[variable].attrs["long_name"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_saved_rows_are_the_rows_of_stdout(planted_path: Path, tmp_path: Path, cli: Call) -> None:
    ask = ("query", "scaling", planted_path, *QUICK, "--format")
    for form in ("json", "csv"):
        path = tmp_path / f"rows.{form}"
        answer = cli(*ask, form, "-o", path)
        assert path.read_text(encoding="utf-8") == answer.out


def test_a_file_that_cannot_be_saved_is_refused_before_anything_is_computed(
    planted_path: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.zarr"
    there.mkdir()
    monkeypatch.setattr(queries, "moments", lambda *a, **k: pytest.fail("asked already"))
    for option, path, message in (
        ("-o", tmp_path / "answer.txt", "ends in .zarr, .nc, .csv or .json"),
        ("-o", there, "exists; give another name"),
        ("-o", tmp_path / "no" / "answer.nc", "no folder"),
        ("-o", "s3://bucket/answer.nc", "is at a URL; give a file of this machine"),
        ("--plot", "s3://bucket/figure.png", "is at a URL; give a file of this machine"),
        ("--plot", tmp_path / "figure.gif", "ends in .png, .svg or .pdf"),
        ("--plot", tmp_path / "no" / "figure.png", "no folder"),
    ):
        answer = cli("query", "moments", planted_path, option, path)
        assert answer.code == 1
        assert message in answer.err
        assert answer.err.count("\n") == 1


def test_an_answer_that_cannot_be_written_leaves_nothing_behind(
    planted_path: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        Path(args[1]).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    answer = cli("query", "moments", planted_path, *ONE, "-o", tmp_path / "answer.nc")
    assert answer.code == 1
    assert "No space left on device" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_drawn(planted_path: Path, tmp_path: Path, cli: Call) -> None:
    figure = tmp_path / "scaling.png"
    answer = cli("query", "scaling", planted_path, *QUICK, "--plot", figure)
    assert (answer.code, answer.err) == (0, f"drew {figure}\n")
    assert figure.read_bytes()[:4] == b"\x89PNG"


# runs and info


def test_runs_lists_every_run_with_its_settings(
    planted: actstore.Store, planted_path: Path, cli: Call
) -> None:
    found = cli("runs", planted_path, "--format", "json").json["rows"]
    assert [row["run"] for row in found] == list(planted)
    assert found[0] == {
        "run": "width=8,weight_decay=0.0,seed=0", "width": 8, "seed": 0, "weight_decay": 0.0,
        "epochs": len(EPOCHS), "last_epoch": 10, "complete": True,
        "test_error": pytest.approx(0.15), "train_error": pytest.approx(0.0),
        "train_loss": pytest.approx(1 / 11),
    }  # fmt: skip
    table = cli("runs", planted_path).out.splitlines()
    assert len(table) >= len(planted) + 2
    parsed = list(csv.DictReader(io.StringIO(cli("runs", planted_path, "--format", "csv").out)))
    assert [line["run"] for line in parsed] == list(planted)


def test_runs_of_a_store_without_runs_says_so(tmp_path: Path, cli: Call) -> None:
    path = tmp_path / "empty.zarr"
    open_or_create_root(path)
    assert cli("runs", path).out == f"{path} holds no run yet\n"
    assert cli("runs", path, "--format", "json").json == {"rows": []}
    assert cli("info", path).code == 0


def test_info_says_what_a_store_and_a_run_hold(planted_path: Path, cli: Call) -> None:
    store = cli("info", planted_path).out
    for words in ("14, 14 complete", "8, 16, 32, 64", "0.0, 0.005", "format"):
        assert words in store
    assert re.search(r"created +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", store)
    run = cli("info", planted_path, "width=16,weight_decay=0.005,seed=1").out
    for words in ("200 samples x 16 neurons", "120 samples x 16 neurons", "0, 5, 10", "stored"):
        assert words in run


def test_info_lists_values_in_the_order_of_numbers_and_nothing_empty(
    tmp_path: Path, cli: Call
) -> None:
    path = tmp_path / "s.zarr"
    for seed, lr in enumerate((10, 9.5, 100)):
        record(path, f"run{seed}", epochs=[0], seed=5 * seed, lr=lr)
    lines = dict(line.split(maxsplit=1) for line in cli("info", path).out.splitlines())
    assert (lines["widths"], lines["seeds"], lines["lr"]) == ("8", "0, 5, 10", "9.5, 10, 100")
    imported = tmp_path / "imported.zarr"
    np.save(tmp_path / "x.npy", np.zeros((4, 3), "f4"))
    assert cli("import", imported, tmp_path / "x.npy", "--epoch", 1).code == 0
    told = cli("info", imported, next(iter(actstore.open(imported)))).out.splitlines()
    assert all(len(line.split()) > 1 for line in told)


# exit codes


def test_an_error_is_one_sentence_on_stderr_and_exit_code_1(cli: Call, tmp_path: Path) -> None:
    answer = cli("query", "scaling", tmp_path / "nothing.zarr")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("actstore: no store at ")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("query", "nonsense", "x.zarr"),
        ("query", "scaling"),
        ("query", "scaling", "x.zarr", "--nonsense"),
        ("query", "scaling", "x.zarr", "--width", "many"),
        ("query", "scaling", "x.zarr", "--threshold", "high"),
        ("query", "scaling", "x.zarr", "--format", "xml"),
        ("query", "scaling", "x.zarr", "--where", "weight_decay"),
        ("query", "scaling", "x.zarr", "--window", "32"),
        ("query", "clones", "x.zarr", "--strategy", "best"),
        ("query", "moments", "x.zarr", "--workers", "0"),
        ("query", "moments", "x.zarr", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"),
    ],
)
def test_a_call_that_makes_no_sense_is_exit_code_2(cli: Call, arguments: tuple[str, ...]) -> None:
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "Error: " in answer.err


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_interrupt_that_a_library_caught_is_one_still(
    planted_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """As NumPy does that is interrupted while it is imported: what follows is its own failure."""

    def half_imported(*args: Any, **options: Any) -> None:
        if interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        raise RecursionError

    monkeypatch.setattr(queries, "moments", half_imported)
    if not interrupted:  # a fault of ours is shown
        with pytest.raises(RecursionError):
            cli("query", "moments", planted_path)
        return
    answer = cli("query", "moments", planted_path)
    assert (answer.code, answer.out, answer.err.strip()) == (130, "", "interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_query_is_exit_code_130(
    planted_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(queries, "moments", interrupt)
    answer = cli("query", "moments", planted_path)
    assert answer.code == 130
    assert answer.err.strip() == "interrupted"


def test_ctrl_c_ends_a_query_with_130_and_no_traceback(planted_path: Path) -> None:
    wait = (
        "import actstore.queries as q, time\n"
        "def slow(*a, **k):\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "q.moments = slow"
    )
    command = start("query", "moments", str(planted_path), before=wait)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("before", "after"),
    [(("query", "reconstruction"), (*QUICK, "--format", "json")), (("runs",), ("--format", "csv"))],
)
def test_a_reader_that_has_seen_enough_is_no_error(
    before: tuple[str, ...], after: tuple[Any, ...], planted_path: Path
) -> None:
    """``actstore query … | head -1``: quiet, whatever is left to print."""
    command = start(*before, str(planted_path), *map(str, after))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode in (0, 141)


# warnings


def test_a_damaged_cache_is_one_plain_line_on_stderr(fresh: Path, cli: Call) -> None:
    ask = ("query", "moments", fresh, *ONE, "--format", "json")
    first = cli(*ask)
    assert first.err == ""
    damaged = list(fresh.glob("width=16,weight_decay=0.005,seed=0/test/*/moments/comoment/c/2/*/*"))
    assert damaged
    for chunk in damaged:
        chunk.write_bytes(b"\0" * chunk.stat().st_size)
    again = own_process(*ask)
    assert again.json == first.json
    assert again.err.startswith("actstore: the cached moments of run ")
    assert again.err.count("\n") == 1


# bad input: one clear sentence, and the store unharmed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--width", 96), "no run of width 96 in .*; it holds width 8, 16, 32, 64"),
        (("--seed", 7), "no run of seed 7 in .*; it holds seed 0, 1"),
        (("--where", "weight_decay=0.1"), "no run of weight_decay 0.1 .* weight_decay 0.0, 0.005"),
        (("--where", "momentum=0.9"), "no run of momentum 0.9 .* no momentum, but width, seed, "),
        (("--run", "mine"), "no run of run mine in .*; it holds run width="),
        (("--epoch", "7"), "no epoch 7 in run .*; it holds 0, 5, 10"),
        (("--epoch", "soon"), "--epoch soon was asked for; give a number"),
        (("--epoch", "20:30"), "no epoch from 20 to 30 in run .*; it holds 0, 5, 10"),
        (("--split", "val"), "no split 'val' in run .*; it holds test, train"),
        (("--layer", "conv1"), "no layer 'conv1' in run .*; it holds last_hidden"),
        (("--threshold", 0), r"threshold 0.0 .* \(0, 1\]"),
        (("--threshold", 1.01), r"threshold 1.01 .* \(0, 1\]"),
        (("--parts", 5), "width 8 does not divide by 5"),
        (("--subsets", 0), "subsets=0"),
        (("--ridge", "-1"), "ridge=-1.0"),
        (("--rng-seed", "-1"), "rng_seed=-1"),
    ],
)  # fmt: skip
def test_a_question_about_what_is_not_there_says_what_is(
    arguments: tuple[Any, ...], message: str, planted_path: Path, cli: Call
) -> None:
    before = every_byte(planted_path)
    answer = cli("query", "clones", planted_path, *arguments)
    assert (answer.code, answer.out) == (1, "")
    assert re.match(f"actstore: .*({message})", answer.err), answer.err
    assert answer.err.count("\n") == 1
    assert every_byte(planted_path) == before


@pytest.mark.parametrize(("size", "code"), [("0", 1), ("65", 1), ("-3", 1), ("x", 2), ("4,,8", 2)])
def test_a_subset_size_out_of_range_is_refused(
    size: str, code: int, planted_path: Path, cli: Call
) -> None:
    answer = cli("query", "reconstruction", planted_path, "--subset-size", size)
    assert (answer.code, answer.out) == (code, "")
    assert size in answer.err


@pytest.mark.parametrize("command", ["runs", "info", "query moments"])
def test_a_path_that_is_no_store_says_what_is_there(
    command: str, tmp_path: Path, cli: Call
) -> None:
    words = command.split()
    file, folder, other = tmp_path / "file", tmp_path / "folder", tmp_path / "other.zarr"
    file.write_text("text")
    folder.mkdir()
    zarr.create_group(other)
    for path, message in (
        (tmp_path / "nothing", "no store at"),
        (file, "it is a file"),
        (folder, "a folder without a Zarr group"),
        (other, "a Zarr hierarchy that actstore did not write"),
    ):
        answer = cli(*words, path)
        assert (answer.code, answer.out) == (1, "")
        assert message in answer.err
        assert answer.err.count("\n") == 1


def test_a_store_of_a_later_format_is_refused_and_unharmed(tmp_path: Path, cli: Call) -> None:
    path = record(tmp_path / "later.zarr")
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["actstore_format"] = schema.FORMAT + 1
    (path / "zarr.json").write_text(json.dumps(document))
    before = every_byte(path)
    for words in (("runs",), ("info",), ("query", "moments")):
        answer = cli(*words, path)
        assert answer.code == 1
        assert "install a newer actstore" in answer.err
    assert every_byte(path) == before


def test_info_of_a_run_that_is_not_there_names_those_that_are(
    planted_path: Path, cli: Call
) -> None:
    answer = cli("info", planted_path, "mine")
    assert answer.code == 1
    assert "no run 'mine'" in answer.err
    assert "width=8,weight_decay=0.0,seed=0" in answer.err


def test_a_layer_of_dead_neurons_only_is_an_error(tmp_path: Path, cli: Call) -> None:
    path = tmp_path / "dead.zarr"
    writer = RunWriter.create(path, "dead", slots=1, attributes=attributes(width=8))
    writer.write(
        3,
        {"test": {"last_hidden": np.ones((20, 8), "float32")}},
        labels={"test": np.zeros(20, int)},
    )
    writer.close(complete=True)
    before = every_byte(path)
    for name in ("reconstruction", "clones", "noise", "scaling"):
        answer = cli("query", name, path, "--no-cache")
        assert (answer.code, answer.out) == (1, "")
        assert "all 8 neurons are dead (zero variance) at epoch 3 of run 'dead'" in answer.err
    assert every_byte(path) == before


def test_a_store_without_runs_has_no_answer_yet(tmp_path: Path, cli: Call) -> None:
    path = tmp_path / "new.zarr"
    open_or_create_root(path)
    answer = cli("query", "scaling", path)
    assert answer.code == 1
    assert "holds no run yet; record one first" in answer.err


def test_a_run_that_has_only_begun_does_not_stop_the_others(fresh: Path, cli: Call) -> None:
    writer = RunWriter.create(
        fresh, "begun", slots=3, attributes=attributes(width=128, weight_decay=0.005)
    )
    try:
        for epoch in ("-1", "all"):
            answer = cli("query", "moments", fresh, "--epoch", epoch, "--format", "json")
            assert answer.code == 0, answer.err
            assert 128 not in {row["width"] for row in answer.json["rows"]}
        assert cli("runs", fresh).code == 0
        assert cli("info", fresh, "begun").code == 0
    finally:
        writer.close(complete=False)


def test_settings_that_are_lists_words_or_missing_do_not_stop_a_query(
    fresh: Path, cli: Call
) -> None:
    for run, settings in (
        ("list", {"betas": [0.9, 0.99], "weight_decay": 0.1}),
        ("word", {"optimizer": "adam", "nested": {"a": 1}}),
        ("none", {"schedule": None, "nesterov": True}),
    ):
        record(fresh, run, layers={"last_hidden": 8}, epochs=(10,), **settings)
    for name in ("moments", "scaling", "clones"):
        answer = cli("query", name, fresh, "--width", 8, "--format", "json")
        assert answer.code == 0, answer.err
        assert len(answer.json["rows"]) >= 5
        assert cli("query", name, fresh, "--width", 8).code == 0
    assert cli("runs", fresh, "--format", "json").code == 0
    assert cli("info", fresh).code == 0


def test_an_epoch_that_only_some_runs_have_is_named_with_the_run(fresh: Path, cli: Call) -> None:
    record_run(fresh, width=4, seed=0, weight_decay=0.0)
    record(fresh, "short", epochs=(0,), layers={"last_hidden": 8}, weight_decay=0.0)
    answer = cli("query", "moments", fresh, "--epoch", "10")
    assert answer.code == 1
    assert "no epoch 10 in run 'short'; it holds 0" in answer.err


# where the work runs


def test_worker_processes_answer_and_warn_as_threads_do(fresh: Path, cli: Call) -> None:
    ask = ("query", "clones", fresh, *ONE, *QUICK, "--format", "json")
    expected = cli(*ask).json
    (damaged,) = fresh.glob("width=16,weight_decay=0.005,seed=0/test/*/moments/comoment/c/2/*/*")
    damaged.write_bytes(b"damaged")
    answer = own_process(*ask, "--workers", 1)
    assert answer.json == expected
    assert answer.err.startswith("actstore: the cached moments of run ")
    assert answer.err.count("\n") == 1


def test_every_command_that_is_listed_can_be_called() -> None:
    module = importlib.import_module("actstore.cli")
    assert {words[0] for words in COMMANDS if len(words) == 1} == set(module.COMMANDS)


# answers that are odd


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_an_answer_that_finds_no_room_is_one_line(planted_path: Path) -> None:
    command = start("runs", str(planted_path), "--format", "csv")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"actstore: no space is left where the output goes; free some\n"


def test_json_holds_no_number_that_json_does_not_have() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    answer = {"rows": [{"loss": np.inf, "error": float("nan"), "window": (-np.inf, 1.0)}]}
    found = json.loads(as_json(answer), parse_constant=refuse)
    assert found == {"rows": [{"loss": None, "error": None, "window": [None, 1.0]}]}


def test_runs_of_the_same_settings_are_told_apart_by_their_names(tmp_path: Path, cli: Call) -> None:
    store = tmp_path / "s.zarr"
    long = {f"{letter}_hyper_parameter_of_a_long_name": letter * 30 for letter in "abc"}
    for name in ("one", "two"):
        record(store, name, epochs=[0], seed=0, **long)
    for words in (("runs", store), ("query", "moments", store)):
        answer = cli(*words)
        assert answer.code == 0, answer.err
        assert {"one", "two"} <= set(answer.out.split())
    record(store, "three", epochs=[0], seed=1, **long)
    assert "one" not in cli("runs", store, "--run", "one", "--run", "three").out.split()


def test_rows_that_are_all_alike_make_a_table() -> None:
    row = {"first": "a" * 50, "second": "b" * 50}
    said, rows = table([row, row], ["first", "second"]).split("\n\n")
    assert said == f"second {'b' * 50}"
    assert rows.split() == ["first", "-" * 50, "a" * 50, "a" * 50]


def test_a_setting_of_a_long_name_is_told_whole(tmp_path: Path, cli: Call) -> None:
    store = tmp_path / "s.zarr"
    record(store, "run", epochs=[0], **{"k" * 90: "v" * 200})
    out = cli("info", store).out.split()
    assert out[out.index("k" * 90) + 1] == "v" * 200


def test_errors_of_single_neurons_can_be_asked_for_alone(planted_path: Path, cli: Call) -> None:
    answer = cli("query", "error", planted_path, "--subset-size", 1, "--format", "json")
    assert answer.code == 0, answer.err
    assert {row["subset_size"] for row in answer.json["rows"]} == {1}
    assert {row["gamma"] for row in answer.json["rows"]} == {None}
