"""Commands that say what there is when asked for what there is not."""

from __future__ import annotations

import difflib
from typing import Any

import click


class Group(click.Group):
    """A group whose error about an unknown command names the ones that it has."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command that the first word names."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not args or args[0].startswith("-"):
                raise
            known = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"give one of {', '.join(known)}"
            raise click.UsageError(
                f"{args[0]!r} is no command of {ctx.command_path!r}; {hint}", ctx
            ) from error
