"""A question of your own in twenty lines: how much its most active neurons carry of a layer.

Run ``python examples/custom_query.py digits.zarr`` on what ``actstore demo`` recorded.
"""

import sys

import numpy as np
import xarray as xr

import actstore
from actstore.kernels.reconstruction import prefix_r2

store = actstore.open(sys.argv[1] if len(sys.argv) > 1 else "digits.zarr")
moments = store.sel(width=256, weight_decay=0.005).moments().squeeze("run")


def most_active_first(mean: np.ndarray, comoment: np.ndarray) -> np.ndarray:
    """Return R² of the layer from its 1, 2, … most active neurons (subset_size,)."""
    order = np.argsort(-mean) if comoment.trace() > 0 else np.arange(len(mean))
    alive = order[np.diagonal(comoment)[order] > 0]  # kernels want neurons that vary
    r2, _ = prefix_r2(comoment, alive)
    return np.pad(r2, (0, len(mean) - len(r2)), constant_values=np.nan)


# One dask task an epoch; nothing is read before .compute() or .plot().
carried = xr.apply_ufunc(
    most_active_first,
    moments["mean"],
    moments["comoment"],
    input_core_dims=[["neuron"], ["neuron", "other_neuron"]],
    output_core_dims=[["subset_size"]],
    vectorize=True,
    dask="parallelized",
    output_dtypes=[float],
    dask_gufunc_kwargs={"output_sizes": {"subset_size": moments.sizes["neuron"]}},
).assign_coords(subset_size=np.arange(1, moments.sizes["neuron"] + 1))

print(carried.sel(subset_size=[8, 16, 32]).compute().to_pandas().round(3))
