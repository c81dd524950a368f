"""Calling ``actstore`` as the shell does, in this process and in one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, NamedTuple
from unittest import mock

import pytest

from actstore.queries import budget


class Answer(NamedTuple):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stdout holds."""
        return json.loads(self.out)


def entry_point() -> Callable[[], object]:
    """Return what the installed ``actstore`` script calls."""
    (script,) = entry_points(group="console_scripts", name="actstore")
    main: Callable[[], object] = script.load()
    return main


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> Answer:
    """Call the entry point in this process."""
    main = entry_point()
    # This process holds torch and whatever the tests before left; a command has its own.
    own = min(budget.resident_bytes(), 2**28)
    before, sys.argv = sys.argv, ["actstore", *arguments]
    capsys.readouterr()
    try:
        with mock.patch.object(budget, "resident_bytes", return_value=own):
            code = main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    return Answer(int(code or 0) if isinstance(code, int | None) else 1, out, err)


def start(*arguments: str, before: str = "", after: str = "") -> list[str]:
    """Return a command that runs ``actstore`` in a process of its own, and Python around it."""
    script = (
        f"import sys\n{before}\nfrom importlib.metadata import entry_points\n"
        "(script,) = entry_points(group='console_scripts', name='actstore')\n"
        f"try:\n    script.load()()\nfinally:\n    {after or 'pass'}\n"
    )
    return [sys.executable, "-c", script, *arguments]


def own_process(*arguments: object, timeout: float = 60, **options: Any) -> Answer:
    """Run ``actstore`` in a process of its own, as a user does."""
    done = subprocess.run(
        start(*map(str, arguments), **options),
        capture_output=True, text=True, timeout=timeout, check=False, env=os.environ,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)
