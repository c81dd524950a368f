"""Writing what a store holds for other programs: Zarr, NetCDF, NumPy, Parquet."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.callbacks import Callback

from actstore import schema
from actstore.errors import (
    ActstoreError,
    InvalidParameterError,
    MissingExtraError,
    NotInStoreError,
    RunExistsError,
    StoreWriteError,
)
from actstore.storage.catalogue import Catalogue
from actstore.storage.files import PARTIAL
from actstore.storage.local import remove_tree
from actstore.storage.location import StorePath
from actstore.storage.progress import Progress
from actstore.storage.reading import Committed
from actstore.storage.run import Run
from actstore.storage.transfer import check_free, send

Array: TypeAlias = npt.NDArray[Any]

BLOCK_BYTES = 2**26

#: what a .npy file can hold: one array
VARIABLES = (schema.ACTIVATIONS, schema.LABEL, schema.SAMPLE, schema.WEIGHT, schema.BIAS)


def export(
    selection: Catalogue,
    target: StorePath,
    *,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    variable: str = schema.ACTIVATIONS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path | str:
    """Write a layer of the selected runs and epochs into a file whose suffix tells the format.

    It appears whole or not at all. Samples are read in blocks, so that an epoch may be larger
    than the memory.

    Parameters
    ----------
    selection : Store
        A store or a selection of it.
    target : path or URL
        What goes to a URL is written to the disk for temporary files first. ``.zarr`` (plain, one
        chunk an epoch) or ``.nc`` (NetCDF 4): activations, labels, metrics and readout; one run is
        a dataset, several are a tree with a group a run. ``.npy``: one ``variable`` of one run,
        ``(epoch, sample, neuron)``, without ``epoch`` if it is one. ``.parquet``: one epoch of one
        run, a row a sample, with the columns ``sample``, ``label``, ``neuron_0``, ….
    split, layer : str
    variable : {"activations", "label", "sample", "weight", "bias"}
        For ``.npy``.
    overwrite : bool
        Whether a file that exists may be replaced. An actstore store never is.
    progress : callable, optional
        Called with how much is written so far, and how much there is to write.

    Returns
    -------
    path or str
        Of the target.

    Raises
    ------
    NotInStoreError
        If the selection is empty, or holds more than the format takes.
    InvalidParameterError
        If the suffix is not known.
    RunExistsError
        If the target exists.
    StoreWriteError
        If the disk refuses.
    MissingExtraError
        If a package that writes the format is not installed.
    """
    where = os.fspath(target)
    path = Path(where)
    if path.suffix not in _WRITERS:
        raise InvalidParameterError(
            f"{str(path)!r} was asked for; give a name that ends in {', '.join(_WRITERS)}"
        )
    if variable not in VARIABLES or (variable != schema.ACTIVATIONS and path.suffix != ".npy"):
        raise InvalidParameterError(
            f"the variable {variable!r} was asked for in {path.name!r}; only .npy files take one, "
            f"and it is one of {', '.join(VARIABLES)}"
        )
    if not len(selection):
        raise NotInStoreError(f"{selection.path!r} holds no run to export")
    for run in selection.values():
        run.check(split, layer)
    told: Progress = (lambda done, of: None) if progress is None else progress
    if "://" in where:
        return _to_url(selection, where, split, layer, variable, overwrite, told)
    _check_target(path, overwrite)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        # One block after another: after an error no other thread may write to what is removed.
        with dask.config.set(scheduler="synchronous"):
            _WRITERS[path.suffix](selection, aside, split, layer, variable, told)
        if path.is_dir():
            remove_tree(path)
        os.replace(aside, path)
    except ImportError as error:
        raise MissingExtraError(
            f"writing {path.name!r} needs the package {error.name!r}; "
            "pip install 'actstore[formats]'"
        ) from error
    except ActstoreError:  # some are an OSError too
        raise
    except OSError as error:
        raise StoreWriteError(
            f"{str(path)!r} could not be written ({_why(error)}); "
            "nothing of it is left: give another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            if aside.is_dir():
                remove_tree(aside)
            aside.unlink(missing_ok=True)
    return path


def _why(error: OSError) -> str:
    """Return why a file could not be written; HDF5 and Arrow say it amid words of their own."""
    said = re.search(r"error message = '([^']+)'|\[errno \d+\] (.+)", str(error))
    return (said[1] or said[2]) if said else error.strerror or str(error).partition("\n")[0]


def _to_url(
    selection: Catalogue,
    url: str,
    split: str,
    layer: str,
    variable: str,
    overwrite: bool,
    told: Progress,
) -> str:
    check_free(url, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(url).name
        export(selection, local, split=split, layer=layer, variable=variable, progress=told)
        try:
            send(local, url, overwrite=overwrite)
        except ActstoreError:  # some are an OSError too
            raise
        except OSError as error:
            raise StoreWriteError(
                f"{url!r} could not be written ({error.strerror or error}); "
                "mend the connection or the credentials and export again"
            ) from error
    return url


@contextlib.contextmanager
def _followed(told: Progress) -> Iterator[None]:
    """Tell how many tasks of the one graph are done that dask computes of all runs."""

    def task_done(_key: Any, _value: Any, _graph: Any, state: Any, _worker: Any) -> None:
        done = len(state["finished"])
        told(done, done + sum(len(state[part]) for part in ("ready", "waiting", "running")))

    with Callback(posttask=task_done):
        yield


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise InvalidParameterError(f"there is no folder {str(path.parent)!r} for {path.name!r}")
    if not path.exists():
        return
    if not overwrite:
        raise RunExistsError(f"{str(path)!r} exists; give another name, or --overwrite it")
    document = path / "zarr.json"
    if path.is_dir() and (not document.exists() or "actstore_format" in document.read_text()):
        raise RunExistsError(
            f"{str(path)!r} is a store or a folder of something else, and is not replaced; give "
            "another name, or remove it first"
        )


def _dataset(run: Run, split: str, layer: str) -> xr.Dataset:
    """Return a layer with everything that belongs to it, in types that every format has."""
    data = run.in_blocks(BLOCK_BYTES).dataset(split, layer)
    if run.has_readout:
        data = data.assign(run.readout().data_vars)
    data = data.reset_coords([name for name in run.metrics().data_vars])
    data.attrs = {key: _plain(value) for key, value in data.attrs.items()}
    for variable in data.variables.values():
        variable.encoding = {}
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None:  # NetCDF has neither
        return str(value)
    return value if isinstance(value, int | float | str) else json.dumps(value)


def _tree(selection: Catalogue, split: str, layer: str) -> xr.Dataset | xr.DataTree:
    data = {name: _dataset(run, split, layer) for name, run in selection.items()}
    return (
        next(iter(data.values()))
        if len(data) == 1
        else xr.DataTree.from_dict({f"/{name}": one for name, one in data.items()})
    )


def _zarr(
    selection: Catalogue, path: Path, split: str, layer: str, variable: str, told: Progress
) -> None:
    data = _tree(selection, split, layer)
    with _followed(told):
        # no consolidated metadata: they are not part of Zarr 3
        data.to_zarr(path, mode="w-", zarr_format=3, consolidated=False)


def _netcdf(
    selection: Catalogue, path: Path, split: str, layer: str, variable: str, told: Progress
) -> None:
    import h5netcdf  # noqa: F401 - whose absence is to be named

    data = _tree(selection, split, layer)
    # Asked first: an HDF5 file that finds no room cannot be closed, and ends the process.
    if shutil.disk_usage(path.parent).free < 1.02 * data.nbytes + 2**17 * len(selection):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with _followed(told):
        data.to_netcdf(path, engine="h5netcdf")


def _npy(
    selection: Catalogue, path: Path, split: str, layer: str, variable: str, told: Progress
) -> None:
    run = _only(selection, ".npy")
    if variable in (schema.LABEL, schema.SAMPLE):
        labels = run.labels(split)
        values = labels if variable == schema.LABEL else labels[schema.SAMPLE]
        with path.open("wb") as file:
            np.save(file, values.to_numpy(), allow_pickle=False)
        return
    if variable != schema.ACTIVATIONS:
        with path.open("wb") as file:
            several = run.readout()[variable].to_numpy()
            np.save(file, several[0] if len(several) == 1 else several, allow_pickle=False)
        return
    samples, width = run.shape(split, layer)
    run.dataset(split, layer)  # refuses where there are no samples
    epochs = len(run.epochs)
    shape = (samples, width) if epochs == 1 else (epochs, samples, width)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for slot in run.slots:
            for _, block in _blocks(run, split, layer, int(slot), told):
                file.write(np.ascontiguousarray(block, "<f4").data)


def _parquet(
    selection: Catalogue, path: Path, split: str, layer: str, variable: str, told: Progress
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = _only(selection, ".parquet")
    if len(run.epochs) != 1:
        raise NotInStoreError(
            f"{len(run.epochs)} epochs of run {run.name!r} are selected, and a .parquet file takes "
            f"one; choose --epoch among {', '.join(map(str, run.epochs))}"
        )
    data = run.dataset(split, layer)
    label = run.labels(split)
    facts = {key: _plain(value) for key, value in data.attrs.items()}
    names = [f"neuron_{n}" for n in range(run.shape(split, layer)[1])]
    schema_ = pa.schema(
        [
            (schema.SAMPLE, pa.int64()),
            (schema.LABEL, pa.from_numpy_dtype(label.dtype)),
            *((name, pa.float32()) for name in names),
        ],
        metadata={"actstore": json.dumps({**facts, "epoch": int(run.epochs[0])})},
    )
    sample = label[schema.SAMPLE].to_numpy()
    with pq.ParquetWriter(path, schema_) as writer:
        for start, block in _blocks(run, split, layer, int(run.slots[0]), told):
            rows = slice(start, start + len(block))
            columns = [sample[rows], label.to_numpy()[rows], *np.ascontiguousarray(block.T)]
            writer.write_table(pa.table([pa.array(c) for c in columns], schema=schema_))


def _blocks(
    run: Run, split: str, layer: str, slot: int, told: Progress
) -> Iterator[tuple[int, Array]]:
    """Yield blocks of samples of one epoch, each with the place of its first sample."""
    array = Committed(run.array(f"{split}/{layer}/{schema.ACTIVATIONS}"), run.path)
    rows = run.in_blocks(BLOCK_BYTES).block_rows(split, layer)
    samples = array.shape[1]
    before = int(np.searchsorted(run.slots, slot)) * samples
    for start in range(0, samples, rows):
        yield start, array[slot, start : start + rows]
        told(before + min(start + rows, samples), len(run.slots) * samples)


def _only(selection: Catalogue, suffix: str) -> Run:
    if len(selection) != 1:
        raise NotInStoreError(
            f"{len(selection)} runs of {selection.path!r} are selected, and a {suffix} file takes "
            "one; choose one, or write .zarr or .nc"
        )
    return selection.only()


_Writer: TypeAlias = Callable[[Catalogue, Path, str, str, str, Progress], None]
_WRITERS: dict[str, _Writer] = {
    ".zarr": _zarr,
    ".nc": _netcdf,
    ".npy": _npy,
    ".parquet": _parquet,
}
