"""Writing an answer: rows to stdout as JSON or CSV, arrays to a file, a figure."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.errors import ActstoreError, InvalidParameterError, MissingExtraError

from .echo import echo
from .table import Rows

if TYPE_CHECKING:
    import xarray as xr


def write_rows(rows: Rows, form: str, *, query: str, parameters: dict[str, Any]) -> None:
    """Print rows as JSON or CSV; a table is the business of :mod:`.table`."""
    if form == "json":
        click.echo(as_json({"query": query, "parameters": parameters, "rows": rows}, indent=1))
    elif form == "csv":
        text = io.StringIO()
        _csv(rows, text)
        click.echo(text.getvalue(), nl=False)


def as_json(answer: Any, *, indent: int | None = None) -> str:
    """Return JSON, which has no NaN and no infinity: they are null."""
    return json.dumps(_finite(answer), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(path: str, result: xr.Dataset, rows: Rows, parameters: dict[str, Any]) -> None:
    """Save an answer: arrays whole as ``.zarr`` or ``.nc``, or rows as ``.csv`` or ``.json``.

    The file appears whole or not at all.
    """
    check_output(path)
    suffix = Path(path).suffix
    aside = f"{path}.{os.getpid()}.partial"
    try:
        if suffix == ".zarr":
            _to_zarr(result, aside)
        elif suffix == ".nc":
            _without_lists(result).to_netcdf(aside, engine="scipy")
        elif suffix == ".csv":
            with open(aside, "w", newline="", encoding="utf-8") as file:
                _csv(rows, file)
        else:
            answer = {"query": result.attrs["query"], "parameters": parameters, "rows": rows}
            Path(aside).write_text(as_json(answer, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        _remove(Path(aside))
        raise ActstoreError(
            f"{path!r} cannot be written ({error.strerror or error}); give another place to -o"
        ) from error
    echo(f"saved {path}", err=True)


def _without_lists(result: xr.Dataset) -> xr.Dataset:
    """Write lists of words as one text, as the command line takes them: NetCDF 3 has none."""
    words = {
        key: ",".join(map(str, value))
        for key, value in result.attrs.items()
        if isinstance(value, list) and any(isinstance(one, str) for one in value)
    }
    return result.assign_attrs(words)


def _remove(path: Path) -> None:
    """Remove what was written of a file or a folder, if anything was."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def said_once() -> Iterator[None]:
    """Show a warning once, though several questions give it with other numbers."""
    shown: set[str] = set()
    show = warnings.showwarning

    def once(message: Warning | str, *place: Any, **more: Any) -> None:
        words = re.sub(r"[\d.]+", "#", str(message))
        if words not in shown:
            shown.add(words)
            show(message, *place, **more)

    with warnings.catch_warnings():
        warnings.showwarning = once
        yield


def check_output(path: str | None) -> None:
    """Refuse a file name of a kind that cannot be written, before anything is computed."""
    if path is None:
        return
    if Path(path).suffix not in (".zarr", ".nc", ".csv", ".json"):
        raise InvalidParameterError(
            f"-o {path} was asked for; it ends in .zarr, .nc, .csv or .json"
        )
    if Path(path).suffix == ".zarr" and Path(path).exists():
        raise InvalidParameterError(f"{path!r} exists; give another name to -o, or remove it first")
    _check_place(Path(path), f"-o {path}")


def check_plot(path: str | None) -> None:
    """Refuse a figure that cannot be drawn, before anything is computed."""
    if path is None:
        return
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InvalidParameterError(
            f"a figure {path!r} was asked for; it ends in .png, .svg or .pdf"
        )
    _check_place(Path(path), f"the figure {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            "figures need matplotlib, which is not installed; pip install 'actstore[plot]'"
        )


def _check_place(path: Path, what: str) -> None:
    """Refuse a place where no file can be put, before anything is computed."""
    folder = path.parent
    if "://" in what:
        raise InvalidParameterError(f"{what} is at a URL; give a file of this machine, and copy it")
    if not folder.is_dir():
        raise InvalidParameterError(f"there is no folder {str(folder)!r} for {what}; make it first")
    if path.is_dir():
        raise InvalidParameterError(f"{str(path)!r} is a folder; give another name for {what}")
    if not os.access(folder, os.W_OK):
        raise InvalidParameterError(
            f"nothing may be written in {str(folder)!r}; give another place for {what}"
        )


def _csv(rows: Rows, file: Any) -> None:
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)


def _to_zarr(result: xr.Dataset, path: str) -> None:
    with warnings.catch_warnings():
        # Zarr 3 has no specification of strings and of consolidated metadata yet; both are only
        # read back by xarray, which would warn of their absence
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", message=".*Consolidated metadata is currently not part.*")
        result.to_zarr(path, mode="w", consolidated=True)
