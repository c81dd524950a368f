"""The state of an interrupted training, from which it continues to the same weights."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from actstore.errors import StoreCorruptError, StoreUnreachableError
from actstore.recording.state import random_state, set_random_state
from actstore.storage.files import PARTIAL, Files
from actstore.storage.local import LocalFiles
from actstore.storage.location import StorePath, files_at


@dataclass(frozen=True)
class Checkpoint:
    """A file beside the store that holds a run's training at its last recorded epoch.

    Beside a store in a bucket it is an object, so that another machine can continue.

    The learning rate follows from the epoch and the order of the samples from seed and
    epoch, so that model, optimiser and random state are all there is to keep.

    Parameters
    ----------
    files
        Those of ``<store>.checkpoints``.
    name
        ``<run>.pt``.
    """

    files: Files
    name: str

    @classmethod
    def of(cls, store: StorePath, run: str) -> Checkpoint:
        """Return the checkpoint of a run, whether or not it exists."""
        return cls(files_at(os.fspath(store).rstrip("/\\") + ".checkpoints"), f"{run}.pt")

    @property
    def path(self) -> Path | None:
        """Return where the file lies, None in a bucket."""
        return self.files.root / self.name if isinstance(self.files, LocalFiles) else None

    @property
    def folder(self) -> str:
        """Return the name of the folder that it lies in."""
        return os.path.basename(self.files.place)

    def exists(self) -> bool:
        """Return whether there is a training to continue."""
        return self.files.has(self.name)

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
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
            "epoch": epoch,
            "seconds": seconds,
            "interpolated": interpolated,
            "scaler": dict(scaler or {}),
        }
        if self.path is None:
            stream = io.BytesIO()
            torch.save(state, stream)
            self.files.put(self.name, [stream.getbuffer()])
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + PARTIAL)
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
            source = self.path or io.BytesIO(self.files.read(self.name))
            state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
        except StoreUnreachableError:
            raise
        except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
            raise StoreCorruptError(
                f"the checkpoint {self.name!r} in {self.folder!r} cannot be read; "
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
        self.files.remove(self.name)
        if self.path is not None:
            with contextlib.suppress(OSError):  # other runs have theirs there
                self.path.parent.rmdir()
