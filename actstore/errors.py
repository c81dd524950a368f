"""What can go wrong, each in one sentence: asked, found, remedy.

Every error is an :class:`ActstoreError` *and* the builtin it resembles, so that
``except ValueError`` in a script of one's own still works.
"""


class ActstoreError(Exception):
    """Any error that actstore raises on purpose."""


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
