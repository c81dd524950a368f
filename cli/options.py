"""Options that commands share, as decorators: the same words mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from actstore.errors import InvalidParameterError

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5
    """Whole numbers: one, or several with commas between them."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Return the numbers."""
        if isinstance(value, list):
            return value
        try:
            return [int(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a whole number, or several as 8,16,32", param, ctx)


class Setting(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5
    """``KEY=VALUE``, the value a number, true, false or a word."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        """Return the key and the value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE, such as weight_decay=0.005", param, ctx)
        return key, parse_value(text)


def parse_value(text: str) -> int | float | bool | str:
    """Return a whole number, a number, true or false, or else the text itself.

    Examples
    --------
    >>> [parse_value(text) for text in ("2", "5e-3", "true", "last")]
    [2, 0.005, True, 'last']
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def flat(values: tuple[list[int], ...]) -> list[int] | None:
    """Return the numbers of a repeatable option as one list, None if it was not given."""
    return [number for part in values for number in part] or None


def counted(number: int, noun: str) -> str:
    """Return a number of things in words.

    Examples
    --------
    >>> counted(1, "run"), counted(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def chosen_by(
    width: tuple[list[int], ...], seed: tuple[list[int], ...], where: tuple[tuple[str, Any], ...]
) -> dict[str, list[Any]]:
    """Return the values that a run must have one of, by key; ``--where`` may name any key."""
    wanted: dict[str, list[Any]] = {}
    pairs = [("width", w) for w in flat(width) or []] + [("seed", s) for s in flat(seed) or []]
    for key, value in [*pairs, *where]:
        wanted.setdefault(key, []).append(value)
    return wanted


def epochs(text: str) -> int | list[int] | slice | None:
    """Return the epochs that ``--epoch`` asks for: ``all``, ``-1``, ``1,5,10`` or ``10:50``."""
    if text == "all":
        return None
    try:
        if ":" in text:
            low, high = text.split(":")
            return slice(int(low) if low else None, int(high) if high else None)
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidParameterError(
            f"--epoch {text} was asked for; give a number, -1 for the last, 1,5,10, 10:50 or all"
        ) from None


def run_options(command: F) -> F:
    """Which runs of the store are meant."""
    options = [
        click.option(
            "--width",
            type=Numbers(),
            multiple=True,
            help="Only runs of this width; several as 64,256.",
        ),
        click.option(
            "--seed",
            type=Numbers(),
            multiple=True,
            help="Only runs of this seed; several as 0,1,2.",
        ),
        click.option(
            "--where",
            type=Setting(),
            multiple=True,
            help="Only runs with this setting, such as weight_decay=0.005; repeatable.",
        ),
        click.option("--run", multiple=True, help="Only the run of this name; repeatable."),
    ]
    return _decorated(command, options)


def selection_options(epoch: str) -> Callable[[F], F]:
    """Which runs and epochs of the store are asked; ``epoch`` is the default."""
    options = [
        run_options,
        click.option(
            "--epoch",
            default=epoch,
            show_default=True,
            help="Epochs: -1 is the last of each run; 1,5,10; 10:50; all.",
        ),
    ]
    return lambda command: _decorated(command, options)


def output_options(command: F) -> F:
    """Where the answer goes, and in which form."""
    options = [
        click.option(
            "--format",
            "form",
            type=click.Choice(["table", "json", "csv"]),
            default="table",
            show_default=True,
            help="Form of the rows on stdout.",
        ),
        click.option(
            "-o",
            "--output",
            metavar="FILE",
            help="Save the full arrays (.zarr, .nc) or the rows (.csv, .json).",
        ),
        click.option("--plot", metavar="FILE", help="Draw the answer (.png, .svg, .pdf)."),
    ]
    return _decorated(command, options)


def worker_options(command: F) -> F:
    """Where the work runs."""
    options = [
        click.option(
            "--workers", type=click.IntRange(1), help="Use this many processes instead of threads."
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Address of a running dask scheduler (tcp://…), or the word processes: as many "
            "of this machine as fit.",
        ),
    ]
    return _decorated(command, options)


def runs_elsewhere(scheduler: str | None) -> bool:
    """Whether ``--scheduler`` is the address of a running cluster."""
    return scheduler not in (None, "processes", "threads")


def check_workers(workers: int | None, scheduler: str | None) -> None:
    """Refuse a number of workers for a cluster that runs already."""
    if workers and runs_elsewhere(scheduler):
        raise click.UsageError(
            f"--workers and --scheduler {scheduler} were both given; a running cluster has its own"
        )


def compute_options(*, cached: bool) -> Callable[[F], F]:
    """How the answer is computed; ``cached`` questions are asked of moments."""
    options = [
        worker_options,
        click.option(
            "--memory",
            help="Bound on the memory of the query, all its processes together.  "
            "[default: 2GiB; with a running scheduler what its workers have]",
        ),
        click.option(
            "--explain", is_flag=True, help="Say what would be read and computed, and stop."
        ),
    ]
    if cached:
        options.append(
            click.option(
                "--cache/--no-cache",
                default=None,
                help="Keep moments in the store.  [default: if smaller than the activations]",
            )
        )
    return lambda command: _decorated(command, options)


def _decorated(command: F, options: list[Any]) -> F:
    for option in reversed(options):
        command = option(command)
    return command
