"""Where data sets are looked for, and what is said when one is not there."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from actstore.errors import DatasetNotFoundError, StoreCorruptError

DEFAULT_FOLDER: Final = "data"  # torchvision's own examples keep data sets there


def not_found(name: str, looked: Sequence[Path], remedy: str) -> DatasetNotFoundError:
    """Return the error that says where a data set was looked for and how to get it."""
    places = " and in ".join(repr(str(path)) for path in looked)
    return DatasetNotFoundError(f"{name} was looked for in {places} and is not there; {remedy}")


def from_torchvision(
    name: str,
    make: Callable[..., Any],
    folder: Path,
    *,
    download: bool,
    also: Sequence[Path] = (),
    remedy: str = "",
) -> tuple[Any, Any]:
    """Return torchvision's train and test set.

    Parameters
    ----------
    name
        Of the data set, in words.
    make
        torchvision's class.
    folder
        Its ``root``.
    download
        Fetch what is missing.
    also, remedy
        Where else it was looked for; another way to get it.

    Raises
    ------
    DatasetNotFoundError
        If the files are not there and ``download`` is not set, or cannot be had.
    """
    is_new = not folder.exists()
    try:
        train, test = (make(root=folder, train=train, download=download) for train in (True, False))
    except (RuntimeError, OSError) as error:
        if download:
            if is_new:
                _remove_empty(folder)
            raise DatasetNotFoundError(
                f"{name} could not be downloaded into {str(folder)!r} ({error}); get its files on "
                "a machine with a network and give their folder (--data-dir)"
            ) from error
        raise not_found(
            name,
            [folder, *also],
            f"give its folder (--data-dir), or download it (--download){remedy}",
        ) from error
    return train, test


def _remove_empty(folder: Path) -> None:
    """Remove the folders that a download began with, as far as nothing came into them."""
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        with contextlib.suppress(OSError):
            path.rmdir()


def read_idx(path: Path) -> Tensor:
    """Return the bytes of an idx file, as MNIST and its like are distributed: gzip or plain.

    Raises
    ------
    StoreCorruptError
        If it is not an idx file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = raw[3]
        shape = np.frombuffer(raw, ">i4", count=dims, offset=4).tolist()
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise StoreCorruptError(
            f"{str(path)!r} cannot be read as an idx file of bytes; get it again"
        ) from error
    return torch.from_numpy(values.copy())
