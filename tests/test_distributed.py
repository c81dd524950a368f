import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from actstore.kernels.moments import moments
from actstore.recording import Recorder
from actstore.recording.ranks import block_edges
from actstore.storage.cache import Leaf, read
from actstore.storage.catalogue import Catalogue
from actstore.storage.verify import verify

from . import ranks_program as program

RANKS = 3


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Record the same runs in three processes and in this one; return store, errors and oracle."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [sys.executable, program.__file__, str(RANKS), str(folder)]
    ranks = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert json.loads(ranks.stdout) == [0, 0, 1], ranks.stderr
    net = program.model()
    with Recorder(folder / "alone.zarr", net, epochs=2) as recorder:
        for epoch in (1, 2):
            program.change(net, epoch)
            recorder.record(epoch, test=DataLoader(program.data(), batch_size=8), train_error=0.5)
    alone = Catalogue(folder / "alone.zarr").only()
    errors = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]
    return Catalogue(folder / "runs.zarr"), errors, alone


def of(store, run):
    return store.sel(run=run).only()


@pytest.mark.parametrize("run", ["padded", "shuffled", "plain", "resumed", "durable"])
def test_several_ranks_store_what_one_process_stores(recorded, run):
    store, _, alone = recorded
    found, expected = of(store, run).dataset().compute(), alone.dataset().compute()
    expected = expected.isel(epoch=slice(len(found.epoch)))
    np.testing.assert_array_equal(found.sample, np.arange(program.SAMPLES))
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_allclose(found.activations, expected.activations, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(of(store, run).readout().weight[0], alone.readout().weight[0])
    assert of(store, run).complete


def test_each_rank_writes_its_own_shard(recorded):
    store, errors, _ = recorded
    array = of(store, "padded").array("test/last_hidden/activations")
    folder = Path(store.path, "padded/test/last_hidden/activations/c/0")
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2"]
    assert block_edges(program.SAMPLES, (array.shards or array.chunks)[1], RANKS) == [0, 8, 16, 23]
    assert all(found["committed"] == [1, 2] for found in errors)


def test_each_rank_brings_its_own_shard_to_the_disk(recorded):
    """Its file and the folders above it; rank 0 does so with what is only its own too."""
    first, *others = (found["synced"] for found in recorded[1])
    assert all(2 <= synced < first for synced in others)


def test_moments_of_all_ranks_are_merged(recorded):
    store, _, alone = recorded
    for run in ("padded", "moments"):
        created = str(of(store, run).attrs["created"])
        for slot in (0, 1):
            found = read(Leaf(store.path, run, "test", "last_hidden", created), slot)
            expected = moments(alone.dataset().activations[slot].values)
            assert found.count == program.SAMPLES
            np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(found.comoment, expected.comoment, rtol=1e-6, atol=1e-7)


def test_every_rank_hears_of_an_error_on_one(recorded):
    store, errors, _ = recorded
    for found in errors:
        assert "NaN" in found["diverged"]
        assert "RunExistsError" in found["exists"]
        assert "does not tell which samples" in found["unknown"]
        assert found["due"] == [False, True]
    assert not len(store["diverged"].committed)
    assert not len(store["unknown"].committed)


def test_a_rank_that_dies_leaves_no_committed_epoch(recorded):
    store, errors, _ = recorded
    assert store["died"].committed.tolist() == [1]
    assert not store["died"].complete
    assert all("a process of the training was lost" in found["died"] for found in errors[:-1])


def test_the_store_of_several_ranks_is_verified(recorded):
    store, _, _ = recorded
    assert not [finding for finding in verify(store.path, deep=True) if not finding.harmless]


def test_an_interrupted_run_of_several_ranks_is_resumed_by_one(recorded):
    store, _, alone = recorded
    net = program.model()
    with Recorder(store.path, net, epochs=2, run="died", resume=True) as recorder:
        program.change(net, 2)
        recorder.record(2, test=DataLoader(program.data(), batch_size=8))
    found = of(Catalogue(store.path), "died").dataset().compute()
    torch.testing.assert_close(
        torch.from_numpy(found.activations.values),
        torch.from_numpy(alone.dataset().activations.values),
    )
