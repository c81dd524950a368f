"""``actstore plot QUESTION STORE -o FILE``: a query, drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import click

from . import output
from .echo import echo
from .groups import Group
from .loading import libraries
from .options import check_workers, compute_options, selection_options
from .query import HELP, ask, selected
from .questions import (
    CRITERION,
    LAYER,
    QUESTIONS,
    RNG_SEED,
    SPLIT,
    SUBSETS,
    THRESHOLD,
    WINDOW,
    Question,
)
from .sections import OneStore
from .waiting import waiting

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
    return click.command(
        question.name, cls=OneStore, short_help=question.asks, context_settings=HELP
    )(decorated)


@click.group("plot", cls=Group, context_settings=HELP)
def command() -> None:
    """Draw the answer to a question into a file.

    The options are those of ``actstore query``, and so is the answer.

    \b
    actstore plot scaling digits.zarr --threshold 0.98 -o scaling.png
    actstore plot reconstruction digits.zarr --width 256 -o reconstruction.svg
    """


@command.command(
    "paper",
    cls=OneStore,
    short_help="The panels of the paper's main figure.",
    context_settings=HELP,
)
@click.argument("store", type=click.Path())
@selection_options("-1")
@THRESHOLD
@CRITERION
@WINDOW
@SUBSETS
@RNG_SEED
@SPLIT
@LAYER
@FILE
@compute_options(cached=True)
def paper(
    store: str,
    plot: str,
    workers: int | None,
    scheduler: str | None,
    memory: str | None,
    explain: bool,
    **options: Any,
) -> None:
    """Draw the panels of the paper's main figure: R², noise and error of subsets, and clones.

    \b
    actstore plot paper digits.zarr --threshold 0.98 -o paper.pdf
    """
    check_workers(workers, scheduler)
    output.check_plot(plot)
    with libraries():
        import actstore
        from actstore.queries.explain import answer_within

    from . import compute

    runs = selected(store, options)
    split = options.pop("split")
    counted = {key: options.pop(key) for key in ("threshold", "criterion", "window")}
    answers = {}
    with compute.crew(workers, scheduler) as crew, compute.planning(), output.said_once():
        bounds = {**crew.bounds(memory), **options, "full": True}
        for question, chosen in {
            "reconstruction": {"split": split},
            "noise": {"split": split},
            "error": {"splits": [split]},
            "scaling": {"split": split, **counted},
        }.items():
            if explain:
                plan = actstore.explain(runs, question, **bounds, **chosen)
                echo(f"{question}\n{textwrap.indent(str(plan), '  ')}\n")
                continue
            with waiting("planning"):
                asked = answer_within(runs, question, **bounds, **chosen)
            with crew.at_work(asked.budget.workers):
                answers[question] = asked.wanted.compute()
    if answers:
        from actstore import plotting

        plotting.save_paper(answers, plot)
        echo(f"drew {plot}", err=True)


for _question in QUESTIONS:
    command.add_command(build(_question))
