"""Ask a recorded store questions of one's own, with nothing but xarray's verbs.

Run ``python examples/own_training_loop.py own.zarr`` first, then
``python examples/xarray_session.py own.zarr session.png``.
"""

import sys

import matplotlib.pyplot as plt
import xarray as xr

import actstore

path = sys.argv[1] if len(sys.argv) > 1 else "own.zarr"
figure = sys.argv[2] if len(sys.argv) > 2 else "session.png"

# A store is runs by name; one run's layer on one split is an xarray.Dataset, one chunk an epoch.
store = actstore.open(path)
run = store.sel(width=64, seed=0).only()
layer = run.dataset("test")
x = layer.activations  # (epoch, sample, neuron), lazy; labels and errors are coordinates of it
print(x)

# Select by label, reduce by name: nothing has been read until here, and little is read now.
silent = (x == 0).mean("sample").sel(epoch=20)
print(f"neurons silent for more than half of the samples: {int((silent > 0.5).sum())}")

# Group by class: how far apart are the classes, compared with the samples of one class?
last = x.sel(epoch=20).compute()
by_class = last.groupby("label")
centres = by_class.mean("sample")
within = ((by_class - centres) ** 2).mean()
between = ((centres - centres.mean("label")) ** 2).mean()
print(f"variance between classes / within: {float(between / within):.1f}")

# Dims carry the algebra: the readout applied to the layer gives the errors that were logged.
readout = run.readout()
logits = x.dot(readout.weight, dim="neuron") + readout.bias
wrong = (logits.argmax("output") != x.label).drop_attrs(deep=False)
error = wrong.mean("sample").rename("test error").compute()
xr.testing.assert_allclose(error.variable, x.test_error.drop_attrs().variable)

# The questions of actstore answer in xarray too: the same verbs go on from there.
answer = store.reconstruction(subsets=20).compute()
carried = answer.r2_heldout.mean("subset")
best = carried.sel(subset_size=16).isel(run=0).idxmax("epoch")
print(f"16 neurons carry most of the layer at epoch {int(best)}")

_, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
error.plot(ax=left, marker="o")
centres.plot(ax=middle)
answer.actstore.plot(ax=right)  # an answer of actstore draws itself
left.set_title("errors")
middle.set_title("mean of each class")
plt.savefig(figure)
print(f"drew {figure}")
