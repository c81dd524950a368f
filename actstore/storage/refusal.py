"""What a writer says when it cannot write: one sentence, and what is left intact."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from actstore.errors import (
    ActstoreError,
    InvalidParameterError,
    RunExistsError,
    StoreUnreachableError,
    StoreWriteError,
)
from actstore.storage.reading import corrupt


@contextlib.contextmanager
def refusals(
    store: str, what: str, committed: Callable[[], tuple[int, ...]] | None = None
) -> Iterator[None]:
    """Turn what the disk refuses into one sentence.

    Parameters
    ----------
    store : str
        Path of the store.
    what : str
        What is being written.
    committed : callable, optional
        Returns the epochs that the disk holds.
    """
    try:
        yield
    except ActstoreError as error:
        if not isinstance(error, StoreUnreachableError):
            raise
        raise _not_written(what, store, error, committed) from error
    except KeyError as error:
        raise corrupt(str(error), store, "it is missing") from error
    except OSError as error:
        raise _not_written(what, store, error, committed) from error


def _not_written(
    what: str, store: str, error: OSError, committed: Callable[[], tuple[int, ...]] | None
) -> StoreWriteError:
    intact = "the store holds nothing of it"
    if committed is not None:
        intact = f"the {len(committed())} epochs before it are intact"
    cause: BaseException | None = error
    while isinstance(cause, OSError) and cause.strerror is None:  # what a reader made a sentence of
        cause = cause.__cause__
    why = cause.strerror if isinstance(cause, OSError) else error
    remedy = "restore the connection or the credentials" if "://" in store else "mend the disk"
    return StoreWriteError(
        f"{what} could not be written to {store!r} ({why}); {intact}: {remedy} and resume"
    )


def already_there(store: str, name: str) -> RunExistsError:
    """Return the error of a run that is to be created and exists."""
    return RunExistsError(
        f"run {name!r} is already in {store!r}; resume it, overwrite it, or give another name"
    )


def plain(value: Any) -> Any:
    """Return a NumPy scalar or array as JSON can hold it.

    Raises
    ------
    InvalidParameterError
        If it is something else.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise InvalidParameterError(
        f"the attribute {value!r} cannot be stored; use numbers, text, lists and dictionaries"
    )
