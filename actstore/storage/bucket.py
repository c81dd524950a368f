"""Opening buckets by URL and the environment, and what their servers refuse in a few words."""

from __future__ import annotations

import errno
import functools
import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore import exceptions
from obstore.store import from_url

from actstore.errors import StoreNotFoundError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

#: what names endpoints and credentials in the environment begin with
_FAMILIES = ("AWS_", "AZURE_", "GOOGLE_")


def open_bucket(url: str, patience: float) -> Any:
    """Return obstore's store at a URL; one that this process opened before if there is one.

    Parameters
    ----------
    url : str
    patience : float
        Seconds in which a request that fails is repeated.

    Raises
    ------
    StoreNotFoundError
        If that is no URL of a bucket.
    """
    if url.startswith("memory:"):
        return _memory(url)
    environment = tuple(
        item for item in sorted(os.environ.items()) if item[0].startswith(_FAMILIES)
    )
    return _bucket(url, patience, environment, os.getpid())


def is_refusal(error: Exception) -> bool:
    """Return whether an error is more than that an object is not there."""
    if isinstance(error, FileNotFoundError):
        return "NoSuchBucket" in str(error)
    return isinstance(error, exceptions.BaseError)


def refusal(error: Exception, url: str) -> OSError:
    """Return the error that a disk would have raised, its ``strerror`` in a few words."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    name = code[1] if code else ""
    if name == "NoSuchBucket":
        bucket = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return FileNotFoundError(errno.ENOENT, f"there is no bucket {bucket!r}")
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        # what is asked last: the machine itself, were it one of the provider's
        return PermissionError(errno.EACCES, "no credentials were found in the environment")
    if isinstance(error, exceptions.NotSupportedError) or name == "NotImplemented":
        return OSError(errno.ENOTSUP, "the server has no conditional writes, which locks need")
    denied = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
    if isinstance(error, denied) or re.search(r"status code: 40[13]", text):
        because = f": {name}" if name else ""
        return PermissionError(errno.EACCES, f"the server refuses these credentials{because}")
    if "HTTP error" in text:  # no answer, or not all of one
        server = re.search(r"(https?://[^/\s]+)", text)
        return ConnectionError(
            errno.ENOTCONN, f"{server[1] if server else 'the server'} does not answer"
        )
    return OSError(errno.EIO, name or _first_line(error))


@functools.lru_cache(maxsize=64)
def _bucket(
    url: str, patience: float, environment: tuple[tuple[str, str], ...], process: int
) -> Any:
    """Open a bucket once a process and environment: its connections are used again."""
    options: ClientConfig = {
        "allow_http": True,  # only where an endpoint or a URL says so
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(minutes=10),
    }
    retry: RetryConfig = {
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=max(1.0, patience / 15)),
            "base": 3,  # the next is drawn from up to this times the last: by 2 it hardly grows
        },
        "max_retries": 1000,  # the time decides
        "retry_timeout": timedelta(seconds=patience),
    }
    try:
        return from_url(url, client_options=options, retry_config=retry)
    except (exceptions.BaseError, ValueError) as error:
        raise StoreNotFoundError(
            f"{url!r} cannot be opened ({_first_line(error)}); give a folder, or a URL such as "
            "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
        ) from error


@functools.cache
def _memory(url: str) -> Any:
    return from_url("memory://")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")[:300]
