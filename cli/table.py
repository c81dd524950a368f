"""Rows as a table of text that fits a terminal."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

Rows: TypeAlias = list[dict[str, Any]]
#: a row as it is printed, by column
Cells: TypeAlias = dict[str, str]
#: words of a heading; "n clones" is one
_WORDS = re.compile(r"n clones|\S+")
#: columns of a table
WIDTH = 80
#: what tells the rows of a table apart, beside the settings
KEYS = (
    "run", "contest", "rival", "average", "setting", "width", "seed", "epoch", "split",
    "subset_size", "threshold", "factors", "fraction",
)  # fmt: skip


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
    widths = [max(_length(line[k]) for line in [*lines, *cells]) for k in range(len(columns))]
    out = [
        (" " * gap)
        .join(
            " " * (width - _length(text)) + text for text, width in zip(line, widths, strict=True)
        )
        .rstrip()
        for line in [*lines, ["-" * w for w in widths], *cells]
    ]
    return "\n".join(out)


def _head(column: str) -> str:
    return column.replace("_", " ").rstrip("…")


def _length(text: str) -> int:
    """Return the columns of a terminal that a text takes: some characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _width(text: str) -> int:
    return max(map(_length, text.splitlines()))


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
    return " ".join(str(value).split())


def _heads(heads: Sequence[str], cells: Sequence[list[str]]) -> list[list[str]]:
    """Break long headings over lines."""
    split = []
    for k, head in enumerate(heads):
        room = max(7, *(_length(row[k]) for row in cells))
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
