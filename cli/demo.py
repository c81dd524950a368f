"""``actstore demo [DIR]``: the whole way once, on scikit-learn's digits."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from .echo import echo

WEIGHT_DECAYS = (0.005, 0.0)
THRESHOLD = 0.98


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False))
@click.option("--quiet", is_flag=True, help="No progress.")
def command(folder: str, quiet: bool) -> None:
    """Record, query and plot the digits sweep in about a minute.

    Trains networks of 8 to 512 neurons on scikit-learn's digits, with weight decay and without,
    records them into DIR/digits.zarr, prints the number of clones by width, and draws it into
    DIR/digits.png. What is already recorded is not trained again.

    \b
    actstore demo
    actstore demo ~/clones
    """
    if "://" in folder:
        raise click.UsageError(
            "the demonstration draws into a folder; 'actstore record URL --recipe digits' records "
            "into a bucket"
        )
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(
            f"the folder {folder!r} cannot be made ({error.strerror}); give another"
        ) from error
    store, figure = where / "digits.zarr", where / "digits.png"
    names = _recorded(str(store), quiet)
    _answer(str(store), names, str(figure))
    named = shlex.quote(str(store))
    echo(
        f"""
next:{activation()}
  actstore query clones {named} --width 256 --threshold {THRESHOLD} --strategy greedy
  actstore query noise {named} --width 256
  actstore runs {named}
  actstore report {named} -o report.html""",
        err=True,
    )


def activation() -> str:
    """Return the line that makes the command known to a shell that does not know it."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("actstore") or not script.exists():
        return ""
    return f"\n  source {shlex.quote(os.path.relpath(script))}"


def _recorded(store: str, quiet: bool) -> list[str]:
    """Train what the store does not hold yet; return the names of the runs."""
    from actstore import schema
    from actstore.errors import StoreNotFoundError
    from actstore.storage.catalogue import Catalogue

    from .record import interrupted, record_plans

    widths = [2**k for k in range(3, 10)]
    names = [
        schema.run_name(width, 0, {"weight_decay": decay})
        for decay in WEIGHT_DECAYS
        for width in widths
    ]
    try:
        held = Catalogue(store)
        if all(name in held and held[name].complete for name in names):
            return names  # without importing torch
    except StoreNotFoundError:
        if Path(store).exists():  # something else lies there, and stays
            raise
    from actstore.training import RECIPES, plan_sweep

    decays: list[Any] = list(WEIGHT_DECAYS)
    plans = plan_sweep(RECIPES["digits"], widths=widths, seeds=[0], values={"weight_decay": decays})
    try:
        record_plans(store, plans, resume=True, quiet=quiet)
    except KeyboardInterrupt:
        echo(f"\n{interrupted(store, plans)}", err=True)
        echo("'actstore demo' goes on where it stopped", err=True)
        raise SystemExit(130) from None
    return names


def _answer(store: str, names: list[str], figure: str) -> None:
    import actstore
    from actstore import plotting

    from .query import table_of
    from .questions import question

    selected = actstore.open(store).sel(run=names)
    answer = selected.scaling(threshold=THRESHOLD, criterion="paper").compute()
    echo(table_of(question("scaling"), answer))
    plotting.save("scaling", answer, figure)
    echo(f"\ndrew {figure}", err=True)
