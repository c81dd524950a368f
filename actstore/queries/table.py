"""A result as rows: what a table, a CSV file or JSON shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from actstore import schema

#: dims that a row stands for, in the order of their columns; other dims never make rows
ROW_DIMS = (
    "contest",
    "rival",
    "average",
    "setting",
    "run",
    schema.EPOCH,
    "split",
    "width",
    "subset_size",
    "threshold",
    "factors",
    "fraction",
)
#: averaged in a row, with the 90 % interval beside the mean
SPREAD_DIMS = ("subset", "refit_subset")
LEVELS = {"_low": 0.05, "_high": 0.95}


def shown(result: xr.Dataset) -> xr.Dataset:
    """Return the variables of a result that rows can show, still lazy.

    Per-neuron, per-clone and per-sample variables are left to ``-o``; a spread over subsets
    becomes a mean with ``_low`` and ``_high`` (90 %).
    """
    kept: dict[str, xr.Variable] = {}
    for key in result.data_vars:
        # without its coordinates, which would be chunked too, and compared with one another
        name, variable = str(key), result.variables[key]
        spread = [d for d in SPREAD_DIMS if d in variable.dims]
        if not set(variable.dims) <= {*ROW_DIMS, *spread}:
            continue
        if not spread:
            kept[name] = variable
            continue
        lazy = variable.chunks is not None  # a computed answer must not become lazy again
        whole = variable.chunk(dict.fromkeys(spread, -1)) if lazy else variable
        summary = _summary(whole, spread)
        kept |= dict(zip((name, *(name + suffix for suffix in LEVELS)), summary, strict=True))
    used = {d for variable in kept.values() for d in variable.dims}
    coords = {name: c.variable for name, c in result.coords.items() if set(c.dims) <= used}
    return xr.Dataset(kept, coords=coords, attrs=result.attrs)


def _summary(variable: xr.Variable, dims: list[str]) -> tuple[xr.Variable, ...]:
    """Return the mean and the quantiles over dims, lazy where the variable is."""
    found: tuple[xr.Variable, ...] = xr.apply_ufunc(
        _mean_and_quantiles, variable, kwargs={"axes": len(dims)}, input_core_dims=[dims],
        output_core_dims=[[]] * (1 + len(LEVELS)), dask="parallelized",
        output_dtypes=["float64"] * (1 + len(LEVELS)), keep_attrs=True,
    )  # fmt: skip
    return found


def _mean_and_quantiles(values: npt.NDArray[Any], *, axes: int) -> tuple[npt.NDArray[Any], ...]:
    """Summarise the last axes; NaN, without a warning, where all values are."""
    flat = values.reshape(*values.shape[: values.ndim - axes], -1).astype(float)
    missing = np.isnan(flat).all(-1)
    flat[missing] = 0.0
    # NumPy looks for NaN value by value: only where there is one
    some = np.isnan(flat).any()
    mean, quantile = (np.nanmean, np.nanquantile) if some else (np.mean, np.quantile)
    summary = mean(flat, axis=-1), *quantile(flat, list(LEVELS.values()), axis=-1)
    return tuple(np.where(missing, np.nan, each) for each in summary)


def rows(result: xr.Dataset) -> list[dict[str, Any]]:
    """Return a dict a row, with the same keys in each and None where there is no value.

    Parameters
    ----------
    result : Dataset
        What a query returned; it is computed if it is lazy.
    """
    return records(frame(result))


def frame(result: xr.Dataset) -> pd.DataFrame:
    """Return the rows of a result as one pandas table; see :func:`rows`."""
    found = frames(result)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def frames(result: xr.Dataset) -> list[pd.DataFrame]:
    """Return a pandas table for each group of variables that share dims.

    Most results have one; contests and widths, say, are two.
    """
    values = shown(result).compute()
    return [_frame(values[names]) for names in _families(values)]


def _families(values: xr.Dataset) -> list[list[str]]:
    """Group the variables that are linked by shared dims."""
    families: list[tuple[set[str], list[str]]] = []
    for key, variable in values.data_vars.items():
        dims = {str(d) for d in variable.dims}
        linked = [f for f in families if f[0] & dims or not dims]
        families = [f for f in families if f not in linked]
        merged = (dims.union(*(f[0] for f in linked)), [n for f in linked for n in f[1]])
        families.append((merged[0], [*merged[1], str(key)]))
    return [names for _, names in families]


def _frame(values: xr.Dataset) -> pd.DataFrame:
    dims = [d for d in ROW_DIMS if d in values.dims]
    if not dims:
        return pd.DataFrame([{str(k): v.item() for k, v in values.data_vars.items()}])
    whole = [str(k) for k, v in values.data_vars.items() if set(v.dims) == set(dims)]
    table = values.to_dataframe(dim_order=dims).reset_index()
    # a size or an epoch that this run does not have is padding, not an answer
    measured = [k for k in whole if table[k].dtype.kind == "f"]
    if measured:
        table = table[table[measured].notna().any(axis=1)]
    lead = [*dims[:1], *_coordinates(values, dims[0]), *dims[1:]]
    columns = [*dict.fromkeys(lead), *(str(k) for k in values.data_vars)]
    return table[columns].reset_index(drop=True)


def _coordinates(values: xr.Dataset, dim: str) -> Sequence[str]:
    return [str(k) for k, c in values.coords.items() if c.dims == (dim,) and k != dim]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a dict a row of a table, of plain Python values."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in plain.to_dict("records")
    ]
