"""The mathematics: NumPy and SciPy only, no labels, no laziness."""
