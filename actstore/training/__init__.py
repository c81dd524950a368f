"""Trainings that record themselves: what ``actstore record`` runs (PyTorch)."""

from actstore.errors import MissingExtraError

try:
    from actstore.training.built_in import RECIPES
    from actstore.training.plan import RunPlan, plan_sweep
    from actstore.training.progress import Progress, RecordedEpoch, Silent
    from actstore.training.recipes import Recipe
    from actstore.training.settings import Settings
    from actstore.training.sweep import record_sweep
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in ("torch", "torchvision", "sklearn"):
        raise
    raise MissingExtraError(
        f"training needs {missing.name}, which is not installed; pip install 'actstore[train]'"
    ) from missing

__all__ = [
    "RECIPES",
    "Progress",
    "Recipe",
    "RecordedEpoch",
    "RunPlan",
    "Settings",
    "Silent",
    "plan_sweep",
    "record_sweep",
]
