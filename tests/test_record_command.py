import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from actstore.cli.options import parse_value
from actstore.cli.record import RECIPES as NAMED
from actstore.cli.record import command, command_line
from actstore.cli.record_progress import describe_bytes
from click.testing import CliRunner

import actstore
from actstore.errors import InvalidParameterError, RunExistsError
from actstore.storage.catalogue import Catalogue
from actstore.training import RECIPES

ACTSTORE = [sys.executable, "-c", "from actstore.cli import main; main()"]

OWN = """
import torch
from torch import nn

def net(width, *, depth=1):
    layers = [nn.Linear(5, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 3))

def data(*, size=40):
    y = torch.arange(size) % 3
    x = nn.functional.one_hot(y, 5).float()
    return (x, y), (x[:10], y[:10])
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty current directory with a module ``own`` in it."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_the_recipes_that_help_names_are_those_that_exist():
    assert tuple(RECIPES) == NAMED


def test_help_is_given_without_importing_torch():
    code = (
        "import sys; from click.testing import CliRunner; from actstore.cli.record import command;"
        "result = CliRunner().invoke(command, ['-h']); assert result.exit_code == 0;"
        "assert 'actstore record digits.zarr --recipe digits' in result.output;"
        "assert not {'torch', 'zarr', 'numpy', 'rich'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recipe_is_trained_with_every_width_seed_and_value(here):
    result = run(
        "d.zarr", "--recipe", "digits", "--width", "8,16", "--width", "4", "--seed", "0,1",
        "--set", "weight_decay=0", "--set", "weight_decay=5e-3", "--epochs", "1",
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "recording 12 runs into 'd.zarr': about 1.61 MB uncompressed" in result.stderr
    assert "width=4,weight_decay=0.005,seed=1: train error 0." in result.stderr
    runs = Catalogue("d.zarr").runs
    assert sorted(set(runs.width)) == [4, 8, 16]
    assert sorted(set(runs.weight_decay)) == [0, 0.005]
    assert runs.complete.all()


def test_functions_of_one_s_own_take_keys(here):
    result = run(
        "o.zarr", "--model", "own:net", "--data", "own:data", "--width", "6",
        "--set", "depth=2", "--set", "size=30", "--set", "learning_rate=0.5", "--epochs", "4",
        "--schedule", "0,every:2", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.output == ""
    found = Catalogue("o.zarr").sel(depth=2, size=30, learning_rate=0.5).only()
    assert found.committed.tolist() == [0, 2, 4]
    assert found.dataset("train").sizes["sample"] == 30
    assert found.attrs["layers"] == {"last_hidden": "4:input"}
    with pytest.raises(InvalidParameterError, match=r"takes 'deep'; it has .*depth.*size"):
        run("o.zarr", "--model", "own:net", "--data", "own:data", "--width", "6", "--set", "deep=2")


def test_existing_runs_need_a_word(here):
    arguments = ("d.zarr", "--recipe", "digits", "--width", "4", "--epochs", "1")
    assert run(*arguments).exit_code == 0
    with pytest.raises(RunExistsError, match=r"is already in 'd.zarr'"):
        run(*arguments)
    assert "all 1 runs are complete in 'd.zarr'" in run(*arguments, "--resume").stderr
    assert "recording 1 run into" in run(*arguments, "--overwrite").stderr


SMALL = ("--recipe", "digits", "--width", "8", "--epochs", "1", "--quiet")


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), {"keep": ["activations"]}),
        (("--moments",), {"keep": ["activations", "moments"]}),
        (("--keep", "moments"), {"keep": ["moments"]}),
        (("--keep-bits", "7"), {"keep": ["activations"], "keep_bits": 7}),
    ],
)
def test_what_is_kept_is_what_was_asked_and_what_a_resumed_sweep_must_ask(here, flags, kept):
    assert run("d.zarr", *SMALL, *flags).exit_code == 0
    store = actstore.open("d.zarr")
    found = store.only()
    assert {key: found.attrs[key] for key in ("keep", "keep_bits") if key in found.attrs} == kept
    epochs = len(found.committed)
    assert store.explain("spectrum").cached_epochs == epochs * ("moments" in kept["keep"])
    if "keep_bits" in kept:
        bits = np.asarray(found.dataset("test").activations).view(np.uint32)
        assert not (bits & (2 ** (23 - 7) - 1)).any()
    other = ("--keep-bits", "5")
    with pytest.raises(RunExistsError, match=r"keeps .*, and is to keep activations of 5 bits"):
        run("d.zarr", *SMALL, *other, "--resume")
    assert run("d.zarr", *SMALL, *flags, "--resume").exit_code == 0


def test_an_interrupted_run_is_resumed_with_what_it_keeps_only(here):
    again = ("--recipe", "digits", "--width", "8", "--epochs", "2", "--schedule", "every:1")
    assert run("d.zarr", *again, "--keep", "moments", "--quiet").exit_code == 0
    run_group = zarr.open_group("d.zarr", mode="r+")[Catalogue("d.zarr").only().name]
    run_group.attrs["complete"] = False  # as if it had been interrupted
    with pytest.raises(
        RunExistsError, match="keeps moments, and is to keep activations and moments"
    ):
        run("d.zarr", *again, "--moments", "--resume")


@pytest.mark.parametrize("flags", [(), ("--moments",), ("--keep", "moments")])
def test_bytes_are_told_before_anything_trains_as_they_are_then_stored(here, flags):
    wide = ("--recipe", "digits", "--width", "64", "--epochs", "2", "--schedule", "every:1")
    told = run("d.zarr", *wide, *flags, "--explain").stdout.splitlines()[-1]
    assert not os.path.exists("d.zarr")
    said = re.fullmatch(r"to store: about (.*) uncompressed", told)[1]
    assert f"about {said} uncompressed" in run("d.zarr", *wide, *flags).stderr
    held = zarr.open_group("d.zarr", mode="r")[Catalogue("d.zarr").only().name]
    layers = [member for path, member in held.members(max_depth=None) if "/last_hidden/" in path]
    stored = sum(layer.nbytes for layer in layers if isinstance(layer, zarr.Array))
    number, unit = said.split()
    assert stored == pytest.approx(float(number) * {"kB": 1e3, "MB": 1e6}[unit], rel=0.01)


def test_durable_recordings_are_brought_to_the_disk(here, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert run("d.zarr", *SMALL).exit_code == 0
    assert not synced
    assert run("e.zarr", *SMALL, "--durable").exit_code == 0
    assert synced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "digits", "--keep", "both"], "'both' is not one of 'activations', 'moments'"),
        (["--recipe", "digits", "--keep-bits", "24"], "24 is not in the range 1<=x<=23"),
        ([], "give either --recipe, or both --model and --data"),
        (["--recipe", "digits", "--model", "own:net"], "give either --recipe"),
        (["--model", "own:net"], "both --model and --data"),
        (["--recipe", "cifar"], "'cifar' is not one of 'digits', 'fashion-mnist'"),
        (["--recipe", "digits", "--width", "8;16"], "write 8,16,32"),
        (["--recipe", "digits", "--set", "weight_decay"], "'weight_decay' is not KEY=VALUE"),
        (["--recipe", "digits", "--resume", "--overwrite"], "either --resume or --overwrite"),
        (["--recipe", "digits", "--epochs", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(here, arguments, message):
    result = run("d.zarr", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (here / "d.zarr").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-1", -1), ("0.5", 0.5), ("1e-3", 1e-3), ("True", True), ("false", False),
     ("last", "last"), ("0x1", "0x1")],
)  # fmt: skip
def test_values_are_numbers_truths_or_words(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_the_command_line_is_kept_without_folders():
    words = ["/home/me/bin/actstore", "record", "/data/me/x.zarr/", "--set", "root=/data/me/c 10"]
    assert command_line(words) == "actstore record x.zarr --set 'root=c 10'"


def test_bytes_are_said_in_a_unit_that_fits():
    found = [describe_bytes(n) for n in (5, 1500, 18_401_280, 999_400_000, 2 * 10**12)]
    assert found == ["5 bytes", "1.5 kB", "18.4 MB", "999 MB", "2 TB"]


def test_ctrl_c_leaves_the_store_whole_says_what_it_holds_and_exits_130(here):
    reader, terminal = pty.openpty()  # on a terminal there are bars
    arguments = ["record", "d.zarr", "--recipe", "digits", "--width", "8", "--epochs", "5000",
                 "--schedule", "0,every:20"]  # fmt: skip
    process = subprocess.Popen([*ACTSTORE, *arguments], stderr=terminal)
    os.close(terminal)
    drawn, interrupted = b"", False
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # the process has closed the other end
            break
        drawn += part
        if b"test error 0." in drawn and not interrupted:
            process.send_signal(signal.SIGINT)
            interrupted = True
    os.close(reader)
    assert process.wait(timeout=60) == 130
    text = drawn.decode()
    assert "recording 1 run into 'd.zarr'" in text
    assert "width 8, seed 0" in text
    assert "/5000" in text
    assert "Traceback" not in text
    last = int(Catalogue("d.zarr").only().committed[-1])
    assert "interrupted: 'd.zarr' holds 0 of 1 runs complete and up to epoch" in text
    assert f"epoch {last} of 'width=8,weight_decay=0.005,seed=0'" in text
    assert "--resume goes on" in text


@pytest.mark.parametrize("command", [["record", "x.zarr", "--recipe", "digits"], ["demo"]])
def test_without_torch_training_says_what_to_install(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.argv = ['actstore', *{command}]\n"
        "from actstore.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=tmp_path, check=False)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith("not installed; pip install 'actstore[train]'\n")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
