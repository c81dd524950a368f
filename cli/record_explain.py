"""What ``actstore record --explain`` prints: the runs of a sweep, before anything trains."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.training import RunPlan


def explained(plans: Sequence[RunPlan]) -> str:
    """Return the settings, the epochs to record, and each run with its number of parameters."""
    import torch

    lines = []
    for settings, alike in itertools.groupby(plans, key=_settings):
        lines.append(settings)
        for plan in alike:
            with torch.device("meta"):  # shapes without memory
                model = plan.recipe.model(plan.width, **plan.recipe.model_keywords)
            count = sum(parameter.numel() for parameter in model.parameters())
            lines.append(f"  {plan.name}: {count:,} parameters")
    return "\n".join(lines)


def _settings(plan: RunPlan) -> str:
    """Say what a run has in common with its neighbours: what its name does not tell."""
    told = [
        f"{key}={value}"
        for key, value in plan.configuration().items()
        if key not in plan.hyper_parameters and value not in ("", 0)
    ]
    epochs = ", ".join(map(str, plan.schedule.epochs(plan.epochs)))
    return f"{', '.join(told)}\nepochs recorded: {epochs}"
