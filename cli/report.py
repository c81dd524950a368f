"""``actstore report STORE -o FILE``: a store as one page for colleagues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .echo import echo
from .loading import libraries
from .options import check_workers, chosen_by, run_options, worker_options
from .output import said_once
from .questions import CRITERION, LAYER, RNG_SEED, SPLIT, SUBSETS
from .sections import OneStore

if TYPE_CHECKING:
    from actstore.report.answers import Progress


@click.command("report", cls=OneStore, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.option("-o", "--output", metavar="FILE", required=True, help="The page, .html.")
@run_options
@click.option(
    "--threshold", default=0.95, show_default=True, help="R² that makes a subset a clone."
)
@CRITERION
@SPLIT
@LAYER
@SUBSETS
@RNG_SEED
@worker_options
def command(
    store: str,
    output: str,
    width: Any,
    seed: Any,
    where: Any,
    run: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    **options: Any,
) -> None:
    """Write a page that judges each claim of the paper on the runs of STORE.

    One file of HTML that needs no network: for each setting of the hyper-parameters the verdicts
    with their numbers and what is missing, figures, tables that sort, parameters and provenance.

    \b
    actstore report digits.zarr -o report.html
    actstore report digits.zarr --threshold 0.98 -o report.html
    """
    check_workers(workers, scheduler)
    with libraries():
        import actstore
        from actstore.report import save
        from actstore.report.page import checked

    from . import compute

    checked(output)
    chosen = actstore.open(store).sel(run=list(run) or None, **chosen_by(width, seed, where))
    with (
        compute.planning(),
        compute.crew(workers, scheduler) as crew,
        crew.at_work(bar=False),  # the report has one of its own
        said_once(),
        _progress() as progress,
    ):
        save(chosen, output, progress=progress, **options)
    echo(f"wrote {output}", err=True)


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
