"""Calling a model on a batch, when the recorder makes the evaluation pass itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def forward(model: nn.Module, batch: Any) -> Any:
    """Call ``model`` on a tuple's first element, or with a mapping's items as keywords.

    Tensors are moved to the model's device.
    """
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    if isinstance(batch, Mapping):
        return model(**{name: _to(value, device) for name, value in batch.items()})
    return model(_to(batch[0], device))


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a metric rather than a loader: a number or a scalar tensor."""
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
