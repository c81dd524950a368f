"""When clones appear: two runs over their epochs, beside their train error.

Run ``python examples/clones_over_training.py digits.zarr`` on what ``actstore demo`` recorded.
"""

import sys

import actstore
from actstore import plotting

store = actstore.open(sys.argv[1] if len(sys.argv) > 1 else "digits.zarr")
figure = sys.argv[2] if len(sys.argv) > 2 else "dynamics.png"

# Nothing is computed yet: width 256 with weight decay and without, all recorded epochs.
dynamics = store.sel(width=256).dynamics(threshold=0.95)

# The answer is small; the activations were read once, epoch by epoch, to get it.
dynamics = dynamics.compute()
for run in dynamics.run.values:
    one = dynamics.sel(run=run, threshold=0.95)
    print(f"\n{run}")
    print(one[["train_error", "test_error", "critical_size", "n_clones"]].to_dataframe()
          [["train_error", "test_error", "critical_size", "n_clones"]].round(3))  # fmt: skip
    print(f"first recorded epoch of zero train error: {one.interpolation_epoch.item():g}")
    print(f"first recorded epoch with two clones or more: {one.clone_epoch.item():g}")

plotting.save("dynamics", dynamics, figure)
print(f"\ndrew {figure}")
