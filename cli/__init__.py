"""The command ``actstore``: thin shells over the library, one file a command.

Nothing here imports the library at the top: ``actstore --help`` loads click alone.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import click

from actstore._version import __version__

from .echo import echo
from .groups import Group

#: command -> (module, one sentence for ``actstore --help``)
COMMANDS = {
    "demo": ("demo", "Record, query and plot the digits sweep in about a minute."),
    "record": ("record", "Train networks of several widths and record their activations."),
    "query": ("query", "Answer a question about the runs of a store."),
    "plot": ("plot", "Draw the answer to a question into a file."),
    "report": ("report", "Write a page that judges each claim of the paper on a store."),
    "runs": ("runs", "List the runs of a store."),
    "info": ("info", "Say what a store, or one run of it, holds."),
    "import": ("import_", "Put activations from files of other programs into a store."),
    "export": ("export", "Write activations for other programs: Zarr, NetCDF, NumPy, Parquet."),
    "merge": ("merge", "Copy the runs of other stores into one."),
    "compact": ("compact", "Round the activations of a store, and say what that changes."),
    "rm": ("rm", "Remove runs or epochs from a store."),
    "verify": ("verify", "Look for damage in a store, and mend what can be mended."),
}


class LazyGroup(Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def __init__(self, *args: Any, modules: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.modules = modules

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; that the reader has seen enough, as in ``… | head``, is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # what is still buffered goes nowhere, or Python would complain of it on its way out
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer needs them."""
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name."""
        if cmd_name not in self.modules:
            return None
        module = importlib.import_module(f".{self.modules[cmd_name][0]}", __name__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.modules.items()])


@click.group(
    cls=LazyGroup,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="actstore")
def actstore() -> None:
    """Record what wide neural networks learn, and ask how many clones they hold.

    \b
    actstore demo                          digits: record, query, plot
    actstore query scaling digits.zarr     clones against width
    """


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line without the place in the code, which helps nobody here."""
    echo(f"actstore: {message}", err=True)


class _Interrupts:
    """Notes Ctrl-C, and lets it do what it does.

    A library that is interrupted while it is imported may catch that, and fail at something else.
    """

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> None:
        # not where interrupts are ignored, or another program has its own way with them
        self._own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._own:
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._own:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)


def main() -> None:
    """Run the command line; errors of actstore become one sentence and exit code 1."""
    # The library is not imported for --help; errors.py is small.
    from actstore.errors import ActstoreError

    warnings.showwarning = show_warning
    interrupts = _Interrupts()
    try:
        with interrupts:
            # what ctx.exit was given, if it was called
            stopped = actstore.main(standalone_mode=False)
        if isinstance(stopped, int) and stopped:
            sys.exit(stopped)
    except click.exceptions.Abort:
        echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        echo("interrupted", err=True)
        sys.exit(130)
    except ActstoreError as error:
        echo(f"actstore: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            echo("actstore: no space is left where the output goes; free some", err=True)
            sys.exit(1)
        if not interrupts.came:
            raise
        echo("interrupted", err=True)
        sys.exit(130)
