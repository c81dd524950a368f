"""Where a result comes from: versions, device, commit; no host and no user."""

from __future__ import annotations

import platform
import subprocess

import numpy as np
import torch
import zarr

from actstore._version import __version__


def provenance(device: torch.device, *, command: str) -> dict[str, str]:
    """Return the facts that are kept with every run.

    Parameters
    ----------
    device
        That trains.
    command
        Command line, or nothing.
    """
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "actstore": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zarr": zarr.__version__,
        "command": command,
        "device": named,
        **_git_commit(),
    }


def _git_commit() -> dict[str, str]:
    """Return the commit of the current directory, if it is under git, and whether it is changed."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": found.stdout.strip()}
