"""Record the layers of a model while it trains: the one class that a training loop needs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from actstore import schema
from actstore.errors import (
    InvalidDataError,
    InvalidParameterError,
    NotInStoreError,
    RunExistsError,
)
from actstore.recording.background import BackgroundWriter
from actstore.recording.capture import (
    Capture,
    Pool,
    find_readout,
    find_taps,
    readout_arrays,
    unwrap,
)
from actstore.recording.forward import forward as default_forward
from actstore.recording.forward import is_number
from actstore.recording.rows import Rows
from actstore.recording.schedule import Schedule
from actstore.recording.snapshot import Array, EpochSnapshot
from actstore.storage.location import StorePath
from actstore.storage.writer import RunWriter


class Recorder:
    """Writes activations, labels, readout and metrics of chosen epochs into a store.

    Used as a context manager around the training. Each recorded epoch is committed as a
    whole when its ``with`` block ends; after an exception in the block nothing of it is.
    Nothing of the training changes: hooks exist only inside ``watch``, and modes and
    random state are left as they were found.

    Parameters
    ----------
    store
        Path of the store; made if there is none.
    model
        The model that is trained. ``torch.compile``, ``DataParallel`` and the like are
        looked through.
    epochs
        Epochs that the training will have, of which ``schedule`` chooses.
    width
        Neurons of the recorded layer. Without it: what the readout reads.
    seed
        Seed of the training; part of the run's name.
    schedule
        A :class:`Schedule`, its rule (``"0,paper"``) or a list of epochs; by default the
        paper's list.
    readout
        Dotted name of the readout. Without it: the last ``nn.Linear``.
    layers
        Layer name → ``"module"``, ``"module:input"`` or ``"module:output"``. Without it:
        ``last_hidden``, the input of the readout.
    pool
        Turns an activation that is not ``(sample, neuron)`` into one that is; feature maps
        are averaged over their positions when it is not given.
    run
        Name of the run. Without it: made of width, hyper-parameters and seed.
    model_name, dataset
        What is trained on what, in words.
    hyper_parameters
        Settings that tell the runs of a sweep apart, such as ``{"weight_decay": 0.005}``.
    provenance
        Facts to keep with the run; versions are added.
    resume
        Continue an interrupted run after its last committed epoch. Of a complete run no
        epoch is due.
    overwrite
        Replace a run of the same name.
    background
        Write in a thread while the training goes on. An error of the writer is then raised
        by the next call, at the latest when the recorder closes.

    Attributes
    ----------
    readout : str or None
    layers : dict
        Layer name → where it is read.
    schedule : Schedule
    planned : tuple of int
        Epochs that the schedule chooses beforehand.
    run : str
        Name of the run.

    Raises
    ------
    InvalidParameterError
        If a module does not exist, or ``width`` is not what the readout reads.
    RunExistsError
        If the store holds the run and neither ``resume`` nor ``overwrite`` is given.

    Examples
    --------
    >>> import tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> loader = [(torch.randn(10, 4), torch.zeros(10, dtype=torch.long))]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Recorder(f"{folder}/runs.zarr", model, epochs=2) as recorder:
    ...         for epoch in (1, 2):
    ...             recorder.record(epoch, test=loader, train_error=0.1)
    >>> recorder.run, recorder.committed
    ('width=8,seed=0', (1, 2))
    """

    def __init__(
        self,
        store: StorePath,
        model: nn.Module,
        *,
        epochs: int,
        width: int | None = None,
        seed: int = 0,
        schedule: Schedule | str | Iterable[int] | None = None,
        readout: str | None = None,
        layers: Mapping[str, str] | None = None,
        pool: Pool | None = None,
        run: str | None = None,
        model_name: str = "",
        dataset: str = "",
        hyper_parameters: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        background: bool = True,
    ) -> None:
        if resume and overwrite:
            raise InvalidParameterError(
                "resume and overwrite were both given; choose whether what is stored is continued "
                "or replaced"
            )
        self.model = model
        self.schedule = Schedule.of(schedule)
        self.planned = self.schedule.epochs(epochs)
        inner = unwrap(model)
        if layers is None or readout is not None:
            readout = find_readout(inner, readout)
        elif any(isinstance(module, nn.Linear) for module in inner.modules()):
            readout = find_readout(inner)
        taps = find_taps(inner, layers or {schema.DEFAULT_LAYER: str(readout)}, readout=readout)
        # A readout is stored where it reads a recorded layer: only then can errors of subsets
        # be computed from the two.
        reads = str(taps.get(schema.DEFAULT_LAYER)) == f"{readout}:input"
        self.readout = readout if reads else None
        self._readout = inner.get_submodule(readout) if reads and readout else None
        self.layers = {layer: str(tap) for layer, tap in taps.items()}
        self._taps, self._pool = taps, pool
        self.width = self._width(width)
        self.run = run or schema.run_name(self.width, seed, hyper_parameters or {})
        self._writer = _open(
            store,
            self.run,
            slots=self.schedule.slots(epochs),
            attributes=schema.run_attributes(
                model=model_name or type(inner).__name__,
                dataset=dataset,
                width=self.width,
                seed=seed,
                hyper_parameters=hyper_parameters,
                layers=self.layers,
                provenance={"torch": str(torch.__version__), **(provenance or {})},
            ),
            resume=resume,
            overwrite=overwrite,
        )
        self._background = BackgroundWriter() if background else None
        self._labels: dict[str, Array] = {}
        self._spare: dict[tuple[str, str], list[Rows]] = {}
        self._open_epoch: int | None = None
        self._last = self.committed[-1] if self.committed else -1
        self._interpolated = any(epoch not in self.planned for epoch in self.committed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as late:
            if error is None:
                raise
            # The exception that ended the training says more; the writer's is kept beside it.
            error.add_note(f"and the recorder: {late}")

    @property
    def committed(self) -> tuple[int, ...]:
        """Epochs in the store; one that is still being written is not among them."""
        return self._writer.committed if self._writer is not None else self.planned

    @property
    def complete(self) -> bool:
        """Whether the last scheduled epoch is in the store."""
        return self._writer is None or self.planned[-1] in self._writer.committed

    def due(self, epoch: int, *, train_error: float | None = None) -> bool:
        """Return whether ``epoch`` is to be recorded.

        Parameters
        ----------
        epoch
            Completed passes over the training set.
        train_error
            For the schedule ``zero_train_error``: the first epoch where it is 0 is due.
        """
        if self._background is not None:
            self._background.check()
        if self._writer is None or epoch <= self._last:
            return False
        return epoch in self.planned or (
            train_error == 0 and self.schedule.at_zero_train_error and not self._interpolated
        )

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[EpochSnapshot]:
        """Record an epoch: watch evaluation sets and log metrics in the ``with`` block.

        Raises
        ------
        InvalidParameterError
            If the epoch is not scheduled or was recorded already.
        CaptureError
            If nothing was watched, or a loop was left before its last batch.
        InvalidDataError
            If samples or labels differ from the epochs before, or a value is not finite.
        StoreWriteError
            If the disk refuses. Errors of the writer are raised by the next call.
        """
        writer = self._check_epoch(epoch)
        snapshot = EpochSnapshot(
            epoch,
            self.model,
            Capture(self._taps, pool=self._pool),
            known_labels=self._labels,
            new_rows=self._borrow,
        )
        self._open_epoch = epoch
        try:
            yield snapshot
            snapshot.close()
            snapshot.finish()
            self._commit(writer, snapshot)
        finally:
            snapshot.close()
            self._open_epoch = None

    def record(
        self,
        epoch: int,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        labels: Callable[[Any], Any] | None = None,
        **splits_and_metrics: Any,
    ) -> None:
        """Record an epoch by an evaluation pass of the recorder's own.

        Parameters
        ----------
        epoch
            Completed passes over the training set.
        forward
            Calls the model on a batch. Without it: on a tuple's first element or with a
            mapping's items as keywords, moved to the model's device.
        labels
            See :meth:`EpochSnapshot.watch`.
        **splits_and_metrics
            A loader is a split, ``test=loader``; a number is a metric, ``train_error=0.1``.

        Raises
        ------
        InvalidParameterError, CaptureError, InvalidDataError, StoreWriteError
            As :meth:`epoch` and :meth:`EpochSnapshot.watch`.
        """
        metrics = {name: x for name, x in splits_and_metrics.items() if is_number(x)}
        # torch.compile skips hooks, the model inside does not.
        model = getattr(self.model, "_orig_mod", self.model)
        with self.epoch(epoch) as snapshot:
            for split, loader in splits_and_metrics.items():
                if split not in metrics:
                    for batch in snapshot.watch(loader, split, labels=labels):
                        (forward or default_forward)(model, batch)
            snapshot.log(**metrics)

    def flush(self) -> None:
        """Wait until every recorded epoch is in the store; raise what its writing raised."""
        if self._background is not None:
            self._background.wait()

    def close(self) -> None:
        """Wait for the writer; mark the run complete if its last scheduled epoch is stored."""
        if self._writer is None:
            return
        try:
            self.flush()
        finally:
            if self._background is not None:
                self._background.close()
            self._writer.close(complete=self.complete)

    def update_provenance(self, **facts: Any) -> None:
        """Add facts known only at the end, such as the wall time."""
        if self._writer is not None:
            self.flush()
            self._writer.update_provenance(**facts)

    def _width(self, width: int | None) -> int:
        if self._readout is None:
            if width is None:
                raise InvalidParameterError(
                    f"the layers {', '.join(self.layers)} do not tell the run's width; pass width="
                )
            return width
        weight = self._readout.weight
        assert isinstance(weight, torch.Tensor)
        found = int(weight.shape[1])
        if width not in (None, found):
            raise InvalidParameterError(
                f"width {width} was given, and the readout {self.readout!r} reads {found} "
                f"neurons; give width={found}, or name another readout with readout="
            )
        return found

    def _check_epoch(self, epoch: int) -> RunWriter:
        if self._background is not None:
            self._background.check()
        if self._writer is None:
            raise InvalidParameterError(f"run {self.run!r} is complete; no epoch of it is due")
        if self._open_epoch is not None:
            raise InvalidParameterError(
                f"epoch {self._open_epoch} is still being recorded; end its block before {epoch}"
            )
        if epoch <= self._last:
            raise InvalidParameterError(
                f"epoch {epoch} was asked for after epoch {self._last}; record epochs in "
                "ascending order, each once"
            )
        event = self.schedule.at_zero_train_error and not self._interpolated
        if epoch not in self.planned and not event:
            raise InvalidParameterError(
                f"epoch {epoch} is not in the schedule {self.schedule.rule!r} (epochs "
                f"{', '.join(map(str, self.planned))}); ask recorder.due(epoch) first"
            )
        return self._writer

    def _commit(self, writer: RunWriter, snapshot: EpochSnapshot) -> None:
        readout = None
        if self._readout is not None:
            weight, bias = readout_arrays(self._readout)
            # Copies: the training changes the parameters while the writer still reads them.
            readout = (weight.numpy().copy(), bias.numpy().copy())

        def write() -> None:
            writer.write(
                snapshot.epoch,
                {
                    split: {layer: rows.array() for layer, rows in layers.items()}
                    for split, layers in snapshot.activations.items()
                },
                labels=snapshot.labels,
                samples=snapshot.samples or None,
                readout=readout,
                metrics=snapshot.metrics,
            )
            for split, layers in snapshot.activations.items():
                for layer, rows in layers.items():
                    self._spare.setdefault((split, layer), []).append(rows)

        if self._background is None:
            write()
        else:
            self._background.submit(write)
        self._labels = dict(snapshot.labels)
        self._last = snapshot.epoch
        if snapshot.epoch not in self.planned or snapshot.metrics.get("train_error") == 0:
            self._interpolated = True

    def _borrow(self, split: str, layer: str) -> Rows:
        """Return memory that an epoch before has been written from, or new."""
        spare = self._spare.get((split, layer))
        rows = spare.pop() if spare else Rows()
        rows.clear()
        return rows


def _open(
    store: StorePath,
    run: str,
    *,
    slots: int,
    attributes: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
) -> RunWriter | None:
    """Begin a run, or continue one; None when the one to continue is complete."""
    create = functools.partial(RunWriter.create, store, run, slots=slots, attributes=attributes)
    if not resume:
        return create(overwrite=overwrite)
    with contextlib.suppress(RunExistsError):
        return create()
    try:
        return RunWriter.append(store, run)
    except RunExistsError:
        return None
    except (InvalidDataError, NotInStoreError):
        return create(overwrite=True)  # killed before it had room for an epoch
