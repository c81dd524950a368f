"""Leave a training as it was found: its modes, its gradients, its random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode without gradients; restore each module's own mode.

    ``no_grad`` rather than ``inference_mode``: a buffer that a module makes on its first
    call (a mask, a table of positions) would be an inference tensor, which the training
    after it cannot use.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random state of PyTorch, NumPy and Python afterwards.

    Even a loader that does not shuffle draws a number from PyTorch's global generator
    each time it is iterated, and would so change the training that follows.
    """
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def random_state() -> dict[str, Any]:
    """Return the global random states, in types that a weights-only checkpoint can hold."""
    # NumPy's global state, not a generator: it is what users' transforms draw from.
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if started else [],
        "numpy": (torch.from_numpy(np.asarray(keys, "int64")), position, has_gauss, cached),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Return to a state that :func:`random_state` gave."""
    keys, position, has_gauss, cached = state["numpy"]
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        # A checkpoint may come from a machine with more of them.
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    np.random.set_state(("MT19937", keys.numpy().astype("uint32"), position, has_gauss, cached))  # noqa: NPY002
    random.setstate(state["python"])
