"""Peak memory against what ``--explain`` says, and a store ten times larger than ``--memory``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from actstore.queries.budget import parse_bytes, show_bytes
from actstore.testing import planted_layer

from .curves import record
from .timing import Row, actstore

MEMORY = "320MiB"
WIDTH, SAMPLES = 256, 40_000
#: runs a command and says how much memory it took at most, which its parent's size would hide
MEASURE = """
import json, sys
from actstore.cli import main
from actstore.queries.budget import resident_bytes
try:
    main()
except SystemExit:
    pass
sys.stdout.flush()
print(resident_bytes(), file=sys.stderr)
"""


def rows() -> list[Row]:
    """Ask a store that is ten times larger than the memory, and one that is not."""
    # mostly zeros, as after a ReLU: the store is read as fast as a disk this small allows
    x = np.maximum(planted_layer(samples=SAMPLES, width=WIDTH, signals=10, seed=0) - 1.5, 0)
    epochs = -(-10 * parse_bytes(MEMORY) // x.nbytes)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        store = record(Path(folder) / "store.zarr", x.astype("float32"), epochs)
        for query in (["reconstruction"], ["error", "--splits", "test", "--subsets", "4"]):
            asked = ["query", *query, str(store), "--epoch", "all", "--format", "json"]
            if query[0] != "error":
                asked.append("--no-cache")
            said = json.loads(
                subprocess.run(
                    actstore(*asked, "--memory", MEMORY, "--explain"),
                    check=True, capture_output=True, text=True,
                ).stdout
            )["peak_memory"]  # fmt: skip
            bounded, peak = _peak([*asked, "--memory", MEMORY])
            whole, _ = _peak([*asked, "--memory", "8GiB"])
            difference = _difference(bounded, whole)
            ratio = max(peak / said, said / peak)
            job = f"{query[0]}, {show_bytes(epochs * x.nbytes)} within {MEMORY}, as without a bound"
            found.append(
                Row(
                    f"{job} to {difference:.0e}", show_bytes(peak), f"{show_bytes(said)} said",
                    peak / said, peak / said, "<= 1.5 x", ratio <= 1.5 and difference < 1e-12,
                )
            )  # fmt: skip
    return found


def _peak(arguments: list[str]) -> tuple[list[dict[str, Any]], int]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)["rows"], int(done.stderr.split()[-1])


def _difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> float:
    pairs = [
        (one[k], other[k])
        for one, other in zip(a, b, strict=True)
        for k in one
        # losses are of float32 products, whose round-off goes with the block
        if isinstance(one[k], float) and "loss" not in k
    ]
    return max(abs(p - q) for p, q in pairs)
