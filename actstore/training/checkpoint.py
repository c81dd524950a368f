"""The state of an interrupted training, from which it continues to the same weights."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from actstore.errors import StoreCorruptError
from actstore.recording.state import random_state, set_random_state
from actstore.storage.location import StorePath


@dataclass(frozen=True)
class Checkpoint:
    """A file beside the store that holds a run's training at its last recorded epoch.

    The learning rate follows from the epoch and the order of the samples from seed and
    epoch, so that model, optimiser and random state are all there is to keep.

    Parameters
    ----------
    path
        ``<store>.checkpoints/<run>.pt``.
    """

    path: Path

    @classmethod
    def of(cls, store: StorePath, run: str) -> Checkpoint:
        """Return the checkpoint of a run, whether or not it exists."""
        folder = Path(os.fspath(store).rstrip("/\\") + ".checkpoints")
        return cls(folder / f"{run}.pt")

    def exists(self) -> bool:
        """Return whether there is a training to continue."""
        return self.path.exists()

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        epoch: int,
        seconds: float,
        interpolated: int | None = None,
        scaler: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace the file by the present state, whole or not at all.

        Parameters
        ----------
        model, optimizer, scaler
            Whose states are kept.
        epoch, seconds
            Epochs and wall time of the training so far.
        interpolated
            First epoch without train errors, if there was one and it was looked for.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
            "epoch": epoch,
            "seconds": seconds,
            "interpolated": interpolated,
            "scaler": dict(scaler or {}),
        }
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def read(self) -> dict[str, Any]:
        """Return the state on the host: tensors, numbers and words only.

        Raises
        ------
        StoreCorruptError
            If the file is not a checkpoint.
        """
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
            raise StoreCorruptError(
                f"the checkpoint {self.path.name!r} in {self.path.parent.name!r} cannot be read; "
                "overwrite the run to train it anew"
            ) from error
        return state

    @staticmethod
    def restore(state: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
        """Put model, optimiser and random numbers into a state that was read."""
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"])

    def remove(self) -> None:
        """Delete the file, and its folder when it is the last one."""
        self.path.unlink(missing_ok=True)
        folder = self.path.parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
