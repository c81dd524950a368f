"""The runs of a store: which there are, and how to choose among them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
import zarr
import zarr.errors

from actstore import schema
from actstore.errors import NotInStoreError, without_passwords
from actstore.storage.epochs import Epochs
from actstore.storage.files import AT_ONCE
from actstore.storage.location import StorePath, open_root
from actstore.storage.reading import DAMAGE, corrupt, is_run
from actstore.storage.run import Run
from actstore.storage.seal import SEAL


class Catalogue(Mapping[str, Run]):
    """The runs of a store by name; the attributes of their groups are read once, on opening.

    Parameters
    ----------
    path : str or path
        An actstore store.

    Raises
    ------
    StoreNotFoundError
        If nothing is there, or it is not an actstore store.
    StoreFormatError
        If it was written in a later format.
    """

    def __init__(self, path: StorePath) -> None:
        self.path = os.fspath(path)
        self.attrs: dict[str, Any] = {}
        root = open_root(path)
        self.attrs.update({key: value for key, value in root.attrs.items() if key != SEAL})
        self._runs = _sorted(
            {name: Run(group, self.path) for name, group in self._groups(root) if is_run(group)}
        )

    def _groups(self, root: zarr.Group) -> list[tuple[str, zarr.Group]]:
        with warnings.catch_warnings():
            # A run that another process is making or removing at this moment is half a group.
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
            try:
                return list(root.groups())
            except DAMAGE as error:
                raise corrupt("the metadata of a run", self.path, error) from error

    def __getitem__(self, name: str) -> Run:
        """Return the run of this name."""
        if name not in self._runs:
            alike = [held for held in self._runs if str(name) in held] or list(self._runs)
            rest = f" and {len(alike) - 4} more" if len(alike) > 4 else ""
            held = ", ".join(alike[:4]) or "none"
            raise NotInStoreError(f"no run {name!r} in {self.path!r}; it holds {held}{rest}")
        return self._runs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._runs

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        count = f"{len(self)} {'run' if len(self) == 1 else 'runs'}"
        where = without_passwords(self.path)
        return f"<actstore.{type(self).__name__} {where!r}: {count}>\n{self.runs}"

    @property
    def runs(self) -> pd.DataFrame:
        """A row a run: width, seed, hyper-parameters, epochs stored, last epoch, last metrics."""
        rows = []
        self.look_ahead(lambda run: run.metrics())
        for run in self.values():
            coords, metrics = run.coords(), run.metrics()
            # the learning rate of the last epoch is not the one that was set
            last = {
                f"last_{name}" if name in coords else str(name): float(values[-1])
                for name, values in metrics.items()
                if len(run.epochs)
            }
            rows.append(
                {
                    **coords,
                    "epochs": len(run.epochs),
                    "last_epoch": int(run.epochs[-1]) if len(run.epochs) else schema.NO_EPOCH,
                    "complete": run.complete,
                    **last,
                }
            )
        return pd.DataFrame(rows, index=pd.Index(list(self), name=schema.RUN))

    def sel(
        self,
        *,
        run: str | Sequence[str] | None = None,
        width: int | Sequence[int] | None = None,
        seed: int | Sequence[int] | None = None,
        epoch: Epochs = None,
        **hyper_parameters: Any,
    ) -> Self:
        """Narrow the store to some runs and epochs.

        Parameters
        ----------
        run : str or sequence of str, optional
            Names of runs.
        width, seed : int or sequence of int, optional
        epoch : int, sequence of int or slice, optional
            Epochs by number; negative ones count from the last, -1 being the last stored;
            a slice includes both ends, as in :meth:`xarray.Dataset.sel`. Runs without any
            epoch are left out.
        **hyper_parameters
            A value or a sequence of values each, such as ``weight_decay=0.005``.

        Raises
        ------
        NotInStoreError
            If no run is left; the error names the values that the store holds.
        """
        kept = dict(self._runs)
        conditions = {"run": run, "width": width, "seed": seed, **hyper_parameters}
        for key, wanted in conditions.items():
            if wanted is None:
                continue
            value = {
                name: name if key == "run" else r.coords().get(key) for name, r in kept.items()
            }
            held = distinct(v for v in value.values() if v is not None)
            wanted = _several(wanted, held)
            for one in wanted:
                if one not in held:
                    raise NotInStoreError(
                        f"no run of {key} {one} in {self.path!r}"
                        + _among(conditions, key)
                        + (f"; it holds {key} {', '.join(map(str, held))}" if held else
                           f"; its runs have no {key}, but {', '.join(self._keys())}")
                    )  # fmt: skip
            kept = {name: r for name, r in kept.items() if value[name] in wanted}
        if epoch is not None:
            self.look_ahead()
            # A run that has only begun holds no epoch, and is no reason to refuse the others.
            begun = {name: r for name, r in kept.items() if len(r.epochs)}
            kept = {name: r.select(epoch) for name, r in (begun or kept).items()}
        return self._with(kept)

    def narrow(self, change: Callable[[Run], Run]) -> Self:
        """Return the same selection with each run changed, such as to fewer epochs."""
        return self._with({name: change(run) for name, run in self.items()})

    def look_ahead(self, look: Callable[[Run], object] = lambda run: run.committed) -> None:
        """Read of all runs at once what will be asked of each, where an answer takes a while."""
        if "://" in self.path and len(self) > 1:
            with ThreadPoolExecutor(AT_ONCE) as readers:
                list(readers.map(look, self.values()))

    def dataset(self, split: str = "test", layer: str = schema.DEFAULT_LAYER) -> xr.Dataset:
        """Return the activations of the one selected run, lazily; see :meth:`Run.dataset`.

        Raises
        ------
        NotInStoreError
            If not exactly one run is selected.
        """
        return self.only().dataset(split, layer)

    def only(self) -> Run:
        """Return the one run that is selected."""
        if len(self) != 1:
            raise NotInStoreError(
                f"{len(self)} runs of {self.path!r} are selected, one is needed; narrow with "
                f".sel({', '.join(f'{k}=' for k in self._keys())})"
            )
        return next(iter(self.values()))

    def tree(self) -> xr.DataTree:
        """Return all runs as one :class:`xarray.DataTree`, lazily.

        A node a run (metrics), with the children ``readout`` and ``<split>/<layer>``.
        """
        nodes: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs=self.attrs)}
        for name, run in self.items():
            nodes[f"/{name}"] = run.metrics().assign_attrs(run.attrs)
            if run.has_readout:
                nodes[f"/{name}/{schema.READOUT}"] = run.readout()
            for split in run.splits:
                nodes[f"/{name}/{split}"] = run.labels(split).to_dataset(name=schema.LABEL)
                for layer in run.layers(split) if run.keeps_samples else ():
                    data = run.dataset(split, layer)[[schema.ACTIVATIONS]].drop_vars(schema.LABEL)
                    nodes[f"/{name}/{split}/{layer}"] = data.drop_vars(run.metrics().data_vars)
        return xr.DataTree.from_dict(nodes)

    def _keys(self) -> list[str]:
        keys: dict[str, None] = {}
        for run in self._runs.values():
            keys.update(dict.fromkeys(run.coords()))
        return list(keys)

    def _with(self, runs: dict[str, Run]) -> Self:
        narrowed = object.__new__(type(self))
        narrowed.path, narrowed.attrs, narrowed._runs = self.path, self.attrs, runs
        return narrowed


def _sorted(runs: dict[str, Run]) -> dict[str, Run]:
    """Hyper-parameters first, then width, then seed: the order of a table that one can read."""

    def key(item: tuple[str, Run]) -> Any:
        run = item[1]
        settings = [(k, _order(v)) for k, v in sorted(run.hyper_parameters.items())]
        return settings, run.width, run.seed, run.name

    return dict(sorted(runs.items(), key=key))


def _several(wanted: Any, held: list[Any]) -> list[Any]:
    """Return the values asked for as a list: one value, or a sequence of them."""
    if isinstance(wanted, np.ndarray | np.generic):
        wanted = wanted.tolist()
    one = isinstance(wanted, str) or not isinstance(wanted, Iterable)
    return [wanted] if one or wanted in held else list(wanted)  # a value may be a list itself


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return the values in order, each once; they need not be hashable."""
    found: list[Any] = []
    for value in sorted(values, key=_order):
        if value not in found:
            found.append(value)
    return found


def _order(value: Any) -> tuple[bool, float, str]:
    """Return a key that sorts numbers before words, and each among themselves."""
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _among(conditions: Mapping[str, Any], last: str) -> str:
    """Return the conditions before ``last`` in words, for an error about an empty selection."""
    before = []
    for key, value in conditions.items():
        if key == last:
            break
        if value is not None:
            before.append(f"{key} {value}")
    return f" with {' and '.join(before)}" if before else ""
