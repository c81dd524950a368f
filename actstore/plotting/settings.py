"""Which runs of a result belong together: settings of the hyper-parameters, and their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from actstore import schema

#: coordinates of a run or a setting that are not hyper-parameters
_OTHERS = ("run", "setting", "width", "seed", "epoch", "model", "dataset")


def keys(result: xr.Dataset, dim: str) -> list[str]:
    """Return the hyper-parameters that differ along ``dim``; if none does, one or two there are."""
    found = [str(k) for k, c in result.coords.items() if c.dims == (dim,) and k not in _OTHERS]
    differ = [k for k in found if len(set(map(str, result[k].values.tolist()))) > 1]
    return differ or (found if len(found) <= 2 else [])


def names(result: xr.Dataset, dim: str) -> list[str]:
    """Return a name for each place along ``dim``, such as ``weight_decay=0.005``."""
    used = keys(result, dim)
    size = result.sizes[dim]
    return [", ".join(f"{k}={_word(result[k].values[i])}" for k in used) for i in range(size)]


def run_names(result: xr.Dataset) -> list[str]:
    """Return the setting of each run, with its seed where seeds are several."""
    seeds = result["seed"].values.tolist()
    several = len(set(seeds)) > 1
    return [
        ", ".join(filter(None, [name, f"seed {seed}" if several else ""]))
        for name, seed in zip(names(result, schema.RUN), seeds, strict=True)
    ]


def by_setting(result: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Return the runs of each setting, with the name of the setting."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names(result, schema.RUN)):
        groups.setdefault(name, []).append(place)
    return [(name, result.isel({schema.RUN: places})) for name, places in groups.items()]


def whole(result: xr.Dataset, *dims: str) -> xr.Dataset:
    """Return a result with ``dims`` back where a selection has dropped them, and computed."""
    missing = [dim for dim in dims if dim not in result.dims]
    for dim in missing:
        result = result.expand_dims(dim)
        if dim == schema.RUN:  # width, seed and hyper-parameters go with it
            along = [k for k, c in result.coords.items() if c.ndim == 0 and k not in dims]
            result = result.assign_coords({k: (dim, [result[k].values.item()]) for k in along})
    return result.compute()


def last_epochs(result: xr.Dataset, measured: str) -> xr.Dataset:
    """Return each run at the last epoch at which it holds anything: not all have the same."""
    values = result[measured]
    holds = values.notnull().any([d for d in values.dims if d not in (schema.RUN, schema.EPOCH)])
    numbers = xr.DataArray(np.arange(result.sizes[schema.EPOCH]), dims=schema.EPOCH)
    last = numbers.where(holds.drop_vars(schema.EPOCH, errors="ignore"), 0).max(schema.EPOCH)
    return result.isel({schema.EPOCH: last.astype(int)})


def one_by_one(result: xr.Dataset, measured: str) -> list[tuple[str, xr.Dataset]]:
    """Return each run at its last epoch, at each threshold, with the name of the run."""
    last = last_epochs(result, measured)
    return [
        (name, last.isel({schema.RUN: place}).sel(threshold=threshold))
        for threshold in last["threshold"].values
        for place, name in enumerate(run_names(last))
    ]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
