"""``actstore rm STORE``: remove runs or epochs."""

from __future__ import annotations

import sys
from typing import Any

import click

from .echo import echo
from .options import chosen_by, counted, epochs, run_options
from .waiting import waiting


@click.command("rm", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@run_options
@click.option(
    "--epoch", help="Remove these epochs (-1; 1,5,10; 10:50) of the runs, and not the runs."
)
@click.option("--all", "every", is_flag=True, help="All runs of the store.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and stop.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
def command(
    store: str,
    width: Any,
    seed: Any,
    where: Any,
    run: tuple[str, ...],
    epoch: str | None,
    every: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove the selected runs, or epochs of them, for good.

    It says what it is to remove, and asks.

    \b
    actstore rm digits.zarr --width 8,16 --dry-run
    actstore rm digits.zarr --width 8,16 --yes
    actstore rm digits.zarr --where weight_decay=0 --epoch 1:99
    """
    import actstore
    from actstore.storage.removal import plan_removal, remove

    from .info import size

    if not (width or seed or where or run or every or epoch is not None):
        raise click.UsageError("nothing is selected: give --run, --width, --where … or --all")
    chosen = actstore.open(store).sel(
        run=list(run) or None,
        epoch=None if epoch is None else epochs(epoch),
        **chosen_by(width, seed, where),
    )
    whole = epoch is None
    with waiting("looking"):
        planned = plan_removal(chosen, whole=whole)
    for one in planned:
        echo(f"{one} ({size(one.bytes)})")
    total = size(sum(one.bytes for one in planned))
    what = counted(len(planned), "run")
    what = what if whole else f"epochs of {what}"
    if dry_run:
        echo(f"{store}: {what}, {total}, would be removed", err=True)
        return
    if not yes and not click.confirm(f"remove {what}, {total}, from {store}?", err=True):
        echo(f"{store}: nothing removed", err=True)
        sys.exit(1)
    with waiting("removing") as told:
        remove(chosen, whole=whole, progress=told)
    echo(f"{store}: {what}, {total}, removed", err=True)
