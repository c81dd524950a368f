"""``actstore plot QUESTION STORE -o FILE``: a query, drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from . import output
from .groups import Group
from .options import (
    check_workers,
    chosen_by,
    compute_options,
    epochs,
    selection_options,
    worker_options,
)
from .query import HELP, ask
from .questions import CRITERION, LAYER, QUESTIONS, RNG_SEED, THRESHOLD, WINDOW, Question

#: an answer of moments is a matrix a run: there is no figure of it
DRAWN = [question for question in QUESTIONS if question.name != "moments"]
FILE = click.option(
    "-o", "--output", "plot", metavar="FILE", required=True, help=".png, .svg or .pdf."
)


def build(question: Question) -> click.Command:
    """Build the command that draws the answer to a question."""

    def run(store: str, plot: str, **options: Any) -> None:
        ask(question, store, form="none", output=None, plot=plot, **options)

    run.__doc__ = question.text.replace("actstore query", "actstore plot").partition("\b")[0]
    run.__doc__ += f"\b\n        actstore plot {question.name} digits.zarr -o {question.name}.png"
    decorated: Callable[..., Any] = compute_options(cached=question.cached)(run)
    for add in (FILE, *reversed(question.options)):
        decorated = add(decorated)
    decorated = selection_options(question.epoch)(decorated)
    decorated = click.argument("store", type=click.Path())(decorated)
    return click.command(question.name, short_help=question.asks, context_settings=HELP)(decorated)


@click.group("plot", cls=Group, context_settings=HELP)
def command() -> None:
    """Draw the answer to a question into a file.

    The options are those of ``actstore query``, and so is the answer.

    \b
    actstore plot scaling digits.zarr --threshold 0.98 -o scaling.png
    actstore plot reconstruction digits.zarr --width 256 -o reconstruction.svg
    """


@command.command(
    "paper", short_help="The panels of the paper's main figure.", context_settings=HELP
)
@click.argument("store", type=click.Path())
@selection_options("-1")
@THRESHOLD
@CRITERION
@WINDOW
@RNG_SEED
@LAYER
@FILE
@worker_options
def paper(
    store: str, plot: str, workers: int | None, scheduler: str | None, **options: Any
) -> None:
    """Draw the panels of the paper's main figure: R², noise and error of subsets, and clones.

    \b
    actstore plot paper digits.zarr --threshold 0.98 -o paper.pdf
    """
    check_workers(workers, scheduler)
    output.check_plot(plot)
    import actstore
    from actstore import plotting, queries

    from . import compute

    chosen = chosen_by(*(options.pop(key) for key in ("width", "seed", "where")))
    named, epoch = list(options.pop("run")) or None, epochs(options.pop("epoch"))
    runs = actstore.open(store).sel(run=named, **chosen)
    runs = runs.narrow(lambda run: run.select(epoch) if len(run.committed) else run)
    shared = {"rng_seed": options.pop("rng_seed"), "layer": options.pop("layer")}
    asked = {
        "reconstruction": queries.reconstruction(runs, **shared),
        "noise": queries.noise(runs, **shared),
        "error": queries.error(runs, splits="test", **shared),
        "scaling": queries.scaling(runs, **options, **shared),
    }
    with compute.crew(workers, scheduler) as crew, crew.at_work():
        answers = {name: answer.compute() for name, answer in asked.items()}
    plotting.save_paper(answers, plot)
    click.echo(f"drew {plot}", err=True)


for _question in DRAWN:
    command.add_command(build(_question))
