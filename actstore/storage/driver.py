"""Opening a file system of fsspec by URL, and asking it one thing at a time where it has to be."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from actstore.errors import (
    InvalidParameterError,
    MissingExtraError,
    StoreNotFoundError,
    StoreUnreachableError,
)

T = TypeVar("T")

#: what a server answers: asking again would not change it
_ANSWERS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

#: packages that are not called as the module that is missing
_PACKAGES = {"smbclient": "smbprotocol"}


class Driver:
    """A file system of fsspec at a URL.

    Drivers that are not asynchronous keep one connection, which two threads must not use at once.

    Parameters
    ----------
    url : str

    Attributes
    ----------
    path : str
        What the driver calls the place of the URL.
    renames : bool
        Whether a file can be renamed onto another at once, and onto nothing only: so that files
        appear whole, and of two that create one a single one succeeds.
    on_the_web : bool
        Whether folders are pages with links, of which names have to be read.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._alone = threading.RLock()
        self._connect()
        classes = {f"{one.__module__}.{one.__qualname__}" for one in type(self._system).__mro__}
        self.renames = "fsspec.implementations.sftp.SFTPFileSystem" in classes
        self.on_the_web = "fsspec.implementations.http.HTTPFileSystem" in classes

    def ask(self, request: Callable[[Any], T]) -> T:
        """Return what a request to the file system returns.

        A connection that was lost is opened once more, and the request repeated.

        Raises
        ------
        OSError
            With a ``strerror`` of a few words, whatever the driver raised.
        """
        with contextlib.nullcontext() if self._system.async_impl else self._alone:
            try:
                return request(self._system)
            except _ANSWERS:
                raise
            except Exception as error:
                if (refused := _refusal(error)) is not None:
                    raise refused from error
            try:
                self._connect()
                return request(self._system)
            except (*_ANSWERS, StoreUnreachableError):
                raise
            except Exception as error:
                raise OSError(errno.EIO, _words(error)) from error

    def _connect(self) -> None:
        """Open the file system anew.

        Raises
        ------
        StoreNotFoundError, MissingExtraError, StoreUnreachableError
        """
        scheme = self.url.partition("://")[0]
        try:
            self._system, self.path = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        except ImportError as error:
            cause = error.__cause__
            module = (cause.name if isinstance(cause, ImportError) else error.name) or scheme
            package = module.partition(".")[0]
            raise MissingExtraError(
                f"{self.url!r} needs a driver of fsspec that is not installed ({_words(error)}); "
                f"pip install {_PACKAGES.get(package, package)}"
            ) from error
        except ValueError as error:
            if "Port " in str(error):  # which repeats a part of a password that holds a slash
                raise StoreNotFoundError(
                    f"{self.url!r} cannot be opened: its port is no number; write a / in a "
                    "password as %2F"
                ) from None
            if "Protocol not known" not in str(error):
                raise StoreNotFoundError(
                    f"{self.url!r} cannot be opened ({_words(error)}); check the URL"
                ) from error
            raise StoreNotFoundError(
                f"{self.url!r} begins with nothing that is known; give a folder, or s3://, gs://, "
                "az://, sftp:// or memory://, or to read only http://, https://, ftp://, hf:// "
                "or what else fsspec.available_protocols() lists"
            ) from error
        except TypeError as error:  # its constructor wants more than a URL says
            raise InvalidParameterError(
                f"the driver of {scheme}:// needs more than a URL ({_words(error)}); set it as "
                f"FSSPEC_{scheme.upper()}_<OPTION> in the environment"
            ) from error
        except Exception as error:
            raise StoreUnreachableError(
                f"{self.url!r} cannot be opened ({_words(error)}); check the URL, the credentials "
                "and the network"
            ) from error


def driver_of(url: str) -> Driver:
    """Return the driver of a URL; one that this process opened before if there is one."""
    settings = tuple(item for item in sorted(os.environ.items()) if item[0].startswith("FSSPEC_"))
    return _driver(url, settings, os.getpid())


@functools.lru_cache(maxsize=16)
def _driver(url: str, settings: tuple[tuple[str, str], ...], process: int) -> Driver:
    return Driver(url)


def _refusal(error: Exception) -> OSError | None:
    status = getattr(error, "status", None)  # of HTTP
    if status in (401, 403):
        return PermissionError(errno.EACCES, f"the server refuses these credentials: {status}")
    return OSError(errno.EIO, f"the server answers {status}") if isinstance(status, int) else None


def _words(error: BaseException) -> str:
    """Return what an error says in one line; its kind if it says nothing."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().partition("\n")[0].rstrip(".")[:300] or type(error).__name__
