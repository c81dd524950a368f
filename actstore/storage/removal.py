"""Removing runs and epochs from a store, after saying what would go."""

from __future__ import annotations

import dataclasses

from actstore import schema
from actstore.errors import ActstoreError, NotInStoreError, RunLockedError, StoreWriteError
from actstore.storage.catalogue import Catalogue
from actstore.storage.cleaning import delete_run, files_of_group
from actstore.storage.location import files_at, open_root
from actstore.storage.lock import RunLock, lock_state
from actstore.storage.progress import Counter, Progress
from actstore.storage.reading import chunk_names, is_run, member
from actstore.storage.repair import drop_epoch
from actstore.storage.run import Run


@dataclasses.dataclass(frozen=True)
class Removal:
    """One run, or some epochs of one, that are to go.

    Attributes
    ----------
    run : str
    epochs : tuple of int
        What goes; for a whole run all that it holds.
    whole : bool
        Whether the run goes, and not only these epochs.
    bytes : int
        What it takes on the disk.
    """

    run: str
    epochs: tuple[int, ...]
    whole: bool
    bytes: int

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.epochs)) or "none"
        return f"{self.run}: {'the run, with its' if self.whole else ''} epochs {numbers}".replace(
            "  ", " "
        )


def plan_removal(selection: Catalogue, *, whole: bool) -> list[Removal]:
    """Return what :func:`remove` would take away; nothing is changed.

    Parameters
    ----------
    selection : Store
        A selection of a store.
    whole : bool
        Whether whole runs are to go, and not only the selected epochs of each.

    Raises
    ------
    RunLockedError
        If one of the runs is being written.
    """
    files = files_at(selection.path, read_only=True)
    for name in selection:
        holder = lock_state(files, name)
        if holder is not None and not holder[0].ended:
            raise RunLockedError(
                f"run {name!r} is being written by process {holder[0].pid} on {holder[0].host}; "
                "end it, or leave the run out"
            )
    return [
        Removal(
            name,
            tuple(map(int, run.committed if whole else run.epochs)),
            whole,
            _run_bytes(run) if whole else _epoch_bytes(run),
        )
        for name, run in selection.items()
    ]


def remove(selection: Catalogue, *, whole: bool, progress: Progress | None = None) -> list[Removal]:
    """Take runs, or epochs of them, out of a store for good.

    Each run disappears at once for readers; so does each epoch. Killed half-way, the rest is
    as it was.

    Parameters
    ----------
    selection : Store
        What :meth:`Store.sel` returned.
    whole : bool
        See :func:`plan_removal`.
    progress : callable, optional
        Is told how many epochs are gone, and of how many.

    Raises
    ------
    RunLockedError
        If one of the runs is being written; those before it are gone.
    NotInStoreError
        If another process removed it first.
    StoreWriteError
        If the store cannot be written.
    """
    planned = plan_removal(selection, whole=whole)
    told = Counter(sum(len(removal.epochs) for removal in planned), progress)
    try:
        for removal in planned:
            if whole:
                _remove_run(selection.path, removal.run)
                told(len(removal.epochs))
                continue
            for epoch in removal.epochs:
                drop_epoch(selection.path, removal.run, epoch)
                told(1)
    except ActstoreError:  # some are an OSError too
        raise
    except OSError as error:
        raise StoreWriteError(
            f"run {removal.run!r} could not be removed from {selection.path!r} "
            f"({error.strerror or error}); get the right to write there and repeat it"
        ) from error
    return planned


def _remove_run(store: str, name: str) -> None:
    root = open_root(store, mode="r+")
    if not is_run(member(root, name, store)):
        raise NotInStoreError(f"no run {name!r} in {store!r}; another process removed it")
    lock = RunLock.acquire(files_of_group(root), name)
    try:
        delete_run(root, name)
    finally:
        lock.release()


def _run_bytes(run: Run) -> int:
    return sum(files_at(run.path, read_only=True).sizes(run.name).values())


def _epoch_bytes(run: Run) -> int:
    """Return the bytes of the selected epochs' activations, which is nearly all of them."""
    files = files_at(run.path, read_only=True)
    total = 0
    for split in run.splits:
        for layer in run.layers(split) if run.keeps_samples else ():
            array = run.array(f"{split}/{layer}/{schema.ACTIVATIONS}")
            sizes = files.sizes(array.path)
            total += sum(
                sizes.get(f"{array.path}/{name}", 0)
                for slot in run.slots
                for name in chunk_names(array, int(slot))
            )
    return total
