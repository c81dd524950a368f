"""The README: every block of code in it runs, and its outputs are what one sees.

``python -m tests.test_readme FOLDER`` writes the outputs anew from the demonstration in FOLDER.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # the demonstration trains for a minute, or five if others do

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(README.read_text("utf-8")) if kind == language]


def console(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output that stands below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def shell(command: str, folder: Path) -> str:
    """Run a command of the README in a folder, with this interpreter's ``actstore``."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def words(text: str) -> list[str]:
    """Return a text without its numbers and spacing: what must be the same everywhere."""
    bare = NUMBER.sub("#", re.sub(r"-{3,}", "", text))
    return bare.replace("none", "#").split()


def numbers(text: str) -> list[float]:
    return [float(n) for n in NUMBER.findall(re.sub(r"-{3,}", "", text))]


CONSOLE = [pair for block in blocks("console") for pair in console(block)]


@pytest.mark.parametrize(("command", "printed"), CONSOLE, ids=[c for c, _ in CONSOLE])
def test_commands_print_what_the_readme_says(command: str, printed: str, demo_folder: Path) -> None:
    seen = shell(command, demo_folder)
    assert words(seen) == words(printed)
    # Another processor rounds otherwise and trains to slightly other weights.
    close = [a == pytest.approx(b, rel=0.35, abs=0.02) for a, b in
             zip(numbers(seen), numbers(printed), strict=False)]  # fmt: skip
    assert sum(close) >= 0.8 * len(close)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n")[0])
def test_python_of_the_readme_runs(code: str, demo_folder: Path) -> None:
    (demo_folder / "readme.py").write_text(code)
    (demo_folder / "own.zarr").exists() and pytest.fail("two blocks write own.zarr")
    done = subprocess.run(
        [sys.executable, "readme.py"], cwd=demo_folder, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_python_session_takes_fifteen_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 15


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def write_outputs(folder: Path) -> None:
    """Write the outputs of the commands into the README."""

    def filled(match: re.Match[str]) -> str:
        if match[1] != "console":
            return match[0]
        parts = [f"$ {c}\n{shell(c, folder).rstrip()}\n" for c, _ in console(match[2])]
        return "```console\n" + "\n".join(parts) + "```"

    README.write_text(BLOCK.sub(filled, README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write_outputs(Path(sys.argv[1]))
