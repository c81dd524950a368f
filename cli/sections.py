"""Help whose options stand in sections: twenty in one list are not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

#: title of a section, and its options; what is in none comes first
ASKING = {
    "Runs, epochs and layer": "--width --seed --where --run --epoch --split --layer",
    "Answer": "--format --output --plot",
    "Computation": "--workers --scheduler --memory --cache --explain --help",
}
TRAINING = {
    "What to train": "--recipe --model --data --width --seed --set --epochs --until",
    "What to record": "--schedule --keep --moments --keep-bits --durable",
    "Data": "--data-dir --download",
    "Runs that STORE holds": "--resume --overwrite",
    "Computation": "--device --jobs --amp --compile",
    "Before and meanwhile": "--explain --log-format --quiet --help",
}
#: as wide as click lets a first column grow
_COLUMN = 30


class Sectioned(click.Command):
    """A command whose help shows the options that belong together under one title."""

    sections: ClassVar[Mapping[str, str]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help, in one column for all sections."""
        title_of = {flag: title for title, flags in self.sections.items() for flag in flags.split()}
        found: dict[str, list[tuple[str, str]]] = {"Options": [], **{t: [] for t in self.sections}}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                titles = [title_of[flag] for flag in option.opts if flag in title_of]
                found[titles[0] if titles else "Options"].append(record)
        words = [word for records in found.values() for word, _ in records]
        column = max(len(word) for word in words if len(word) <= _COLUMN)
        for title, records in found.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl([(word.ljust(column), text) for word, text in records])


class OneStore(Sectioned):
    """A question to one store, whose error about a second one names the remedy."""

    sections = ASKING

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read options and arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "extra argument" not in error.message:
                raise
            raise click.UsageError(
                f"{error.message}; one store is taken, and 'actstore merge' makes one of several",
                ctx,
            ) from error


class Sweep(Sectioned):
    """A sweep of trainings."""

    sections = TRAINING
