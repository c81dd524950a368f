"""``actstore merge STORE OTHERS…``: copy the runs of other stores into one."""

from __future__ import annotations

from typing import Any

import click

from .echo import echo
from .waiting import waiting


@click.command("merge", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.argument("others", nargs=-1, required=True, type=click.Path())
@click.option(
    "--existing",
    type=click.Choice(["error", "skip", "overwrite"]),
    default="error",
    show_default=True,
    help="A run of one name that differs: an error, keep that of STORE, or take the other.",
)
def command(store: str, others: tuple[str, ...], existing: Any) -> None:
    """Copy the runs of OTHERS into STORE, which is made if there is none.

    Damaged runs are refused before anything is copied, and each run appears whole.

    \b
    actstore merge all.zarr machine1.zarr machine2.zarr
    """
    from actstore.storage.merging import merge

    with waiting("copying") as told:
        merged = merge(store, others, existing=existing, progress=told)
    for one in merged:
        echo(f"{one.outcome}: {one.run} of {one.store}")
