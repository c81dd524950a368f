"""Putting activations that exist already into a store, as a run like any recorded one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError, RunExistsError
from actstore.storage import layout
from actstore.storage.cleaning import delete_run
from actstore.storage.location import StorePath, files_at, open_root
from actstore.storage.progress import Counter, Progress
from actstore.storage.reading import is_run, member
from actstore.storage.seal import DOCUMENT
from actstore.storage.shards import Blocks, write_epoch
from actstore.storage.snapshot import LEAST_SAMPLES, Snapshot, check_finite
from actstore.storage.writer import RunWriter

Array: TypeAlias = npt.NDArray[Any]
Layers: TypeAlias = Mapping[str, Mapping[str, Sequence[Array]]]
Readout: TypeAlias = tuple[Sequence[Array], Sequence[Array]]

BLOCK_BYTES = 2**26
UNKNOWN_LABEL = -1


def import_run(
    store: StorePath,
    activations: Layers,
    *,
    epochs: Sequence[int],
    labels: Mapping[str, Array] | None = None,
    readout: Readout | None = None,
    width: int | None = None,
    seed: int = 0,
    run: str | None = None,
    slots: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **attributes: Any,
) -> str:
    """Write arrays into a store as the epochs of a run, and return the run's name.

    Arrays that lie on the disk (``numpy.memmap``) are read in blocks: they may be larger than the
    memory. All are read once before anything is written, to be checked.

    Parameters
    ----------
    store : str or path
        Made if there is none.
    activations : mapping of split to mapping of layer to sequence of array
        An array ``(sample, neuron)`` an epoch; stored as float32.
    epochs : sequence of int
        Number of each epoch, ascending.
    labels : mapping of split to array, optional
        Each ``(sample,)``. A split without labels gets -1 throughout.
    readout : (weights, biases), optional
        For each epoch ``(output, neuron)`` and ``(output,)``, as ``torch.nn.Linear`` has them.
    width : int, optional
        Neurons of the run's layer, where it holds several and none is ``last_hidden``.
    seed : int
    run : str, optional
        Name of the run; without it, made of width, hyper-parameters and seed.
    slots : int, optional
        Epochs that the run will have in all, if this is not all of them: the others are
        imported later, and the run is complete when its last one is.
    overwrite : bool
        Whether a run of this name may be replaced.
    progress : callable, optional
        Called with how many bytes were checked or written so far, and how many there are to do.
    **attributes
        ``hyper_parameters``, ``model``, ``dataset`` and ``provenance`` of
        :func:`actstore.schema.run_attributes`.

    Raises
    ------
    InvalidDataError
        If anything is not finite or does not fit the rest; nothing is then stored.
    InvalidParameterError
        If numbers of epochs differ, or the width is not that of the layer.
    RunExistsError
        If the store holds the run complete, and ``overwrite`` is false.
    StoreWriteError
        If the disk refuses.
    """
    _check_counts(activations, readout, epochs)
    arrays = [x for layers in activations.values() for several in layers.values() for x in several]
    # as float32; each is read to be checked, and again to be written
    told = Counter(2 * sum(4 * x.size for x in arrays), progress)
    for split, layers in activations.items():
        for layer, several in layers.items():
            for epoch, x in zip(epochs, several, strict=True):
                _check(x, f"layer {layer!r} of split {split!r} at epoch {epoch}", told)
    width = _width(activations, readout, width)
    name = run or schema.run_name(width, seed, attributes.get("hyper_parameters") or {})
    known = {
        split: np.atleast_1d((labels or {}).get(split, _unknown(layers)))
        for split, layers in activations.items()
    }
    unused = sorted(set(labels or {}) - set(activations))
    if unused:
        raise InvalidParameterError(
            f"labels of split {unused[0]!r} were given without its activations; "
            f"there are activations of {', '.join(activations)}"
        )
    for place in range(len(epochs)):  # what can be refused is refused before a run is begun
        _check_rows(activations, known, place)
        Snapshot.checked(_widths(activations, place), known, None, _at(readout, place), None)
    writer, fresh = _open(store, name, overwrite, slots or len(epochs), lambda: _attributes(
        width, seed, attributes))  # fmt: skip
    try:
        for place, epoch in enumerate(epochs):
            writer.write(
                int(epoch),
                _widths(activations, place),
                labels=known,
                readout=_at(readout, place),
                blocks=_blocks(store, name, activations, place, told),
            )
        writer.close(complete=writer.full)
    except BaseException:
        begun = not writer.committed
        writer.close(complete=False)
        if fresh and begun:  # a run without an epoch would be in the way of the next attempt
            delete_run(open_root(store, mode="r+"), name)
        raise
    return name


def _attributes(width: int, seed: int, given: Mapping[str, Any]) -> dict[str, Any]:
    provenance = {**(given.get("provenance") or {}), "imported": schema.now()}
    return schema.run_attributes(width=width, seed=seed, **{**given, "provenance": provenance})


def _open(
    store: StorePath, name: str, overwrite: bool, slots: int, attributes: Any
) -> tuple[RunWriter, bool]:
    """Continue the run if it has room, else begin it; say which."""
    if not overwrite and files_at(store, read_only=True).has(DOCUMENT):
        held = member(open_root(store), name, os.fspath(store))
        if is_run(held) and held is not None:
            if held.attrs.get("complete"):
                raise RunExistsError(
                    f"run {name!r} is already in {os.fspath(store)!r}, complete; give another "
                    "--run or --seed, or --overwrite it"
                )
            return RunWriter.append(store, name), False
    created = RunWriter.create(
        store, name, slots=slots, attributes=attributes(), overwrite=overwrite
    )
    return created, True


def _check_counts(activations: Layers, readout: Readout | None, epochs: Sequence[int]) -> None:
    counts = {
        f"activations of {split}/{layer}": len(several)
        for split, layers in activations.items()
        for layer, several in layers.items()
    }
    if readout is not None:
        counts |= {"readout weights": len(readout[0]), "readout biases": len(readout[1])}
    for what, count in counts.items():
        if count != len(epochs):
            raise InvalidParameterError(
                f"{count} {what} were given for {len(epochs)} epochs "
                f"({', '.join(map(str, epochs))}); give one an epoch"
            )
    if not epochs or sorted(set(epochs)) != list(epochs) or min(epochs) < 0:
        raise InvalidParameterError(
            f"epochs {list(epochs)} were given; expected ascending numbers from 0"
        )


def _check(x: Array, what: str, told: Callable[[int], None]) -> None:
    """Raise unless ``x`` can be stored, reading it in blocks."""
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise InvalidDataError(
            f"{what} has shape {x.shape} and dtype {x.dtype}; expected numbers of shape "
            "(sample, neuron), or (epoch, sample, neuron) with as many epochs as are named"
        )
    if x.shape[0] < LEAST_SAMPLES or x.shape[1] < 1:
        raise InvalidDataError(
            f"{what} has {x.shape[0]} samples of {x.shape[1]} neurons; "
            f"at least {LEAST_SAMPLES} samples and one neuron are needed"
        )
    for block in _rows(x):
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused
            check_finite(np.asarray(block, "float32"), what)
        told(4 * block.size)


def _rows(x: Array) -> Iterator[Array]:
    step = max(1, BLOCK_BYTES // (4 * x.shape[1]))
    for start in range(0, len(x), step):
        yield x[start : start + step]


def _width(activations: Layers, readout: Readout | None, width: int | None) -> int:
    found = {layer: x[0].shape[1] for layers in activations.values() for layer, x in layers.items()}
    main = found.get(schema.DEFAULT_LAYER)
    if main is None and len(found) == 1:
        (main,) = found.values()
    if main is None and readout is not None:
        main = readout[0][0].shape[-1]
    if main is None and width is None:
        raise InvalidParameterError(
            f"layers {', '.join(found)} were given, and none is called "
            f"{schema.DEFAULT_LAYER!r}; give the width of the run"
        )
    if main is not None and width not in (None, main):
        raise InvalidParameterError(
            f"width {width} was asked for, and the layer has {main} neurons; "
            "leave the width out, or check that the array is (sample, neuron)"
        )
    return int(main if main is not None else width)  # type: ignore[arg-type]


def _widths(activations: Layers, place: int) -> dict[str, dict[str, Any]]:
    return {
        split: {layer: int(several[place].shape[1]) for layer, several in layers.items()}
        for split, layers in activations.items()
    }


def _at(readout: Readout | None, place: int) -> tuple[Array, Array] | None:
    return None if readout is None else (readout[0][place], readout[1][place])


def _check_rows(activations: Layers, labels: Mapping[str, Array], place: int) -> None:
    for split, layers in activations.items():
        rows = {layer: len(several[place]) for layer, several in layers.items()}
        if set(rows.values()) != {len(labels[split])}:
            raise InvalidDataError(
                f"split {split!r} has {len(labels[split])} labels and "
                + ", ".join(f"{count} samples of layer {layer!r}" for layer, count in rows.items())
                + "; give one of each a sample"
            )


def _unknown(layers: Mapping[str, Sequence[Array]]) -> Array:
    return np.full(len(next(iter(layers.values()))[0]), UNKNOWN_LABEL)


def _blocks(
    store: StorePath, run: str, activations: Layers, place: int, told: Callable[[int], None]
) -> Blocks:
    """Let the writer take the samples from where they are, chunk by chunk."""

    def write(slot: int) -> None:
        for split, layers in activations.items():
            for layer, several in layers.items():
                path = f"{run}/{split}/{layer}/{schema.ACTIVATIONS}"
                array = zarr.open_array(files_at(store), path=path, mode="r+")
                write_epoch(array, slot, several[place], told=told)

    sparse = {
        (split, layer): _is_sparse(several[place])
        for split, layers in activations.items()
        for layer, several in layers.items()
    }
    return Blocks(1, sparse, write)


def _is_sparse(x: Array) -> bool:
    step = max(1, x.size >> 20)
    return layout.is_sparse(np.ascontiguousarray(x[::step]))
