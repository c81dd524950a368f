"""The questions as commands see them: their options, and the columns that a person wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

SPLIT = click.option("--split", default="test", show_default=True, help="Evaluation set.")
LAYER = click.option("--layer", default="last_hidden", show_default=True, help="Recorded layer.")
WINDOW = click.option(
    "--window",
    type=float,
    nargs=2,
    default=None,
    metavar="LOW HIGH",
    help="Smallest and largest size, or width, of the fit.  [default: all that can be fitted]",
)
ERROR_INF = click.option(
    "--error-inf",
    metavar="NUMBER",
    help="Error at infinite size or width; 'ensemble' takes that of all seeds of the widest "
    "width together.  [default: fit]",
)
SUBSET_SIZE_ONLY = click.option(
    "--subset-size",
    metavar="SIZES",
    help="Follow subsets of these sizes too: 16; several as 8,16,32.",
)
RIDGE = click.option(
    "--ridge", default=1e-8, show_default=True, help="Ridge relative to the mean variance."
)
SUBSETS = click.option(
    "--subsets", default=40, show_default=True, help="Random subsets of each size."
)
RNG_SEED = click.option(
    "--rng-seed", default=0, show_default=True, help="Seed of random subsets and partitions."
)
THRESHOLD = click.option(
    "--threshold",
    type=float,
    multiple=True,
    default=(0.95,),
    show_default=True,
    help="R² that makes a subset a clone; repeatable.",
)
CRITERION = click.option(
    "--criterion",
    type=click.Choice(["heldout", "paper"]),
    default="heldout",
    show_default=True,
    help="R² of the neurons outside the subset, or of all neurons.",
)
REPEATS = click.option("--repeats", default=20, show_default=True, help="Simulated nulls.")
SUBSET_SIZE = click.option(
    "--subset-size",
    default=None,
    metavar="SIZES",
    help="Neurons in a subset: 16; several as 8,16,32; all is every size.  "
    "[default: width, width/2, width/4, …]",
)
SELECT_SPLIT = click.option(
    "--select-split", help="Choose the clones on this split.  [default: --split]"
)
SCORE_SPLIT = click.option(
    "--score-split", help="Score on this split.  [default: the one chosen or fitted on]"
)
FIT_SPLIT = click.option(
    "--fit-split", help="Fit the regression on this split.  [default: --split]"
)


def _factors(default: str) -> Any:
    return click.option(
        "--factors",
        default=default,
        show_default=True,
        metavar="NUMBERS",
        help="Shared signals of the matched null: a number; gap or bic choose it; several "
        "as gap,bic,20; or none.",
    )


class Question:
    """A question as a command: its options, and which columns a person wants to see."""

    def __init__(
        self,
        name: str,
        text: str,
        options: Sequence[Any],
        columns: Sequence[str],
        *,
        beside: Sequence[Sequence[str]] = (),
        layer_options: Sequence[Any] = (SPLIT, LAYER),
        epoch: str = "-1",
        cached: bool = True,
    ) -> None:
        self.name, self.text = name, text
        self.tables = (columns, *beside)  # what is asked for besides has tables of its own
        self.options = [*options, *layer_options]
        self.asks = text.partition("\n")[0]
        self.epoch = epoch  # the default of --epoch
        self.cached = cached  # whether it is asked of moments


#: columns that every question leads with; the star stands for the hyper-parameters
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
        (*LEAD, "subset_size", "r2_heldout…", "r2…"),
    ),
    Question(
        "clones",
        """Which subsets are clones, how many are there, how small can one be?

        \b
        actstore query clones digits.zarr --threshold 0.95 --threshold 0.98
        actstore query clones digits.zarr --strategy greedy --select-split train
        """,
        [
            THRESHOLD,
            CRITERION,
            click.option(
                "--strategy",
                type=click.Choice(["random", "greedy"]),
                default="random",
                show_default=True,
                help="Random subsets of the critical size, or clones built neuron by neuron.",
            ),
            click.option("--parts", type=int, help="Cut the layer into this many equal parts."),
            click.option(
                "--max-clones",
                default=64,
                show_default=True,
                help="Clones in the saved arrays; more are counted.",
            ),
            SUBSETS,
            SELECT_SPLIT,
            SCORE_SPLIT,
            click.option(
                "--select-threshold",
                type=float,
                help="R² up to which greedy clones are built.  [default: the threshold]",
            ),
            RNG_SEED,
            RIDGE,
        ],
        (*LEAD, "threshold", "critical_size…", "n_clones", "certified_clones", "component_bound"),
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
            _factors("gap"),
            REPEATS,
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
            "factors",
            "n_factors",
            "null",
            "verdict",
        ),
        beside=[(*LEAD, "subset_size", "largest_eigenvalue", "marchenko_pastur_edge")],
    ),
    Question(
        "scaling",
        """How does the number of clones grow with width?

        \b
        actstore query scaling digits.zarr --threshold 0.98
        actstore query scaling digits.zarr --window 32 512 --plot scaling.png
        """,
        [
            THRESHOLD,
            CRITERION,
            WINDOW,
            ERROR_INF,
            SUBSETS,
            RNG_SEED,
            RIDGE,
        ],
        (
            "*",
            "width",
            "seeds",
            "train_error",
            "test_error",
            "threshold",
            "critical_size",
            "n_clones…",
        ),
    ),
    Question(
        "error",
        """What does the trained readout get wrong on a subset of the neurons?

        \b
        actstore query error digits.zarr --width 256
        actstore query error digits.zarr --width 256 --refit 10 --window 32 256
        """,
        [
            SUBSET_SIZE,
            click.option(
                "--subsets", default=100, show_default=True, help="Random subsets of each size."
            ),
            click.option(
                "--splits",
                show_default="train,test, as far as every run holds them",
                help="Where errors are counted, with commas between.",
            ),
            click.option(
                "--refit",
                default=0,
                show_default=True,
                help="Subsets of each size whose readout is fitted anew.",
            ),
            click.option(
                "--fit-split",
                default="train",
                show_default=True,
                help="Where the readout is fitted anew.",
            ),
            ERROR_INF,
            WINDOW,
            RNG_SEED,
            RIDGE,
        ],
        (*LEAD, "split", "subset_size", "error", "loss", "error_rescaled", "error_refit"),
        layer_options=(LAYER,),
    ),
    Question(
        "dynamics",
        """When in training do clones appear?

        \b
        actstore query dynamics digits.zarr --width 256
        actstore query dynamics digits.zarr --width 256 --subset-size 16 --splits test
        """,
        [
            THRESHOLD,
            CRITERION,
            SUBSET_SIZE_ONLY,
            SUBSETS,
            click.option(
                "--splits", help="Follow the errors of subsets on these splits too: train,test."
            ),
            _factors("none"),
            REPEATS,
            RNG_SEED,
            RIDGE,
        ],
        (
            *LEAD,
            "train_error",
            "test_error",
            "threshold",
            "critical_size",
            "n_clones",
            "effective_rank",
        ),
        beside=[
            (
                *LEAD,
                "subset_size",
                "r2_heldout",
                "residual_correlation_heldout",
                "factors",
                "null",
                "verdict",
            ),
            (*LEAD, "split", "subset_size", "error"),
        ],
        epoch="all",
    ),
    Question(
        "spectrum",
        """How many directions does the layer use?

        \b
        actstore query spectrum digits.zarr
        actstore query spectrum digits.zarr --fraction 0.95 --epoch all
        """,
        [
            click.option(
                "--fraction",
                type=float,
                multiple=True,
                default=(0.9, 0.95, 0.99),
                show_default=True,
                help="Fractions of the variance; repeatable.",
            )
        ],
        (*LEAD, "fraction", "components_needed", "participation_ratio", "effective_rank"),
    ),
    Question(
        "ensemble",
        """Does a wide network beat as many neurons in an ensemble of narrow ones?

        \b
        actstore query ensemble runs.zarr
        actstore query ensemble runs.zarr --width 32,256 --format json
        """,
        [RNG_SEED],
        (
            "contest",
            "rival",
            "average",
            "error_wide",
            "error_rival",
            "p_value",
            "winner",
            "setting",
            "width",
            "seeds",
            "bias2",
            "variance",
            "squared_error",
        ),
        cached=False,
    ),
    Question(
        "moments",
        """Count, mean and co-moment of the layer: what every other question is asked of.

        The figure shows how much each neuron varies, and which of them vary together.

        \b
        actstore query moments digits.zarr --epoch all
        actstore query moments digits.zarr --width 256 -o moments.zarr
        """,
        [],
        (*LEAD, "count", "total_variance"),
    ),
]


def question(name: str) -> Question:
    """Return the question of this name."""
    return next(one for one in QUESTIONS if one.name == name)
