"""Files of other programs at URLs: brought to this machine to be read, and sent there whole."""

from __future__ import annotations

from pathlib import Path

from actstore.errors import RunExistsError, StoreNotFoundError
from actstore.storage.location import files_at
from actstore.storage.seal import DOCUMENT


def fetch(url: str, folder: Path) -> Path:
    """Copy a file, or a Zarr hierarchy, from a URL into a folder of this machine.

    Returns
    -------
    Path
        Of the copy, with its name in the URL.

    Raises
    ------
    StoreNotFoundError
        If nothing is there.
    StoreUnreachableError
        If the server does not answer, or lets these credentials not read.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    files, copy = files_at(above, read_only=True), folder / name
    keys = [name] if not name.endswith(".zarr") else list(files.sizes(name))
    try:
        for key in keys:
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            files.fetch(key, path)
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"no file {url!r}; check the URL") from error
    if not keys:
        raise StoreNotFoundError(f"no Zarr hierarchy {url!r}; check the URL")
    return copy


def send(path: Path, url: str, *, overwrite: bool) -> None:
    """Copy a file, or a Zarr hierarchy, to a URL: there whole, or not to be opened.

    Of a hierarchy the ``zarr.json`` of its root is sent last.

    Raises
    ------
    RunExistsError
        If something is there, and ``overwrite`` is false or it is a store.
    StoreWriteError
        If nothing can be put whole there.
    OSError
        If the server refuses.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    files = files_at(above)
    check_free(url, overwrite=overwrite)
    if files.has_folder(name):
        files.remove_tree(name)
    if not path.is_dir():
        files.send(name, path)
        return
    root = path / DOCUMENT
    for part in sorted(path.rglob("*"), key=lambda one: (one == root, one)):
        if part.is_file():
            files.send(f"{name}/{part.relative_to(path).as_posix()}", part)


def check_free(url: str, *, overwrite: bool) -> None:
    """Raise unless a file may be written at a URL.

    Raises
    ------
    RunExistsError
        See :func:`send`.
    StoreWriteError
        If nothing can be put whole there.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    files = files_at(above)
    is_folder = files.has_folder(name)
    if not (is_folder or files.has(name)):
        return
    if not overwrite:
        raise RunExistsError(f"{url!r} exists; give another name, or --overwrite it")
    document = f"{name}/{DOCUMENT}"
    if is_folder and (not files.has(document) or b"actstore_format" in files.read(document)):
        raise RunExistsError(
            f"{url!r} is a store or a folder of something else, and is not replaced; give "
            "another name, or remove it first"
        )
