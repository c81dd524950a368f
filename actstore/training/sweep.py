"""A sweep: its runs trained one after another, or several at a time, into a store."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from actstore import schema
from actstore.errors import InvalidParameterError, RunExistsError
from actstore.storage.catalogue import Catalogue
from actstore.storage.cleaning import tidy
from actstore.storage.location import StorePath, is_free
from actstore.training.checkpoint import Checkpoint
from actstore.training.hardware import available_cores, devices_for, find_device
from actstore.training.parallel import record_in_parallel
from actstore.training.plan import RunPlan
from actstore.training.progress import Progress, Silent
from actstore.training.provenance import provenance
from actstore.training.run import Data, RunOptions, record_run


def record_sweep(
    store: StorePath,
    plans: Sequence[RunPlan],
    *,
    resume: bool = False,
    overwrite: bool = False,
    durable: bool = False,
    device: str = "auto",
    jobs: int = 1,
    compiled: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    count_clones: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> None:
    """Train the runs of a sweep, recording each into the store.

    Parameters
    ----------
    store
        Path of the store; made if there is none.
    plans
        See :func:`plan_sweep`.
    resume
        Leave complete runs as they are and continue interrupted ones from their checkpoints
        in ``<store>.checkpoints``, on a CPU to the same weights as without interruption (with
        another number of threads: to the same but for rounding).
    overwrite
        Train runs anew that the store already holds.
    durable
        Bring every epoch to the disk before it is committed; see :class:`actstore.Recorder`.
    device
        ``auto`` is ``cuda`` where there is one, otherwise ``cpu``.
    jobs
        Runs that train at the same time, each in a process of its own: on the GPUs in turn, or
        on a share of the CPU's cores. A script that calls this needs the guard
        ``if __name__ == "__main__":``.
    compiled
        Train through ``torch.compile``.
    data_dir, download
        Where data sets lie, and whether to fetch one that is missing.
    count_clones
        Count clones at the recorded epochs, for the progress.
    command
        Command line, for the provenance.
    progress
        Told what happens.

    Raises
    ------
    RunExistsError
        If the store holds a run and neither ``resume`` nor ``overwrite`` is given, or if it
        was recorded with other settings than it would be resumed with. Nothing is trained.
    DatasetNotFoundError
        If a data set is not there.
    InvalidParameterError
        If the device does not exist.
    """
    if resume and overwrite:
        raise InvalidParameterError(
            "resume and overwrite were both given; choose whether what is stored is continued or "
            "replaced"
        )
    if jobs < 1:
        raise InvalidParameterError(f"jobs is {jobs}; expected 1 or more")
    progress = progress or Silent()
    where = find_device(device)
    skipped = _complete(store, plans, resume=resume, overwrite=overwrite)
    rest = [plan for plan in plans if plan.name not in skipped]
    jobs = min(jobs, max(len(rest), 1))
    # Several processes hold the data themselves; here only their sizes are needed.
    data = Data(where if jobs == 1 else torch.device("cpu"), data_dir, download)
    n_bytes = sum(plan.estimated_bytes(data.splits(plan.recipe)) for plan in rest)
    progress.sweep_started(rest, [plan for plan in plans if plan.name in skipped], n_bytes)
    options = RunOptions(
        store,
        resume=resume,
        overwrite=overwrite,
        durable=durable,
        compiled=compiled,
        count_clones=count_clones,
        threads=None if jobs == 1 else max(1, available_cores() // jobs),
        facts=provenance(where, command=command),
    )
    if jobs > 1:
        del data
        record_in_parallel(rest, devices_for(jobs, where), data_dir, options, progress)
        return
    for plan in rest:
        record_run(plan, data, options, progress)


def _complete(
    store: StorePath, plans: Sequence[RunPlan], *, resume: bool, overwrite: bool
) -> set[str]:
    """Return the names of the runs that are done; raise if a run is in the way."""
    if overwrite or is_free(store):
        return set()
    catalogue = Catalogue(store)
    done = set()
    for plan in plans:
        if plan.name not in catalogue:
            continue
        run = catalogue[plan.name]
        if not resume:
            raise RunExistsError(
                f"run {plan.name!r} is already in {os.fspath(store)!r}; resume to leave complete "
                "runs as they are and continue the others, or overwrite (--resume, --overwrite)"
            )
        then = run.attrs.get("provenance", {}).get("configuration")
        changed = plan.differences(then) if then is not None else []
        if changed:
            now = plan.configuration()
            raise RunExistsError(
                f"run {plan.name!r} was recorded with "
                f"{', '.join(f'{key}={then.get(key)}' for key in changed)}, and "
                f"{', '.join(f'{key}={now.get(key)}' for key in changed)} is asked for now; "
                "overwrite it or choose another store"
            )
        found = schema.kept_in_words(run.attrs)
        if found != plan.kept:
            raise RunExistsError(
                f"run {plan.name!r} keeps {found}, and is to keep {plan.kept} now; ask for what it "
                "keeps (--keep, --moments, --keep-bits), overwrite it or choose another store"
            )
        if run.complete:
            tidy(store, plan.name)  # of what a writer killed at the very end left
            done.add(plan.name)
        elif len(run.committed) and not Checkpoint.of(store, plan.name).exists():
            raise RunExistsError(
                f"run {plan.name!r} stopped after epoch {run.committed[-1]} and its checkpoint is "
                f"not in {Checkpoint.of(store, plan.name).folder!r} beside the store; "
                "put it there, or overwrite the run"
            )
    return done
