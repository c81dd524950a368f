"""Run all benchmarks, or those that are named, and print one table."""

from __future__ import annotations

import os
import platform
import sys

import numpy as np

from . import curves, errors, memory, moments, recording, storage
from .timing import Row, table

SUBJECTS = {
    "curves": curves,
    "moments": moments,
    "errors": errors,
    "memory": memory,
    "storage": storage,
    "recording": recording,
}


def main(names: list[str]) -> None:
    """Print the table of the subjects."""
    unknown = set(names) - set(SUBJECTS)
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    found: list[Row] = []
    for name in names or SUBJECTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        found += SUBJECTS[name].rows()
    print(table(found))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores{load}; Python {platform.python_version()},"
        f" numpy {np.__version__}. Medians; the CPU ratio is what counts where the load is above 1."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
