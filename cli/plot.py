"""``actstore plot QUESTION STORE -o FILE``: a query, drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .options import compute_options, selection_options
from .query import HELP, ask
from .questions import QUESTIONS, Question

#: an answer of moments is a matrix a run: there is no figure of it
DRAWN = [question for question in QUESTIONS if question.name != "moments"]


def build(question: Question) -> click.Command:
    """Build the command that draws the answer to a question."""

    def run(store: str, plot: str, **options: Any) -> None:
        ask(question, store, form="none", output=None, plot=plot, **options)

    run.__doc__ = question.text.replace("actstore query", "actstore plot").partition("\b")[0]
    run.__doc__ += f"\b\n        actstore plot {question.name} digits.zarr -o {question.name}.png"
    decorated: Callable[..., Any] = compute_options(cached=question.cached)(run)
    option = click.option(
        "-o", "--output", "plot", metavar="FILE", required=True, help=".png, .svg or .pdf."
    )
    for add in (option, *reversed(question.options)):
        decorated = add(decorated)
    decorated = selection_options(question.epoch)(decorated)
    decorated = click.argument("store", type=click.Path())(decorated)
    return click.command(question.name, context_settings=HELP)(decorated)


@click.group("plot", context_settings=HELP)
def command() -> None:
    """Draw the answer to a question into a file.

    The options are those of ``actstore query``, and so is the answer.

    \b
    actstore plot scaling digits.zarr --threshold 0.98 -o scaling.png
    actstore plot reconstruction digits.zarr --width 256 -o reconstruction.svg
    """


for _question in DRAWN:
    command.add_command(build(_question))
