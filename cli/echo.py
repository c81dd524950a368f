"""Words for a terminal that are no commands to it."""

from __future__ import annotations

import re

import click

_CONTROL = re.compile(r"[^\n\t -~\u00a0-\U0010ffff]")


def echo(text: object, *, err: bool = False) -> None:
    """Print a text for people, whoever wrote what is quoted in it; data go out as they are."""
    click.echo(plain(str(text)), err=err)


def plain(text: str) -> str:
    """Return a text without control characters but ends of lines and tabs.

    Examples
    --------
    >>> plain("the run 'a\\x1b[2Jb'")
    "the run 'a�[2Jb'"
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
