"""``actstore runs STORE``: the runs of a store as a table."""

from __future__ import annotations

from typing import Any

import click

from . import output
from .echo import echo
from .options import chosen_by, run_options
from .table import table, unnamed
from .waiting import waiting


@click.command("runs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@run_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Form of the rows on stdout.",
)
def command(store: str, width: Any, seed: Any, where: Any, run: tuple[str, ...], form: str) -> None:
    """List the runs of a store: settings, epochs stored, last errors.

    \b
    actstore runs digits.zarr
    actstore runs digits.zarr --where weight_decay=0.005 --format json
    """
    import actstore

    with waiting("opening"):
        chosen = actstore.open(store).sel(run=list(run) or None, **chosen_by(width, seed, where))
        found = chosen.runs.reset_index()
    found = found.astype(object).where(found.notna(), None)
    rows = [{str(k): v for k, v in row.items()} for row in found.to_dict("records")]
    if form == "json":
        click.echo(output.as_json({"rows": rows}, indent=1))
    elif form == "csv":
        output.write_rows(rows, form, query="runs", parameters={})
    else:
        settings = {key for held in chosen.values() for key in held.hyper_parameters}
        alike = unnamed(rows, sorted(settings))
        columns = [c for c in found.columns if c != "run" or alike]
        told = table(rows, columns, settings=sorted(settings)) if rows else None
        echo(told or f"{store} holds no run yet")
