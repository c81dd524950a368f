"""``actstore report STORE -o FILE``: a store as one page for colleagues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from .options import Numbers, Setting, chosen_by
from .questions import CRITERION, LAYER, RNG_SEED, SPLIT, SUBSETS

if TYPE_CHECKING:
    from actstore.report.answers import Progress


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.option("-o", "--output", metavar="FILE", required=True, help="The page, .html.")
@click.option("--width", type=Numbers(), multiple=True, help="Only runs of this width, or 64,256.")
@click.option("--seed", type=Numbers(), multiple=True, help="Only runs of this seed, or 0,1,2.")
@click.option(
    "--where",
    type=Setting(),
    multiple=True,
    help="Only runs with this setting, such as weight_decay=0.005.",
)
@click.option(
    "--threshold", default=0.95, show_default=True, help="R² that makes a subset a clone."
)
@CRITERION
@SPLIT
@LAYER
@SUBSETS
@RNG_SEED
@click.option("--workers", type=click.IntRange(1), help="Use this many processes.")
@click.option("--scheduler", metavar="ADDRESS", help="Use a running dask scheduler.")
def command(
    store: str,
    output: str,
    width: Any,
    seed: Any,
    where: Any,
    workers: int | None,
    scheduler: str | None,
    **options: Any,
) -> None:
    """Write a page that judges each claim of the paper on the runs of STORE.

    One file of HTML that needs no network: for each setting of the hyper-parameters the verdicts
    with their numbers and what is missing, figures, tables that sort, parameters and provenance.

    \b
    actstore report digits.zarr -o report.html
    actstore report digits.zarr --threshold 0.98 --criterion paper -o report.html
    """
    if workers and scheduler:
        raise click.UsageError("--workers and --scheduler were both given; give one of them")
    import actstore
    from actstore.report import save
    from actstore.report.page import checked

    checked(output)
    chosen = actstore.open(store).sel(**chosen_by(width, seed, where))
    with _computing(workers, scheduler), _progress() as progress:
        save(chosen, output, progress=progress, **options)
    click.echo(f"wrote {output}", err=True)


@contextmanager
def _computing(workers: int | None, address: str | None) -> Iterator[None]:
    """Compute on threads, or where ``actstore query`` would; the bar is the report's own."""
    import os

    from . import compute

    with ExitStack() as opened:
        opened.enter_context(compute.planning())
        if workers is None and address is None:
            import dask
            import dask.threaded

            opened.enter_context(
                dask.config.set(scheduler=dask.threaded.get, num_workers=os.cpu_count())
            )
        else:
            opened.enter_context(compute.scheduler(workers, address, os.cpu_count() or 1))
        yield


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar over the questions on a terminal's stderr; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("opening", total=None)

        def told(question: str, done: int, of: int) -> None:
            bars.update(task, description=question, completed=done, total=of)

        yield told
