"""Trainings that record themselves: what ``actstore record`` runs (PyTorch)."""

from actstore.training.built_in import RECIPES
from actstore.training.plan import RunPlan, plan_sweep
from actstore.training.progress import Progress, RecordedEpoch, Silent
from actstore.training.recipes import Recipe
from actstore.training.settings import Settings
from actstore.training.sweep import record_sweep

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
