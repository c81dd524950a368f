"""What ``actstore record --explain`` prints: the runs of a sweep, before anything trains."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .table import WIDTH

if TYPE_CHECKING:
    from actstore.training import RunPlan


def explained(plans: Sequence[RunPlan], *, data_dir: str | None = None) -> str:
    """Return settings, epochs to record, numbers of parameters, keys to set, bytes to store."""
    import torch

    lines = []
    for settings, alike in itertools.groupby(plans, key=_settings):
        lines.append(settings)
        for plan in alike:
            with torch.device("meta"):  # shapes without memory
                model = plan.recipe.model(plan.width, **plan.recipe.model_keywords)
            count = sum(parameter.numel() for parameter in model.parameters())
            lines.append(f"  {plan.name}: {count:,} parameters")
        lines.append(_filled(f"--set takes {', '.join(plan.recipe.keys())}"))
    return "\n".join([*lines, _filled(f"to store: {_bytes(plans, data_dir)}")])


def _bytes(plans: Sequence[RunPlan], data_dir: str | None) -> str:
    """Say how much will be stored, if the data sets, whose samples are counted, are there."""
    import torch

    from actstore.errors import DatasetNotFoundError
    from actstore.training.run import Data

    from .record_progress import describe_bytes

    data = Data(torch.device("cpu"), data_dir)
    try:
        total = sum(plan.estimated_bytes(data.splits(plan.recipe)) for plan in plans)
    except DatasetNotFoundError as error:
        return f"unknown, because {error}"
    return f"about {describe_bytes(total)} uncompressed"


def _settings(plan: RunPlan) -> str:
    """Say what a run has in common with its neighbours: what its name does not tell."""
    told = [
        f"{key}={value}"
        for key, value in plan.configuration().items()
        if key not in plan.hyper_parameters and value not in ("", 0)
    ]
    epochs = ", ".join(map(str, plan.schedule.epochs(plan.epochs)))
    said = (", ".join(told), f"epochs recorded: {epochs}; of each layer: {plan.kept}")
    return "\n".join(map(_filled, said))


def _filled(line: str) -> str:
    return textwrap.fill(line, WIDTH, break_on_hyphens=False)
