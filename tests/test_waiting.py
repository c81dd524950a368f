"""Work that takes longer than two seconds says on a terminal that it goes on, and for how long."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from actstore.storage.verify import verify

WORK = """
import sys, time
from actstore.cli.waiting import waiting
with waiting("verifying", after={after}) as told:
    for done in range(1, 9):
        time.sleep(0.15)
        told(done, 8)
print("done")
"""


def on_a_terminal(after: float) -> str:
    """Run the work with stderr on a terminal; return what the terminal was told."""
    ours, theirs = pty.openpty()
    script = WORK.format(after=after)
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=theirs, stdout=subprocess.PIPE, text=True,
        check=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    assert done.stdout == "done\n"
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 1 << 16):
            said += part
    except OSError:  # the other end is closed: all is read
        pass
    os.close(ours)
    return said.decode()


def test_a_bar_with_the_time_left_is_shown_on_a_terminal() -> None:
    said = on_a_terminal(after=0.1)
    assert "verifying" in said
    assert re.search(r"left\S* .*0:00:0\d", said)


def test_short_work_shows_nothing() -> None:
    assert on_a_terminal(after=60) == ""


def test_verify_tells_how_many_runs_are_done(fresh: Path) -> None:
    told: list[tuple[int, int]] = []
    assert verify(fresh, deep=True, progress=lambda done, of: told.append((done, of))) == []
    parts = len(list(fresh.iterdir()))
    assert told == [(done, parts) for done in range(1, parts + 1)]
