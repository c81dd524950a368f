"""Where recorded epochs go: a run that this process writes alone, or together with other ranks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

from actstore import schema
from actstore.errors import InvalidDataError, NotInStoreError, RunExistsError
from actstore.recording.kept import Recorded
from actstore.recording.ranks import Ranks
from actstore.recording.shared import SharedSink, raise_first
from actstore.storage.location import StorePath
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
) -> Sink:
    """Begin a run, or continue one; with several ranks, all of them at once.

    Raises
    ------
    RunExistsError
        If the store holds the run and it is neither to be continued nor to be replaced.
    InvalidDataError
        If the run to continue keeps something else of its layers.
    """
    begin = functools.partial(_begin, store, run, slots=slots, attributes=attributes)
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
    return SharedSink(writer, ranks, store, run, planned)


def _begin(
    store: StorePath,
    run: str,
    *,
    slots: int,
    attributes: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
) -> RunWriter | None:
    """Open the writer of a run; None when the one to continue is complete."""
    create = functools.partial(RunWriter.create, store, run, slots=slots, attributes=attributes)
    if not resume:
        return create(overwrite=overwrite)
    with contextlib.suppress(RunExistsError):
        return create()
    try:
        writer = RunWriter.append(store, run)
    except RunExistsError:
        return None
    except (InvalidDataError, NotInStoreError):
        return create(overwrite=True)  # killed before it had room for an epoch
    found, wanted = writer.keeps, schema.kept(attributes)
    if (schema.ACTIVATIONS in found) != (schema.ACTIVATIONS in wanted):
        writer.close(complete=False)
        raise InvalidDataError(
            f"run {run!r} keeps {' and '.join(found)}, and it was to be continued with "
            f"{' and '.join(wanted)}; continue it as it was begun, or replace it with overwrite"
        )
    return writer
