"""``actstore compact STORE --keep-bits N``: rewrite a store with fewer bits a value."""

from __future__ import annotations

from typing import Any

import click

from .echo import echo
from .options import chosen_by, run_options
from .waiting import waiting


@click.command("compact", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.option(
    "--keep-bits",
    type=int,
    required=True,
    help="Bits of mantissa to keep, of 23: 10 as in float16, 7 as in bfloat16.",
)
@run_options
@click.option("--dry-run", is_flag=True, help="Say how much the answers would change, and stop.")
def command(
    store: str,
    keep_bits: int,
    width: Any,
    seed: Any,
    where: Any,
    run: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Round the stored activations, run by run, and say how much the answers change.

    What is rounded cannot be had back. Every epoch stays readable all the while.

    \b
    actstore compact digits.zarr --keep-bits 10 --dry-run
    actstore compact digits.zarr --keep-bits 10
    """
    import actstore
    from actstore.storage.compaction import compact

    from .info import size

    chosen = actstore.open(store).sel(run=list(run) or None, **chosen_by(width, seed, where))
    done = []
    try:
        with waiting("measuring" if dry_run else "rounding") as told:
            for one in compact(chosen, keep_bits=keep_bits, dry_run=dry_run, progress=told):
                done.append(one)  # printed when no bar is in the way
    finally:
        for one in done:
            sizes = size(one.before) + (f" → {size(one.after)}" if one.after != one.before else "")
            echo(
                f"{one.outcome}: {one.run}: {sizes}\n  R² changes by {one.change.r2:.1g} at most, "
                f"residual correlation by {one.change.residual_correlation:.1g}"
            )
