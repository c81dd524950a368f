"""Running the examples as a user does."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: object) -> None:
    """Run an example as ``python examples/NAME …`` does, in this process."""
    before, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    finally:
        sys.argv = before
