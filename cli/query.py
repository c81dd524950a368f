"""``actstore query QUESTION STORE``: one command a question."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from . import output
from .options import compute_options, epochs, flat, output_options, selection_options

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

LAYER_OPTIONS = [
    click.option("--split", default="test", show_default=True, help="Evaluation set."),
    click.option("--layer", default="last_hidden", show_default=True, help="Recorded layer."),
]
RIDGE = click.option(
    "--ridge", default=1e-8, show_default=True, help="Ridge relative to the mean variance."
)
SUBSETS = click.option(
    "--subsets", default=40, show_default=True, help="Random subsets of each size."
)
RNG_SEED = click.option(
    "--rng-seed", default=0, show_default=True, help="Seed of the random subsets."
)
THRESHOLD = click.option(
    "--threshold",
    type=float,
    multiple=True,
    default=(0.95,),
    show_default="0.95",
    help="R² that makes a subset a clone; repeatable.",
)
CRITERION = click.option(
    "--criterion",
    type=click.Choice(["heldout", "paper"]),
    default="heldout",
    show_default=True,
    help="R² of the neurons outside the subset, or of all neurons.",
)
SUBSET_SIZE = click.option(
    "--subset-size",
    default=None,
    metavar="SIZES",
    help="Neurons in a subset: 16, 8,16,32, or all.  [default: width, width/2, width/4, …]",
)
SELECT_SPLIT = click.option("--select-split", help="Choose the clones on this split.")
SCORE_SPLIT = click.option("--score-split", help="Score on this split.")
FIT_SPLIT = click.option("--fit-split", help="Fit the regression on this split.")


class Question:
    """A question as a command: its options, and which columns a person wants to see."""

    def __init__(
        self, name: str, text: str, options: Sequence[Any], columns: Sequence[str]
    ) -> None:
        self.name, self.text, self.options, self.columns = name, text, options, columns

    def command(self) -> click.Command:
        """Build the command."""

        def run(store: str, **options: Any) -> None:
            ask(self, store, **options)

        run.__doc__ = self.text
        decorated: Callable[..., Any] = run
        for decorate in (compute_options, output_options):
            decorated = decorate(decorated)
        for option in reversed([*self.options, *LAYER_OPTIONS]):
            decorated = option(decorated)
        decorated = selection_options(decorated)
        decorated = click.argument("store", type=click.Path())(decorated)
        return click.command(self.name, context_settings=HELP)(decorated)


LEAD = ("setting", "*", "width", "seed", "epoch")

QUESTIONS = [
    Question(
        "reconstruction",
        """How much of the layer do random subsets of its neurons carry?

        \b
        actstore query reconstruction digits.zarr --width 256
        actstore query reconstruction digits.zarr --fit-split train --score-split test
        """,
        [SUBSET_SIZE, SUBSETS, FIT_SPLIT, SCORE_SPLIT, RNG_SEED, RIDGE],
        (*LEAD, "subset_size", "r2", "r2_low", "r2_high", "r2_heldout"),
    ),
    Question(
        "clones",
        """Which subsets are clones, how many are there, how small can one be?

        \b
        actstore query clones digits.zarr --threshold 0.95 --threshold 0.98
        actstore query clones digits.zarr --width 256 --strategy greedy --select-split train
        """,
        [
            THRESHOLD,
            CRITERION,
            click.option(
                "--strategy",
                type=click.Choice(["random", "greedy"]),
                default="random",
                show_default=True,
                help="How the neurons are partitioned into clones.",
            ),
            click.option("--parts", type=int, help="Cut the layer into this many equal parts."),
            click.option(
                "--max-clones", default=64, show_default=True, help="Clones listed one by one."
            ),
            SUBSETS,
            SELECT_SPLIT,
            SCORE_SPLIT,
            RNG_SEED,
            RIDGE,
        ],
        (*LEAD, "threshold", "critical_size", "n_clones", "certified_clones", "component_bound"),
    ),
    Question(
        "noise",
        """Is what a subset misses of the layer independent noise?

        \b
        actstore query noise digits.zarr --width 256
        actstore query noise digits.zarr --subset-size 16,64,128 --format json
        """,
        [
            SUBSET_SIZE,
            SUBSETS,
            click.option(
                "--eigenvalues/--no-eigenvalues",
                default=False,
                show_default=True,
                help="Compare the largest eigenvalue with the Marchenko-Pastur edge.",
            ),
            RNG_SEED,
            RIDGE,
        ],
        (
            *LEAD,
            "subset_size",
            "residual_correlation_heldout",
            "residual_correlation",
            "sampling_floor",
            "largest_eigenvalue",
            "marchenko_pastur_edge",
        ),
    ),
    Question(
        "scaling",
        """How does the number of clones grow with width?

        \b
        actstore query scaling digits.zarr --threshold 0.98
        actstore query scaling digits.zarr --threshold 0.98 --window 32 512 --plot scaling.png
        """,
        [
            THRESHOLD,
            CRITERION,
            click.option(
                "--window",
                type=float,
                nargs=2,
                default=None,
                metavar="LOW HIGH",
                help="Widths of the fit.  [default: from the first width that has clones]",
            ),
            SUBSETS,
            RNG_SEED,
            RIDGE,
        ],
        (
            "setting",
            "width",
            "seeds",
            "train_error",
            "test_error",
            "threshold",
            "critical_size",
            "n_clones",
            "n_clones_low",
            "n_clones_high",
        ),
    ),
    Question(
        "moments",
        """Count, mean and co-moment of the layer: what every other question is asked of.

        \b
        actstore query moments digits.zarr --epoch all
        actstore query moments digits.zarr --width 256 -o moments.zarr
        """,
        [],
        (*LEAD, "count", "total_variance"),
    ),
]


def ask(
    question: Question,
    path: str,
    *,
    form: str,
    plot: str | None,
    explain: bool,
    workers: int | None,
    scheduler: str | None,
    memory: str,
    **options: Any,
) -> None:
    """Answer a question: select, compute what the rows show, print, save and draw."""
    saved = options.pop("output")
    output.check_output(saved)
    output.check_plot(plot)
    import actstore
    from actstore import queries
    from actstore.queries.table import rows, shown

    from . import compute

    selection = {
        "width": flat(options.pop("width")),
        "seed": flat(options.pop("seed")),
        "run": list(options.pop("run")) or None,
        "epoch": epochs(options.pop("epoch")),
        **_where(options.pop("where")),
    }
    store = actstore.open(path).sel(**selection)
    if "subset_size" in options:
        options["subset_size"] = _sizes(options["subset_size"])
    if options.get("window") is not None:
        options["window"] = tuple(options["window"])
    result = getattr(queries, question.name)(store, **options)
    threads = os.cpu_count() or 1
    with compute.scheduler(workers, scheduler, threads):
        needed = result if saved or plot else shown(result)
        answer = needed.compute()
    found = rows(answer)
    parameters = {k: v for k, v in result.attrs.items() if k != "query"}
    if form == "table":
        click.echo(table_of(question, found, answer))
    else:
        output.write_rows(found, form, query=question.name, parameters=parameters)
    if saved:
        output.save(saved, answer, found, parameters)
    if plot:
        _draw(question.name, answer, plot)


def question(name: str) -> Question:
    """Return the question of this name."""
    return next(one for one in QUESTIONS if one.name == name)


def table_of(question: Question, rows: output.Rows, answer: Any) -> str:
    """Return the rows of an answer as a person wants to see them."""
    extra = [k for k, c in answer.coords.items() if c.dims == ("run",)]
    columns: list[str] = []
    for name in question.columns:
        columns += [k for k in extra if k not in ("run", *LEAD)] if name == "*" else [name]
    return output.table(rows, columns) + _footer(question.name, answer)


def _footer(question: str, answer: Any) -> str:
    if question != "scaling":
        return _criterion(answer)
    lines = []
    for setting in answer["setting"].values:
        for threshold in answer["threshold"].values:
            one = answer.sel(setting=setting, threshold=threshold)
            lines.append(f"{setting}, R² ≥ {threshold:g}: {_growth(one)}")
    return "\n\n" + "\n".join(lines) + _criterion(answer)


def _growth(one: Any) -> str:
    if not bool(one["has_clones"].any()):
        return "no clones at any width"
    low, high = float(one["window_low"]), float(one["window_high"])
    slope = one["exponent"]
    if not bool(slope.notnull()):
        return f"clones at {int(one['has_clones'].sum())} widths, too few for an exponent"
    text = (
        f"n_clones ~ width^{float(slope):.2f} "
        f"({float(one['exponent_low']):.2f}…{float(one['exponent_high']):.2f}) "
        f"over widths {low:g}…{high:g}"
    )
    bend = float(one["critical_width"])
    return text + (f"; critical width {bend:.3g}" if bend == bend else "")


def _criterion(answer: Any) -> str:
    if "criterion" not in answer.attrs:
        return ""
    outside = answer.attrs["criterion"] == "heldout"
    words = "held-out R² (neurons outside the subset)" if outside else "R² of all neurons (paper)"
    return f"\n\ncriterion: {words}; n_clones = alive neurons / critical size, none below 2"


def _draw(question: str, answer: Any, path: str) -> None:
    from actstore import plotting

    plotting.save(question, answer, path)
    click.echo(f"drew {path}", err=True)


def _where(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    wanted: dict[str, list[Any]] = {}
    for key, value in pairs:
        wanted.setdefault(key, []).append(value)
    return wanted


def _sizes(text: str | None) -> list[int] | str | None:
    if text is None or text == "all":
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not 16, 8,16,32 or all", param_hint="--subset-size"
        ) from None


@click.group("query", context_settings=HELP)
def command() -> None:
    """Answer a question about the runs of a store.

    The answer goes to stdout, everything else to stderr. Each question takes the last epoch of
    each run unless --epoch says otherwise.

    \b
    actstore query scaling digits.zarr --threshold 0.98
    actstore query clones digits.zarr --width 256 --format json
    """


for _question in QUESTIONS:
    command.add_command(_question.command())
