"""Loading the libraries of a command in less time."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def libraries() -> Iterator[None]:
    """Load within the context what an answer needs.

    Tasks use one thread of BLAS each. Said before numpy is loaded, no other thread is made:
    those that wait for work would spin, which took three times the work itself. Nor is there
    garbage to look for while modules are loaded, or later among them: a fifth of the time.
    """
    for library in ("OPENBLAS", "MKL", "BLIS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
