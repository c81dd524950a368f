"""Record the layers of a model while it trains: the one class that a training loop needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import nn

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.recording.background import BackgroundWriter
from actstore.recording.capture import (
    Capture,
    Pool,
    device_order,
    find_layers,
    readout_arrays,
    run_width,
    unwrap,
)
from actstore.recording.forward import forward as default_forward
from actstore.recording.forward import is_number
from actstore.recording.kept import Kept, Recorded, what_is_kept
from actstore.recording.moments import MomentSum
from actstore.recording.ranks import Ranks
from actstore.recording.rows import Rows
from actstore.recording.schedule import Schedule
from actstore.recording.sink import open_sink
from actstore.recording.snapshot import Array, EpochSnapshot
from actstore.storage.location import StorePath


class Recorder:
    """Writes activations, labels, readout and metrics of chosen epochs into a store.

    Used as a context manager around the training. Each recorded epoch is committed as a
    whole when its ``with`` block ends; after an exception in the block nothing of it is.
    Nothing of the training changes: hooks exist only inside ``watch``, and modes and
    random state are left as they were found.

    In a distributed training (``torchrun``) every rank makes a recorder after
    ``init_process_group`` and does the same with it: each writes its own samples, and rank 0
    commits the epoch when all are written. Metrics and readout are those of rank 0.

    Parameters
    ----------
    store
        Path of the store, or its URL in a bucket; made if there is none.
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
        Epochs to record: a list, or a rule of :class:`actstore.recording.Schedule` such as
        ``"0,every:10"``; by default ``"paper"``, which is 1, 2, 5, 10, 20, 40, … and the last.
    readout
        Dotted name of the readout. Without it: the last ``nn.Linear``.
    layers
        Layer name → ``"module"``, ``"module:input"`` or ``"module:output"``. Without it:
        ``last_hidden``, the input of the readout.
    pool
        Turns an activation that is not ``(sample, neuron)`` into one that is; feature maps
        are averaged over their positions when it is not given.
    moments
        Sum the moments of each layer while it is recorded (on the device, in float64) and
        store them, so that the first query reads no activations.
    keep
        ``"activations"``, or ``"moments"`` to store nothing else of the layers: it takes
        2 W / N of the space, and answers what needs no samples.
    keep_bits
        Round activations to this many bits of mantissa, 1 to 23, before they are stored: 10 bits
        (the precision of float16) take half the space. What it changes of R² and residual
        correlation is measured at the first epoch and stored with the run.
    run
        Name of the run. Without it: made of width, hyper-parameters and seed.
    model_name, dataset
        What is trained on what, in words.
    hyper_parameters
        Settings that tell the runs of a sweep apart, such as ``{"weight_decay": 0.005}``.
    provenance
        Facts to keep with the run; versions are added.
    resume
        Continue an interrupted run: epochs up to the last committed one are not due, of a complete
        run none is. Weights are not stored: load your own checkpoint, or train from the start.
    overwrite
        Replace a run of the same name.
    durable
        Bring every epoch to the disk before it is committed, so that it outlives a power failure.
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
        Epochs that the schedule chooses beforehand, up to the last one (see :meth:`end_at`).
    ranks : Ranks or None
        The processes of a distributed training.
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
        moments: bool = False,
        keep: Literal["activations", "moments"] = "activations",
        keep_bits: int | None = None,
        run: str | None = None,
        model_name: str = "",
        dataset: str = "",
        hyper_parameters: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        durable: bool = False,
        background: bool = True,
    ) -> None:
        self.keep = what_is_kept(keep, moments=moments, keep_bits=keep_bits)
        self.model = model
        self.schedule = Schedule.of(schedule)
        self.planned = self.schedule.epochs(epochs)
        inner = unwrap(model)
        self.readout, taps = find_layers(inner, readout, layers)
        self._readout = inner.get_submodule(self.readout) if self.readout else None
        self.layers = {layer: str(tap) for layer, tap in taps.items()}
        self._taps, self._pool = taps, pool
        self.width = run_width(self._readout, width, name=self.readout, layers=self.layers)
        self.run = run or schema.run_name(self.width, seed, hyper_parameters or {})
        self.ranks = Ranks.find()
        self._sink = open_sink(
            store,
            self.run,
            slots=self.schedule.slots(epochs),
            planned=self.planned,
            attributes=schema.run_attributes(
                model=model_name or type(inner).__name__,
                dataset=dataset,
                width=self.width,
                seed=seed,
                hyper_parameters=hyper_parameters,
                layers=self.layers,
                keep=self.keep,
                keep_bits=keep_bits,
                provenance={"torch": str(torch.__version__), **(provenance or {})},
            ),
            resume=resume,
            overwrite=overwrite,
            durable=durable,
        )
        self._background = BackgroundWriter() if background else None
        self._labels: dict[str, Array] = {}
        self._spare: dict[tuple[str, str], list[Rows]] = {}
        self._open_epoch: int | None = None
        self._last = self.committed[-1] if self.committed else -1
        self._interpolated = any(epoch not in self.planned for epoch in self.committed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
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
        return self._sink.committed

    @property
    def complete(self) -> bool:
        """Whether the last scheduled epoch is in the store."""
        return self.planned[-1] in self._sink.committed

    def due(self, epoch: int, *, train_error: float | None = None) -> bool:
        """Return whether ``epoch`` is to be recorded.

        Parameters
        ----------
        epoch
            Completed passes over the training set.
        train_error
            The schedule ``zero_train_error`` needs it: the first epoch where it is 0 is due.
        """
        if self._background is not None:
            self._background.check()
        if not self._sink.open or epoch <= self._last:
            return False
        return epoch in self.planned or (
            train_error == 0 and self.schedule.at_zero_train_error and not self._interpolated
        )

    def end_at(self, epoch: int) -> None:
        """End early: let ``epoch`` be the last one, and none that was planned after it be due.

        Raises
        ------
        InvalidParameterError
            If a later epoch is recorded already.
        """
        if epoch < self._last:
            raise InvalidParameterError(
                f"epoch {epoch} was to be the last, and epoch {self._last} is recorded; end there"
            )
        if epoch < self.planned[-1]:
            self.planned = (*(one for one in self.planned if one < epoch), epoch)

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
        if self._background is not None:
            self._background.check()
        self._check_epoch(epoch)
        snapshot = EpochSnapshot(
            epoch,
            self.model,
            Capture(self._taps, pool=self._pool, devices=device_order(self.model)),
            known_labels=self._labels,
            new=self._new,
            ranks=self.ranks,
        )
        self._open_epoch = epoch
        try:
            yield snapshot
            snapshot.close()
            snapshot.finish()
            self._commit(snapshot)
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
        if not self._sink.open:
            return
        try:
            self.flush()
        finally:
            if self._background is not None:
                self._background.close()
            self._sink.close(complete=self.complete)

    def update_provenance(self, **facts: Any) -> None:
        """Add facts known only at the end, such as the wall time."""
        if self._sink.open:
            self.flush()
            self._sink.update_provenance(**facts)

    def _check_epoch(self, epoch: int) -> None:
        if not self._sink.open:
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

    def _commit(self, snapshot: EpochSnapshot) -> None:
        readout = None
        if self._readout is not None:
            weight, bias = readout_arrays(self._readout)
            # Copies: the training changes the parameters while the writer still reads them.
            readout = (weight.numpy().copy(), bias.numpy().copy())

        found = snapshot.layers, snapshot.labels, snapshot.samples, snapshot.metrics
        recorded = Recorded(snapshot.epoch, *found, readout)

        def write() -> None:
            self._sink.write(recorded)
            for split, layers in snapshot.layers.items():
                for layer, kept in layers.items():
                    if kept.rows is not None:
                        self._spare.setdefault((split, layer), []).append(kept.rows)

        if self._background is None:
            write()
        else:
            self._background.submit(write)
        self._labels = dict(snapshot.labels)
        self._last = snapshot.epoch
        if snapshot.epoch not in self.planned or snapshot.metrics.get("train_error") == 0:
            self._interpolated = True

    def _new(self, split: str, layer: str) -> Kept:
        """Return what a layer is gathered in: memory that was written from before, or new."""
        rows = None
        if schema.ACTIVATIONS in self.keep:
            spare = self._spare.get((split, layer))
            rows = spare.pop() if spare else Rows()
            rows.clear()
        return Kept(rows, MomentSum() if schema.MOMENTS in self.keep else None)
