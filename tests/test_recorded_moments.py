import threading

import numpy as np
import pytest
import torch
from torch import nn

import actstore
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError
from actstore.kernels import moments as kernel
from actstore.recording import Recorder, moments
from actstore.recording.moments import MomentSum
from actstore.storage import cache
from actstore.storage.verify import verify

SAMPLES, INPUTS, WIDTH, OUTPUTS = 40, 6, 8, 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, OUTPUTS))


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = torch.randint(0, OUTPUTS, (SAMPLES,), generator=generator)
    return [(x[start : start + 16], y[start : start + 16]) for start in range(0, SAMPLES, 16)]


def record(store, model, loader, **options):
    with Recorder(store, model, epochs=2, schedule="every:1", **options) as recorder:
        for epoch in (1, 2):
            with torch.no_grad():
                model[0].bias.fill_(0.1 * epoch)
            recorder.record(epoch, train=loader, test=loader, train_error=0.0)
    return actstore.open(store)


def leaf(store, split="test"):
    run = store.only()
    return cache.Leaf(store.path, run.name, split, "last_hidden", str(run.attrs["created"]))


def test_an_evaluation_in_mixed_precision_does_not_sum_in_it():
    x = torch.randn(300, 5) + 10
    total = MomentSum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total.add(x)
        found = total.moments()
    expected = kernel.moments(x.numpy())
    np.testing.assert_allclose(found.comoment, expected.comoment, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gathered", [1, 100, 1024])
def test_the_running_sum_is_that_of_all_batches_at_once(dtype, gathered, monkeypatch):
    # a mean of 1000 spreads: a float32 sum, or one of uncentred squares, would lose the digits
    x = (torch.randn(300, 5, dtype=torch.float64) + 1000).to(dtype)
    total = MomentSum()
    monkeypatch.setattr(moments, "GATHERED", gathered)
    for batch in (x[:1], x[1:1], x[1:120], x[120:]):
        total.add(batch)
    expected = kernel.moments(x.float().numpy())
    found = total.moments()
    assert found.count == 300
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.comoment, expected.comoment, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(found.comoment, found.comoment.T)


def test_only_the_thread_that_trains_computes_with_pytorch(tmp_path, model, loader, monkeypatch):
    """A second thread's crew would hold up every parallel step of the training."""
    threads = []
    settle = MomentSum.settle

    def noted(self):
        if self._gathered:
            threads.append(threading.current_thread())
        settle(self)

    monkeypatch.setattr(MomentSum, "settle", noted)
    record(tmp_path / "r.zarr", model, loader, moments=True)
    assert set(threads) == {threading.current_thread()}


def test_moments_of_a_diverged_layer_are_refused():
    total = MomentSum()
    total.add(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(InvalidDataError, match="diverge"):
        total.moments()
    with pytest.raises(InvalidDataError, match="no batch"):
        MomentSum().moments()


def test_recorded_moments_are_in_the_cache_and_the_first_query_reads_no_activations(
    tmp_path, model, loader, monkeypatch
):
    store = record(tmp_path / "runs.zarr", model, loader, moments=True)
    assert store.only().attrs["keep"] == ["activations", "moments"]
    for slot in (0, 1):
        found = cache.read(leaf(store), slot)
        expected = kernel.moments(store.only().dataset().activations[slot].values)
        assert found.count == SAMPLES
        np.testing.assert_allclose(found.comoment, expected.comoment, rtol=1e-6, atol=1e-9)
    assert verify(store.path, deep=True) == []

    def fail(*args):
        raise AssertionError("activations were read")

    plain = actstore.reconstruction(store, subset_size=4, cache=False).compute()
    monkeypatch.setattr(cache, "_blocks", fail)
    answer = actstore.reconstruction(store, subset_size=4).compute()
    np.testing.assert_allclose(answer.r2, plain.r2, rtol=1e-6)


def test_a_run_that_keeps_moments_answers_as_one_that_keeps_activations(tmp_path, model, loader):
    whole = record(tmp_path / "whole.zarr", model, loader)
    store = record(tmp_path / "moments.zarr", model, loader, keep="moments")
    run = store.only()
    assert not (tmp_path / "moments.zarr" / run.name / "test/last_hidden/activations").exists()
    assert run.shape("test", "last_hidden") == (SAMPLES, WIDTH)
    for question in (actstore.reconstruction, actstore.clones, actstore.spectrum):
        found, expected = question(store).compute(), question(whole).compute()
        for name in found.data_vars:
            if found[name].dtype.kind == "f":
                np.testing.assert_allclose(
                    found[name], expected[name], rtol=1e-5, atol=1e-8, err_msg=name
                )
    np.testing.assert_array_equal(
        run.readout().weight, whole.only().readout().weight
    )  # what needs no samples is there
    assert verify(store.path, deep=True) == []
    assert actstore.moments(store, cache=False)["count"].values.tolist() == [[SAMPLES, SAMPLES]]


def test_questions_that_need_samples_say_that_there_are_none(tmp_path, model, loader):
    store = record(tmp_path / "runs.zarr", model, loader, keep="moments")
    with pytest.raises(NotInStoreError, match=r"keeps moments only.*keep='activations'"):
        store.dataset()
    with pytest.raises(NotInStoreError, match="keeps moments only"):
        actstore.error(store)
    assert "activations" not in str(store.tree())


def test_lost_moments_of_a_run_that_keeps_nothing_else_are_damage(tmp_path, model, loader):
    store = record(tmp_path / "runs.zarr", model, loader, keep="moments")
    folder = tmp_path / "runs.zarr" / store.only().name / "test/last_hidden/moments"
    (folder / "comoment/c/1/0/0").unlink()
    assert [f.kind for f in verify(store.path)] == ["damage"]


def test_moments_that_are_computed_after_an_interruption_belong_to_the_resumed_epoch(
    tmp_path, model, loader
):
    with Recorder(tmp_path / "r.zarr", model, epochs=2, keep="moments", schedule="1,2") as recorder:
        recorder.record(1, test=loader)
    with torch.no_grad():
        model[0].bias.fill_(1)
    options = {"epochs": 2, "schedule": "1,2", "resume": True}
    with pytest.raises(InvalidDataError, match="keeps moments, and it was to be continued with"):
        Recorder(tmp_path / "r.zarr", model, **options)
    with Recorder(tmp_path / "r.zarr", model, keep="moments", **options) as recorder:
        recorder.record(2, test=loader)
    store = actstore.open(tmp_path / "r.zarr")
    x = torch.cat([x for x, _ in loader])
    expected = kernel.moments(model[:2](x).detach().numpy())
    np.testing.assert_allclose(cache.read(leaf(store), 1).mean, expected.mean, rtol=1e-6)


def test_what_is_kept_is_activations_or_moments(tmp_path, model):
    with pytest.raises(InvalidParameterError, match="expected 'activations' or 'moments'"):
        Recorder(tmp_path / "r.zarr", model, epochs=1, keep="both")
    with pytest.raises(InvalidParameterError, match="summed before activations are rounded"):
        Recorder(tmp_path / "r.zarr", model, epochs=1, moments=True, keep_bits=10)
    assert not (tmp_path / "r.zarr").exists()
