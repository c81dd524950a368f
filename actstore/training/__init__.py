"""Trainings that record themselves: what ``actstore record`` runs (PyTorch)."""

from actstore.training.progress import Progress, Silent
from actstore.training.recipes import RECIPES, Recipe, Settings
from actstore.training.sweep import RunPlan, plan_sweep, record_sweep

__all__ = [
    "RECIPES",
    "Progress",
    "Recipe",
    "RunPlan",
    "Settings",
    "Silent",
    "plan_sweep",
    "record_sweep",
]
