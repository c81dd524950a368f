"""One wide network against as many neurons in an ensemble of narrow ones.

Trains digits at three widths with four seeds each (half a minute), and compares on the same
samples. Run ``python examples/wide_against_ensemble.py seeds.zarr``.
"""

import sys

import actstore
from actstore.training import RECIPES, plan_sweep, record_sweep

path = sys.argv[1] if len(sys.argv) > 1 else "seeds.zarr"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 60

plans = plan_sweep(
    RECIPES["digits"], widths=[16, 32, 64], seeds=[0, 1, 2, 3], epochs=epochs, schedule="0"
)
record_sweep(path, plans, resume=True)  # what is recorded already is not trained again

answer = actstore.open(path).ensemble().compute()

# A difference below zero says that the wide network errs less; an interval over zero, a draw.
columns = ["error_wide", "error_rival", "only_wide", "only_rival", "p_value", "winner"]
table = answer[columns].sel(average="logits").to_dataframe()[columns]
print(table.round(4).to_string())

# Bias² and variance of the class probabilities over seeds: the variance falls about as 1 / width.
print(answer[["bias2", "variance"]].squeeze("setting").to_dataframe()[["bias2", "variance"]])
