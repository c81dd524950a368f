"""Runs arranged by setting of the hyper-parameters, width and seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.queries.apply import column
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]

SETTING = "setting"
WIDTH = "width"


class Settings:
    """Which run stands for which setting of the hyper-parameters, width and seed.

    Attributes
    ----------
    found : sequence of Source
    widths : list of int
    members : dict of (setting, width) to list of int
        Numbers of the runs, in the order of their seeds.
    """

    def __init__(self, found: Sequence[Source]) -> None:
        self.found = found
        keys = [
            tuple((k, _plain(v)) for k, v in s.coords.items() if k not in ("width", "seed"))
            for s in found
        ]
        # networks of another kind or on other data are not seeds of the same setting
        apart = [k for k in ("model", "dataset") if len({_named(s, k) for s in found}) > 1]
        keys = [
            (*((k, _named(s, k)) for k in apart), *sorted(key))
            for s, key in zip(found, keys, strict=True)
        ]
        self._settings = list(dict.fromkeys(keys))
        self.widths = sorted({source.width for source in found})
        self.members: dict[tuple[int, int], list[int]] = {}
        for run, (key, source) in enumerate(zip(keys, found, strict=True)):
            place = (self._settings.index(key), self.widths.index(source.width))
            self.members.setdefault(place, []).append(run)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of settings and of widths."""
        return (len(self._settings), len(self.widths))

    def names(self) -> list[str]:
        """Return each setting in words."""
        return [", ".join(f"{k}={v}" for k, v in setting) or "all" for setting in self._settings]

    def seeds(self) -> xr.Variable:
        """Return the number of runs ``(setting, width)``."""
        seeds = np.zeros(self.shape, int)
        for place, runs in self.members.items():
            seeds[place] = len(runs)
        return xr.Variable(
            (SETTING, WIDTH), seeds, {"long_name": "runs of the width", "units": "1"}
        )

    def logged(self, name: str) -> dict[tuple[int, int], Array]:
        """Return the last value of a metric of each seed ``(seed,)``, by setting and width."""
        return {
            place: np.array([_last(self.found[run], name) for run in runs])
            for place, runs in self.members.items()
        }

    def metric(self, name: str) -> xr.Variable:
        """Return the last value of a metric, mean over seeds ``(setting, width)``."""
        values = np.full(self.shape, np.nan)
        for place, seeds in self.logged(name).items():
            values[place] = seeds.mean()
        return xr.Variable((SETTING, WIDTH), values, schema.describe(name))

    def coords(self) -> dict[str, Any]:
        """Return the coordinates: widths, and each hyper-parameter by setting."""
        keys = list(dict.fromkeys(key for setting in self._settings for key, _ in setting))
        columns = {key: [dict(setting).get(key) for setting in self._settings] for key in keys}
        return {
            SETTING: (SETTING, self.names(), {"long_name": "hyper-parameters"}),
            WIDTH: (WIDTH, self.widths, schema.describe(WIDTH)),
            **{key: (SETTING, column(values)) for key, values in columns.items()},
        }


def _plain(value: Any) -> Any:
    """Return a number or a word; lists and mappings, which JSON also holds, become words."""
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _named(source: Source, attribute: str) -> str:
    return "" if source.run is None else str(source.run.attrs.get(attribute, ""))


def _last(source: Source, metric: str) -> float:
    if source.run is None:
        return float("nan")
    return float(source.run.metric(metric)[-1])
