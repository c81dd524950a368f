"""The tables of a report: headings and rows of plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr

from actstore.queries.table import frames, records
from actstore.report.answers import Answers
from actstore.store import Store


class Cell(NamedTuple):
    """A value as a person reads it, and the number that it is sorted by, if it is one."""

    text: str
    order: float | None = None


class Table(NamedTuple):
    """A table of the page."""

    key: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds nothing but numbers, which stand on the right."""
        columns = zip(*self.rows, strict=True)
        return [all(c.order is not None or not c.text for c in column) for column in columns]


#: question -> (title, columns in this order; others are left out, "*" is the hyper-parameters)
COLUMNS = {
    "scaling": (
        "Clones against width",
        "setting width seeds train_error test_error threshold critical_size n_clones n_clones_low "
        "n_clones_high",
    ),
    "laws": (
        "Growth with width",
        "setting threshold exponent exponent_low exponent_high window_low window_high "
        "critical_width critical_width_low critical_width_high clones_per_neuron",
    ),
    "noise": (
        "Residual correlation of the widest networks: consistent with independent noise?",
        "* width subset_size residual_correlation_heldout residual_correlation sampling_floor "
        "factors n_factors null null_low null_high excess verdict",
    ),
    "dynamics": (
        "Clones in training",
        "* width seed epoch train_error test_error critical_size n_clones effective_rank",
    ),
    "ensemble": (
        "Wide networks and ensembles",
        "contest rival average error_wide error_rival difference difference_low difference_high "
        "only_wide only_rival p_value winner",
    ),
    "seeds": ("Bias² and variance over seeds", "setting width bias2 variance squared_error"),
    "spectrum": (
        "Spectrum of the layer",
        "* width seed epoch fraction components_needed participation_ratio effective_rank",
    ),
}


def tables(answers: Answers, store: Store) -> list[Table]:
    """Return every table that there is something to say in."""
    found = [_runs(store)]
    for key, result in _parts(answers).items():
        title, words = COLUMNS[key]
        rows = [row for table in frames(result) for row in records(table)]
        names = [
            str(k) for k, c in result.coords.items()
            if c.dims == ("run",) and k not in ("run", "width", "seed")
        ]  # fmt: skip
        wanted = [name for word in words.split() for name in (names if word == "*" else [word])]
        for row in rows:
            if row.get("verdict"):  # the title has the other words
                row["verdict"] = str(row["verdict"]).replace(" with independent noise", "")
        kept = [name for name in wanted if any(row.get(name) is not None for row in rows)]
        if rows and kept:
            found.append(table_of(key, title, kept, rows))
    return found


def _parts(answers: Answers) -> dict[str, xr.Dataset]:
    """Return what each table is of: an answer, or the variables of it that share dims."""
    parts: dict[str, xr.Dataset] = {}
    for key, result in answers.found.items():
        if key not in COLUMNS:
            continue
        parts[key] = result
        if key == "scaling":
            by_width = [str(n) for n, v in result.data_vars.items() if "width" in v.dims]
            law = [
                str(n) for n, v in result.data_vars.items() if v.dims == ("setting", "threshold")
            ]
            parts["scaling"], parts["laws"] = result[by_width], result[law]
        if key == "ensemble":
            over_seeds = [str(n) for n, v in result.data_vars.items() if "contest" not in v.dims]
            parts["ensemble"] = result.drop_vars(over_seeds)
            parts["seeds"] = result[over_seeds]
    return {key: result for key, result in parts.items() if result.data_vars}


def _runs(store: Store) -> Table:
    rows = records(store.runs.reset_index())
    heads = [name for name in rows[0] if name != "run"] if rows else []
    return table_of("runs", "Runs", ["run", *heads], rows)


def table_of(
    key: str, title: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> Table:
    """Return a table of these columns."""
    # below two there are none: that is an answer, and less than any number of clones
    none = {"n_clones": Cell("none", 0.0)}
    cells = [
        [none[h] if h in none and row.get(h) is None else cell(row.get(h)) for h in heads]
        for row in rows
    ]
    return Table(key, title, [head.replace("_", " ") for head in heads], cells)


def cell(value: Any) -> Cell:
    """Return one value as a person reads it.

    Examples
    --------
    >>> cell(0.012345), cell(None).text
    (Cell(text='0.01235', order=0.012345), '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    if isinstance(value, int):
        return Cell(str(value), float(value))
    if isinstance(value, float):
        return Cell(f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}", value)
    return Cell(value if isinstance(value, str) else json.dumps(value, default=str))


def provenance(store: Store) -> list[tuple[str, str]]:
    """Return what the runs say of their making: each key, with the values that differ."""
    values: dict[str, dict[str, None]] = {}
    for run in store.values():
        known = dict(run.attrs.get("provenance") or {})
        told = known.pop("configuration", None)
        settings = told if isinstance(told, Mapping) else {}
        facts = {"model": run.attrs.get("model"), "dataset": run.attrs.get("dataset"),
                 **known, **settings}  # fmt: skip
        for key, value in facts.items():
            if value not in (None, ""):
                values.setdefault(str(key), {})[cell(value).text] = None
    return [(key, _joined(list(seen))) for key, seen in values.items()]


def _joined(seen: Sequence[str], most: int = 6) -> str:
    rest = f", … ({len(seen)} values)" if len(seen) > most else ""
    return ", ".join(seen[:most]) + rest
