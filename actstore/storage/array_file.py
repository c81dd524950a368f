"""Arrays in files that other programs wrote: NumPy, PyTorch, safetensors, HDF5, NetCDF, Zarr.

Nothing is unpickled: a pickle runs code of whoever wrote it. Arrays of ``.npy`` files, and of
``.pt`` files in PyTorch's present format, stay on the disk until they are sliced.
"""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from actstore.errors import (
    InvalidDataError,
    InvalidParameterError,
    MissingExtraError,
    StoreNotFoundError,
)
from actstore.storage.transfer import fetch

Array: TypeAlias = npt.NDArray[Any]

#: separates a file from the name of an array in it
KEY = "::"


def read_array(file: str, *, key: str | None = None, usual: Sequence[str] = ()) -> Array:
    """Return one array of a file.

    Parameters
    ----------
    file : str
        ``PATH`` or ``PATH::KEY``, also a URL, of which a copy is made on the disk for temporary
        files; the suffix tells the format: ``.npy .npz .pt .pth
        .safetensors .h5 .hdf5 .nc .zarr``.
    key : str, optional
        Name of the array, where the file does not say; nested names are joined by dots in PyTorch
        files (``state_dict.fc.weight``) and by slashes in HDF5 files.
    usual : sequence of str
        Names to look for, where the file holds several arrays and none is asked for.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    InvalidParameterError
        If the suffix is not known, or the array is not in the file or not chosen.
    InvalidDataError
        If the file is damaged, or holds pickled objects.
    MissingExtraError
        If a package that reads the format is not installed.
    """
    path, _, named = file.partition(KEY)
    key = named or key
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise InvalidParameterError(
            f"{path!r} is of no kind that can be read; give one of {' '.join(_READERS)}"
        )
    if "://" in path:
        # What is mapped into memory stays readable when the copy has lost its name.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return read_array(str(fetch(path, Path(folder))), key=key, usual=usual)
    if not Path(path).exists():
        raise StoreNotFoundError(f"no file {path!r}; check the path")

    def choose(names: Sequence[str]) -> str:
        return _choose(names, key, usual, path)

    try:
        return _READERS[suffix](path, choose)
    except (pickle.UnpicklingError, _Pickled) as error:
        raise InvalidDataError(
            f"{path!r} holds pickled Python objects, which are not loaded because that would run "
            "code of the file's author; save the arrays alone, as torch.save(tensor, file) or "
            "numpy.save(file, array) do"
        ) from error
    except ImportError as error:
        raise MissingExtraError(
            f"reading {path!r} needs the package {error.name!r}; "
            + ("install PyTorch" if error.name == "torch" else "pip install 'actstore[formats]'")
        ) from error
    except (InvalidParameterError, InvalidDataError):
        raise
    except Exception as error:  # each format's library has exceptions of its own for damage
        raise InvalidDataError(f"{path!r} cannot be read: {error}; is it complete?") from error


class _Pickled(Exception):
    """An array of Python objects."""


def _choose(names: Sequence[str], key: str | None, usual: Sequence[str], path: str) -> str:
    if key is not None and key in names:
        return key
    if key is None and len(names) == 1:
        return names[0]
    for name in usual if key is None else ():
        if name in names:
            return name
    held = ", ".join(names) or "none"
    if not names:
        raise InvalidParameterError(
            f"{path!r} holds no array outside of groups; give a file of one run, or of one array"
        )
    if key is None:
        raise InvalidParameterError(
            f"{path!r} holds the arrays {held}; name one, as {path}{KEY}{(*names, 'KEY')[0]}"
        )
    raise InvalidParameterError(f"{path!r} holds no array {key!r}; it holds {held}")


def _npy(path: str, choose: Callable[[Sequence[str]], str]) -> Array:
    with open(path, "rb") as file:
        if file.read(2) == b"\x80\x04" or _is_object_array(file):
            raise _Pickled
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _is_object_array(file: Any) -> bool:
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    return version[0] in read and bool(read[version[0]](file)[2].hasobject)


def _npz(path: str, choose: Callable[[Sequence[str]], str]) -> Array:
    with np.load(path, allow_pickle=False) as archive:
        name = choose(archive.files)
        with archive.zip.open(f"{name}.npy") as member:
            head = member.read(4096)
        if b"'|O'" in head[:200]:
            raise _Pickled
        array: Array = archive[name]
        return array


def _torch(path: str, choose: Callable[[Sequence[str]], str]) -> Array:
    import torch

    # Files of PyTorch before 1.6 are no zip archives, and cannot stay on the disk.
    loaded = torch.load(
        path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path) or None
    )
    tensors = dict(_tensors(loaded, ""))
    return _numpy(tensors[choose(list(tensors))])


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every tensor of nested mappings and sequences, with its dotted name."""
    if hasattr(value, "detach"):
        yield name or "tensor", value
    elif isinstance(value, Mapping | list | tuple):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(part, f"{name}.{key}" if name else str(key))


def _numpy(tensor: Any) -> Array:
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none
        tensor = tensor.float()
    array: Array = tensor.detach().to_dense().numpy()
    return array


def _safetensors(path: str, choose: Callable[[Sequence[str]], str]) -> Array:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        name = choose(list(file.keys()))
        if file.get_slice(name).get_dtype() != "BF16":
            array: Array = file.get_tensor(name)
            return array
    import torch  # noqa: F401 - whose absence is to be named

    with safe_open(path, "pt") as file:
        return _numpy(file.get_tensor(name))


def _hdf5(path: str, choose: Callable[[Sequence[str]], str]) -> Array:
    import h5py

    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda n, node: names.append(n) if isinstance(node, h5py.Dataset) else None)
        return np.asarray(file[choose(names)])


def _xarray(path: str, choose: Callable[[Sequence[str]], str]) -> Array:
    import xarray as xr

    if path.rstrip("/").endswith(".zarr"):
        opened = xr.open_zarr(path, consolidated=False)
    else:
        with open(path, "rb") as file:
            classic = file.read(3) == b"CDF"
        if not classic:
            import h5netcdf  # noqa: F401 - whose absence is to be named
        opened = xr.open_dataset(path, engine="scipy" if classic else "h5netcdf")
    with opened as data:
        array: Array = data[choose([str(name) for name in data.variables])].to_numpy()
        return array


_READERS: dict[str, Callable[[str, Callable[[Sequence[str]], str]], Array]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".nc": _xarray,
    ".zarr": _xarray,
}
