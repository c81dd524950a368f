"""Names, dims, dtypes and attributes of everything in a store (format 1)."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from actstore._version import __version__
from actstore.errors import InvalidParameterError, StoreFormatError

FORMAT: Final = 1

# dims
RUN: Final = "run"
EPOCH: Final = "epoch"
SAMPLE: Final = "sample"
NEURON: Final = "neuron"
OTHER_NEURON: Final = "other_neuron"  # xarray forbids the same dim twice in one array
OUTPUT: Final = "output"

# arrays and groups
ACTIVATIONS: Final = "activations"
LABEL: Final = "label"
READOUT: Final = "readout"
WEIGHT: Final = "weight"
BIAS: Final = "bias"
MOMENTS: Final = "moments"
COUNT: Final = "count"
MEAN: Final = "mean"
COMOMENT: Final = "comoment"

DEFAULT_LAYER: Final = "last_hidden"
MANTISSA_BITS: Final = 23  # of a float32, without the leading one that is not stored
NO_EPOCH: Final = -1  # fill of the marker: nothing is committed in this slot

#: variable or coordinate -> (long_name, units), used by storage and by every query
LABELS: Final[dict[str, tuple[str, str]]] = {
    "epoch": ("completed passes over the training set", "1"),
    "sample": ("index of the example in its data set", "1"),
    "neuron": ("neuron of the recorded layer", "1"),
    "label": ("class of the example", "1"),
    "activations": ("output of the recorded layer", "1"),
    "weight": ("readout weight", "1"),
    "bias": ("readout bias", "1"),
    "count": ("samples", "1"),
    "mean": ("mean activation", "1"),
    "comoment": ("centred co-moment of the activations", "1"),
    "width": ("neurons in the recorded layer", "neurons"),
    "seed": ("seed of the training", "1"),
    "train_loss": ("training loss", "1"),
    "train_error": ("training error", "1"),
    "test_loss": ("test loss", "1"),
    "test_error": ("test error", "1"),
    "learning_rate": ("learning rate", "1"),
}

_NAME = re.compile(r"[A-Za-z0-9_.=,+\-]+")
_LONGEST = 200  # file systems stop at 255 bytes a name


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it can be a group of the store.

    Raises
    ------
    InvalidParameterError
        If it is empty, longer than 200 characters, begins with a dot or two underscores,
        holds anything but letters, digits and ``_ . = , + -``, or is a file of Zarr.
    """
    reserved = name.startswith((".", "__")) or name == "zarr.json" or name.endswith(".partial")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or reserved:
        raise InvalidParameterError(
            f"the {kind} name {name!r} cannot be stored; use up to {_LONGEST} letters, digits and "
            "_ . = , + -, not beginning with a dot, and neither 'zarr.json' nor '….partial'"
        )
    return name


def check_keep_bits(keep_bits: int) -> int:
    """Return the number of bits if a float32 can be rounded to it.

    Raises
    ------
    InvalidParameterError
        If it is outside 1 … 23.
    """
    if not 1 <= keep_bits <= MANTISSA_BITS:
        raise InvalidParameterError(
            f"keep_bits={keep_bits} was asked for; a float32 has {MANTISSA_BITS} bits of mantissa, "
            "so give 1 to 23 (10 is the precision of float16, 7 that of bfloat16)"
        )
    return int(keep_bits)


def run_name(width: int, seed: int, hyper_parameters: Mapping[str, Any]) -> str:
    """Name of the run of these settings: the same settings give the same name.

    Examples
    --------
    >>> run_name(256, 0, {"weight_decay": 5e-3})
    'width=256,weight_decay=0.005,seed=0'
    """
    parts = {"width": width, **dict(sorted(hyper_parameters.items())), "seed": seed}
    text = ",".join(f"{key}={value}" for key, value in parts.items())
    name = re.sub(r"[^A-Za-z0-9_.=,+\-]", "-", text)
    if len(name) > _LONGEST:  # many hyper-parameters: the beginning, and a hash of them all
        name = f"{name[: _LONGEST - 17]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return name


def run_attributes(
    *,
    width: int,
    seed: int,
    model: str = "",
    dataset: str = "",
    hyper_parameters: Mapping[str, Any] | None = None,
    layers: Mapping[str, str] | None = None,
    keep: Sequence[str] = (ACTIVATIONS,),
    keep_bits: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Attributes of a run's group.

    ``layers`` maps a layer's name to its module path; ``keep`` says what is stored of a layer,
    its ``activations``, its ``moments`` or both. With ``keep_bits`` activations are rounded to
    that many bits of mantissa as they are written.

    Raises
    ------
    InvalidParameterError
        If ``keep_bits`` is not 1 to 23.
    """
    return {
        "width": int(width),
        "seed": int(seed),
        "model": model,
        "dataset": dataset,
        "hyper_parameters": dict(hyper_parameters or {}),
        "layers": dict(layers or {}),
        "keep": list(keep),
        **({} if keep_bits is None else {"keep_bits": check_keep_bits(keep_bits)}),
        "provenance": dict(provenance or {}),
        "created": now(),
        "complete": False,
    }


def root_attributes() -> dict[str, Any]:
    """Attributes of a new store's root group."""
    return {"actstore_format": FORMAT, "actstore_version": __version__, "created": now()}


def check_format(attributes: Mapping[str, Any], path: str) -> None:
    """Raise unless this version reads the store at ``path``.

    Raises
    ------
    StoreFormatError
        If the store's format is newer than this version's, or is not a number.
    """
    found = attributes["actstore_format"]
    if type(found) is not int or found < 1:  # True is an int, too
        raise StoreFormatError(f"{path!r} gives its format as {found!r}; expected a number from 1")
    if found > FORMAT:
        raise StoreFormatError(
            f"{path!r} has format {found}, and actstore {__version__} reads up to {FORMAT}; "
            "install a newer actstore"
        )


def kept(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a run of these attributes keeps of a layer."""
    return tuple(attributes.get("keep", (ACTIVATIONS,)))


def kept_in_words(attributes: Mapping[str, Any]) -> str:
    """Return what a run of these attributes keeps of a layer, for a person.

    Examples
    --------
    >>> kept_in_words({}), kept_in_words({"keep": ["activations"], "keep_bits": 10})
    ('activations', 'activations of 10 bits')
    """
    bits = attributes.get("keep_bits")
    return " and ".join(kept(attributes)) + ("" if bits is None else f" of {bits} bits")


def describe(name: str) -> dict[str, Any]:
    """Return ``long_name`` and ``units`` of a variable, for its attributes."""
    long_name, units = LABELS.get(name, (name.replace("_", " "), "1"))
    return {"long_name": long_name, "units": units}


def readable(time: str) -> str:
    """Return a time of :func:`now` as a person writes it; another text as it is.

    Examples
    --------
    >>> readable("2026-11-05T09:08:07.654321+00:00"), readable("today")
    ('2026-11-05 09:08:07 UTC', 'today')
    """
    try:
        known = datetime.datetime.fromisoformat(time).astimezone(datetime.UTC)
    except ValueError:
        return time
    return f"{known:%Y-%m-%d %H:%M:%S} UTC"


def now() -> str:
    """Return the time in UTC, to the microsecond, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
