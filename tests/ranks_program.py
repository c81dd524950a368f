"""The ranks of a distributed training that records; run by test_distributed."""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from actstore.recording import Recorder

SAMPLES, INPUTS, WIDTH, OUTPUTS = 23, 4, 8, 3


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUTPUTS))


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    return TensorDataset(x, torch.randint(0, OUTPUTS, (SAMPLES,), generator=generator))


def change(net, epoch):
    with torch.no_grad():
        net[0].bias.fill_(0.1 * epoch)


def distributed(rank, size, folder):
    store, errors = folder / "runs.zarr", {}
    net = model()
    ddp = DistributedDataParallel(net)
    sampler = DistributedSampler(data(), shuffle=False)
    loader = DataLoader(data(), batch_size=4, sampler=sampler)

    with Recorder(store, ddp, epochs=2, run="padded", moments=True) as recorder:
        for epoch in (1, 2):
            change(net, epoch)
            recorder.record(epoch, test=loader, train_error=0.5)
        recorder.flush()
        errors["committed"] = list(recorder.committed)

    shuffled = DistributedSampler(data(), shuffle=True)
    with Recorder(store, ddp, epochs=2, run="shuffled", schedule="every:1") as recorder:
        for epoch in (1, 2):
            change(net, epoch)
            shuffled.set_epoch(epoch)
            recorder.record(epoch, test=DataLoader(data(), batch_size=4, sampler=shuffled))

    with Recorder(store, ddp, epochs=1, run="plain", background=False) as recorder:
        change(net, 1)
        recorder.record(1, test=DataLoader(data(), batch_size=5))

    synced, fsync = [], os.fsync
    os.fsync = lambda descriptor: (synced.append(descriptor), fsync(descriptor))[1]
    with Recorder(store, ddp, epochs=1, run="durable", durable=True, background=False) as recorder:
        change(net, 1)
        recorder.record(1, test=loader)
    os.fsync = fsync
    errors["synced"] = len(synced)

    with Recorder(store, ddp, epochs=2, run="moments", keep="moments") as recorder:
        for epoch in (1, 2):
            change(net, epoch)
            recorder.record(epoch, test=loader)

    with Recorder(store, ddp, epochs=2, run="resumed") as recorder:
        change(net, 1)
        recorder.record(1, test=loader)
    with Recorder(store, ddp, epochs=2, run="resumed", resume=True) as recorder:
        change(net, 2)
        errors["due"] = [recorder.due(epoch) for epoch in (1, 2)]
        recorder.record(2, test=loader)

    try:
        Recorder(store, ddp, epochs=2, run="resumed")
    except Exception as error:
        errors["exists"] = repr(error)

    x, y = data().tensors
    if rank == 1:
        x = x.clone()
        x[1] = float("nan")
    bad = DataLoader(TensorDataset(x, y), batch_size=4, sampler=sampler)
    try:
        with Recorder(store, ddp, epochs=1, run="diverged") as recorder:
            recorder.record(1, test=bad)
    except Exception as error:
        errors["diverged"] = repr(error)

    try:
        with Recorder(store, ddp, epochs=1, run="unknown") as recorder:
            recorder.record(1, test=[(x, y)])
    except Exception as error:
        errors["unknown"] = repr(error)

    (folder / f"{rank}.json").write_text(json.dumps(errors))
    try:
        with Recorder(store, ddp, epochs=2, run="died", schedule="every:1") as recorder:
            change(net, 1)
            recorder.record(1, test=loader)
            recorder.flush()
            change(net, 2)
            with recorder.epoch(2) as snapshot:
                for batch, _ in snapshot.watch(loader, "test"):
                    net(batch)
                if rank == size - 1:
                    os._exit(1)  # as a process that is killed
            recorder.flush()
    except Exception as error:
        (folder / f"{rank}.json").write_text(json.dumps({**errors, "died": repr(error)}))


def rank_of(place, count, where):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{where}/meet", rank=place, world_size=count
    )
    distributed(place, count, where)
    os._exit(0)  # the group cannot be taken down in order: one of its ranks is dead


if __name__ == "__main__":
    count, where = int(sys.argv[1]), Path(sys.argv[2])
    ranks = []
    for place in range(count):  # forked, because importing PyTorch takes longer than all the rest
        child = os.fork()
        if not child:
            try:
                rank_of(place, count, where)
            finally:
                traceback.print_exc()
                os._exit(2)
        ranks.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks]
    print(json.dumps(ends))
