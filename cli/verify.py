"""``actstore verify STORE``: look for damage, and mend what can be mended."""

from __future__ import annotations

import json

import click

from .echo import echo
from .options import counted
from .waiting import waiting


@click.command("verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.option("--deep", is_flag=True, help="Read every value and compute cached moments anew.")
@click.option(
    "--repair",
    is_flag=True,
    help="Remove what killed writers left and caches that are wrong; committed data stay.",
)
@click.option(
    "--drop-epoch",
    type=(str, int),
    metavar="RUN EPOCH",
    multiple=True,
    help="With --repair: take this epoch out of this run, for good. Repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Form of the findings on stdout.",
)
@click.pass_context
def command(
    ctx: click.Context,
    store: str,
    deep: bool,
    repair: bool,
    drop_epoch: tuple[tuple[str, int], ...],
    form: str,
) -> None:
    """Look for damage in a store, one line a finding; the exit code is 1 if there is any.

    \b
    actstore verify digits.zarr
    actstore verify digits.zarr --deep --repair
    actstore verify digits.zarr --repair --drop-epoch width=256,seed=0 40
    """
    from actstore.storage import repair as mending
    from actstore.storage.verify import verify

    if drop_epoch and not repair:
        raise click.UsageError("--drop-epoch removes data: give --repair too")
    for run, epoch in drop_epoch:
        mending.drop_epoch(store, run, epoch)
        echo(f"epoch {epoch} of run {run} was dropped", err=True)
    with waiting("verifying") as told:
        found = (mending.repair if repair else verify)(store, deep=deep, progress=told)
    if form == "json":
        rows = [
            {"kind": one.kind, "path": one.path, "problem": one.problem, "mends": one.action}
            for one in found
        ]
        click.echo(json.dumps({"findings": rows}, indent=1))
    else:
        for one in found:
            echo(str(one))
    damaged = sum(one.kind == "damage" for one in found)
    mendable = sum(bool(one.action) for one in found)
    echo(
        f"{store}: {counted(len(found), 'finding')}, {damaged} of them damage to committed data"
        + (f"; --repair mends {mendable}" if mendable else "")
        if found
        else f"{store}: nothing found" + ("" if deep else "; --deep reads every value too"),
        err=True,
    )
    if found:
        ctx.exit(1)
