"""Where recorded epochs go: a run that this process writes alone, or together with other ranks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError, RunExistsError
from actstore.recording.kept import Recorded
from actstore.recording.ranks import Ranks
from actstore.recording.shared import SharedSink, raise_first
from actstore.storage.location import StorePath, open_root
from actstore.storage.writer import RunWriter


class OwnSink:
    """A run that this process writes alone.

    Parameters
    ----------
    writer
        None for a run that is complete.
    """

    def __init__(self, writer: RunWriter | None, planned: tuple[int, ...]) -> None:
        self._writer = writer
        self._planned = planned

    @property
    def open(self) -> bool:
        """Whether epochs can be written."""
        return self._writer is not None

    @property
    def committed(self) -> tuple[int, ...]:
        """Epochs in the store."""
        return self._planned if self._writer is None else self._writer.committed

    def write(self, recorded: Recorded) -> None:
        """Write an epoch and commit it."""
        assert self._writer is not None
        arrays, widths = recorded.arrays(), recorded.widths()
        self._writer.write(
            recorded.epoch,
            {split: {**layers, **arrays[split]} for split, layers in widths.items()},
            labels=recorded.labels,
            samples=recorded.samples or None,
            readout=recorded.readout,
            metrics=recorded.metrics,
            moments=recorded.moments(),
        )

    def close(self, *, complete: bool) -> None:
        """End the writing."""
        if self._writer is not None:
            self._writer.close(complete=complete)

    def update_provenance(self, **facts: Any) -> None:
        """Add facts to the run's provenance."""
        if self._writer is not None:
            self._writer.update_provenance(**facts)


Sink: TypeAlias = OwnSink | SharedSink


def open_sink(
    store: StorePath,
    run: str,
    *,
    slots: int,
    planned: tuple[int, ...],
    attributes: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    durable: bool = False,
) -> Sink:
    """Begin a run, or continue one; with several ranks, all of them at once.

    Raises
    ------
    RunExistsError
        If the store holds the run and it is neither to be continued nor to be replaced.
    InvalidDataError
        If the run to continue keeps something else of its layers.
    InvalidParameterError
        If it is both to be continued and to be replaced.
    """
    if resume and overwrite:
        raise InvalidParameterError(
            "resume and overwrite were both given; choose whether what is stored is continued or "
            "replaced"
        )
    begin = functools.partial(
        _begin, store, run, slots=slots, attributes=attributes, durable=durable
    )
    ranks = Ranks.find()
    if ranks is None:
        return OwnSink(begin(resume=resume, overwrite=overwrite), planned)
    writer, problem = None, None
    if ranks.rank == 0:
        try:
            writer = begin(resume=resume, overwrite=overwrite)
        except Exception as error:
            problem = error
    raise_first(ranks.share(problem)[:1])
    return SharedSink(writer, ranks, store, run, planned, durable=durable)


def _begin(
    store: StorePath,
    run: str,
    *,
    slots: int,
    attributes: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    durable: bool,
) -> RunWriter | None:
    """Open the writer of a run; None when the one to continue is complete."""
    create = functools.partial(
        RunWriter.create, store, run, slots=slots, attributes=attributes, durable=durable
    )
    if not resume:
        return create(overwrite=overwrite)
    with contextlib.suppress(RunExistsError):
        return create()
    try:
        writer = RunWriter.append(store, run, durable=durable)
    except RunExistsError:
        return None
    except (InvalidDataError, NotInStoreError):
        return create(overwrite=True)  # killed before it had room for an epoch
    found = schema.kept_in_words(open_root(store)[run].attrs)
    wanted = schema.kept_in_words(attributes)
    if found != wanted:
        writer.close(complete=False)
        raise InvalidDataError(
            f"run {run!r} keeps {found}, and it was to be continued with {wanted}; continue it as "
            "it was begun, or replace it with overwrite"
        )
    return writer
