"""Loading the libraries of a command in less time."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: what pandas and dask load where it is installed, can do without, and no answer is made with
UNUSED = ("pyarrow", "scipy.fftpack", "jinja2")


@contextmanager
def libraries() -> Iterator[None]:
    """Load within the context what an answer needs.

    Tasks use one thread of BLAS each. Said before numpy is loaded, no other thread is made:
    those that wait for work would spin, which took three times the work itself. Nor is there
    garbage to look for while modules are loaded, or later among them: a fifth of the time.
    Another fifth went into optional libraries of libraries: they are hidden meanwhile.
    """
    for library in ("OPENBLAS", "MKL", "BLIS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        gc.enable()
