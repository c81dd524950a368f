"""Writing an answer: rows to stdout, arrays to a file, a figure."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import re
import shutil
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.cells import cell_len

from actstore.errors import ActstoreError, InvalidParameterError, MissingExtraError

if TYPE_CHECKING:
    import xarray as xr

Rows = list[dict[str, Any]]
#: a row as it is printed, by column
Cells: TypeAlias = dict[str, str]
_CONTROL = re.compile(r"[^\n\t -~\u00a0-\U0010ffff]")
#: words of a heading; "n clones" is one
_WORDS = re.compile(r"n clones|\S+")
#: columns of a table
WIDTH = 80
#: what tells the rows of a table apart, beside the settings
KEYS = (
    "run", "contest", "rival", "average", "setting", "width", "seed", "epoch", "split",
    "subset_size", "threshold", "factors", "fraction",
)  # fmt: skip


def write_rows(rows: Rows, form: str, *, query: str, parameters: dict[str, Any]) -> None:
    """Print rows as JSON or CSV; a table is the business of :func:`table`."""
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
    click.echo(f"saved {path}", err=True)


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


def table(rows: Rows, columns: Sequence[str], *, settings: Sequence[str] = ()) -> str:
    """Return rows as text, numbers to four digits, right-aligned, in 80 columns.

    A column ``x…`` shows x with its interval, from the columns ``x_low`` and ``x_high``. Columns
    without any value are left out, but for the number of clones: that there are none is an answer.
    Where the table would be too wide, what is the same in every row is said once above it, and
    rows stand in groups by what their first column says before a colon; then in groups by
    ``settings``, one after another; and at last their values stand in several tables.
    """
    if not rows:
        return "no rows"
    kept = [c for c in columns if _is_shown(c.rstrip("…"), rows)]
    cells = [{c: _of(row, c) for c in kept} for row in rows]
    whole = _set(kept, cells)
    if _width(whole) <= WIDTH:
        return whole
    same = [
        c for c in kept if len(rows) > 1 and c != "n_clones" and len({row[c] for row in cells}) == 1
    ]
    if len(same) == len(kept):  # of rows that are all alike, too
        same = same[1:]
    said = [_said(same, cells[0])] if same else []
    left = [c for c in kept if c not in same]
    moved = [c for c in left if c in settings]
    for n in range(len(moved) + 1):
        narrow = [c for c in left if c not in moved[:n]]
        groups = _grouped(narrow, moved[:n], cells)
        for gap in (2, 1):
            parts = [(name, _set(narrow, part, gap)) for name, part in groups]
            if max(_width(part) for _, part in parts) <= WIDTH:
                return _under(said, parts)
    stacks = [
        (name, "\n\n".join(_set(stack, part) for stack in _stacks(narrow, part)))
        for name, part in groups
    ]
    return _under(said, stacks)


def unnamed(rows: Rows, settings: Sequence[str]) -> bool:
    """Whether runs have settings, width and seed in common: their names tell them apart."""
    keys = ("width", "seed", *settings)
    runs = {row["run"]: tuple(str(row.get(key)) for key in keys) for row in rows if "run" in row}
    return len(set(runs.values())) < len(runs)


def _said(columns: Sequence[str], row: Cells) -> str:
    """Say what is in these columns in words, over as many lines as it takes."""
    return textwrap.fill(", ".join(f"{_head(c)} {row[c]}" for c in columns), WIDTH)


def _under(said: list[str], parts: list[tuple[str, str]]) -> str:
    """Put each table under the name of its group, and all under what is said of every row."""
    return "\n\n".join([*said, *(f"{name}\n{part}".lstrip("\n") for name, part in parts)])


def _grouped(
    columns: Sequence[str], by: Sequence[str], rows: list[Cells]
) -> list[tuple[str, list[Cells]]]:
    """Return the rows of each group, and its name: what its rows have alike."""
    groups: dict[str, list[Cells]] = {}
    for row in rows:
        group, colon, first = row[columns[0]].rpartition(": ")
        words = [_said(by, row)] if by else []
        words += [textwrap.fill((group + colon).rstrip(), WIDTH)] if group else []
        groups.setdefault("\n".join(words), []).append({**row, columns[0]: first})
    return list(groups.items())


def _stacks(columns: Sequence[str], rows: list[Cells]) -> list[list[str]]:
    """Deal columns over tables that fit, each with those that tell its rows apart."""
    keys = [c for c in columns if c in KEYS]
    stacks: list[list[str]] = [keys]
    for column in columns:
        if column in keys:
            continue
        if stacks[-1] != keys and _width(_set([*stacks[-1], column], rows)) > WIDTH:
            stacks.append(keys)
        stacks[-1] = [*stacks[-1], column]
    return stacks


def _set(columns: Sequence[str], rows: list[Cells], gap: int = 2) -> str:
    """Set columns side by side under their headings, with a gap between them."""
    cells = [[row[c] for c in columns] for row in rows]
    lines = _heads([_head(c) for c in columns], cells)
    widths = [max(cell_len(line[k]) for line in [*lines, *cells]) for k in range(len(columns))]
    out = [
        (" " * gap)
        .join(
            " " * (width - cell_len(text)) + text for text, width in zip(line, widths, strict=True)
        )
        .rstrip()
        for line in [*lines, ["-" * w for w in widths], *cells]
    ]
    return "\n".join(out)


def _head(column: str) -> str:
    return column.replace("_", " ").rstrip("…")


def _width(text: str) -> int:
    return max(map(cell_len, text.splitlines()))


def _is_shown(name: str, rows: Rows) -> bool:
    answers = name == "n_clones" and name in rows[0]
    return answers or any(row.get(name) is not None for row in rows)


def _of(row: dict[str, Any], column: str) -> str:
    if not column.endswith("…"):
        return cell(row[column])
    name = column.rstrip("…")
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if row[name] is None or low is None or high is None:
        return cell(row[name])
    return f"{cell(row[name])} ({low:.3g}…{high:.3g})"


def cell(value: Any) -> str:
    """Return one value as a person reads it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
            return str(int(value))
        return f"{value:.4g}"
    return " ".join(plain(str(value)).split())


def plain(text: str) -> str:
    """Return a text that no terminal takes for commands, whoever wrote what is quoted in it.

    Examples
    --------
    >>> plain("the run 'a\\x1b[2Jb'")
    "the run 'a�[2Jb'"
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _heads(heads: Sequence[str], cells: Sequence[list[str]]) -> list[list[str]]:
    """Break long headings over lines."""
    split = []
    for k, head in enumerate(heads):
        room = max(7, *(cell_len(row[k]) for row in cells))
        lines = [""]
        for word in _WORDS.findall(head):
            if lines[-1] and len(lines[-1]) + 1 + len(word) > room:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".strip()
        split.append(lines)
    height = max(len(lines) for lines in split)
    return [
        [lines[i - (height - len(lines))] if i >= height - len(lines) else "" for lines in split]
        for i in range(height)
    ]


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
