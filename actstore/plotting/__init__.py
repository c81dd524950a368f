"""Figures: results in, matplotlib Axes out."""
