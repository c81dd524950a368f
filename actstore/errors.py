"""What can go wrong, each in one sentence: asked, found, remedy.

Every error is an :class:`ActstoreError` *and* the builtin it resembles, so that
``except ValueError`` in a script of one's own still works.
"""

import re


def without_passwords(text: str) -> str:
    """Return a text in which URLs have stars in the place of passwords.

    Examples
    --------
    >>> without_passwords("no store at 'sftp://ada:secret@host:22/runs.zarr'")
    "no store at 'sftp://ada:***@host:22/runs.zarr'"
    """
    # One slash too: that is what a Path makes of a URL. A port is no password, nor are the
    # colons that chain URLs; up to the last @, for a password may hold one, or a slash.
    return re.sub(r"(:/+[^\s/:@'\"]*):(?!:|\d+(?:[/'\"\s]|$))[^\s'\"]*@", r"\1:***@", text)


class ActstoreError(Exception):
    """Any error that actstore raises on purpose; it names URLs without their passwords."""

    def __init__(self, *told: object) -> None:
        super().__init__(*(without_passwords(t) if isinstance(t, str) else t for t in told))


class StoreNotFoundError(ActstoreError, FileNotFoundError):
    """There is nothing at the path, or what is there is not an actstore store."""


class StoreFormatError(ActstoreError, ValueError):
    """The store was written in a format that this version cannot read."""


class StoreCorruptError(ActstoreError, OSError):
    """Stored bytes cannot be read back as what was written."""


class StoreUnreachableError(ActstoreError, ConnectionError):
    """The server of a store in a bucket does not answer, or lets these credentials not read."""


class StoreWriteError(ActstoreError, OSError):
    """An epoch could not be written; nothing of it was committed."""


class NotInStoreError(ActstoreError, LookupError):
    """A run, width, epoch, split or layer that the store does not hold."""


class RunExistsError(ActstoreError, FileExistsError):
    """The run is already in the store."""


class RunLockedError(ActstoreError, BlockingIOError):
    """Another process writes the run, or may be writing it."""


class InvalidDataError(ActstoreError, ValueError):
    """Activations, labels or moments that no answer can be computed from."""


class InvalidParameterError(ActstoreError, ValueError):
    """An argument outside its range."""


class CaptureError(ActstoreError, RuntimeError):
    """The recorder did not capture what it was asked to capture."""


class DatasetNotFoundError(ActstoreError, FileNotFoundError):
    """A data set is not on this machine."""


class WorkerLostError(ActstoreError, RuntimeError):
    """A process that worked for this one ended without saying why."""


class MissingExtraError(ActstoreError, ImportError):
    """An optional dependency is not installed."""


class UndecidedWarning(UserWarning):
    """The data are too few or too degenerate for a firm answer; the answer is still given."""


class StoreWarning(UserWarning):
    """A part of the store that can be made anew, such as a cache, is damaged or cannot be kept."""

    def __init__(self, *told: object) -> None:
        super().__init__(*(without_passwords(t) if isinstance(t, str) else t for t in told))
