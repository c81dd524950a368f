import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from actstore.errors import (
    CaptureError,
    InvalidDataError,
    InvalidParameterError,
    RunExistsError,
    StoreWriteError,
)
from actstore.recording import Recorder
from actstore.storage.catalogue import Catalogue
from actstore.storage.writer import RunWriter

from .recordings import every_byte

SAMPLES, INPUTS, WIDTH, OUTPUTS = 23, 4, 8, 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, WIDTH),
        nn.BatchNorm1d(WIDTH),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Linear(WIDTH, OUTPUTS),
    )


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    return TensorDataset(x, torch.randint(0, OUTPUTS, (SAMPLES,), generator=generator))


@pytest.fixture
def loader(data):
    return DataLoader(data, batch_size=5)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "runs.zarr"


def features(model, data):
    """Compute what the readout reads, in evaluation mode: the oracle."""
    model.eval()
    with torch.no_grad():
        found = model[:-1](data.tensors[0]).numpy()
    model.train()
    return found


def watch_all(recorder, epoch, model, loader, **metrics):
    with recorder.epoch(epoch) as snapshot:
        for x, _ in snapshot.watch(loader, "test"):
            model(x)
        snapshot.log(**metrics)


def stored(store, **selection):
    return Catalogue(store).sel(**selection).dataset("test").compute()


def test_what_is_stored_is_what_the_readout_read(store, model, loader, data):
    expected = []
    with Recorder(store, model, epochs=2, seed=3, hyper_parameters={"lr": 0.1}) as recorder:
        for epoch in (1, 2):
            with torch.no_grad():
                model[0].weight.add_(0.1)
            expected.append(features(model, data))
            watch_all(recorder, epoch, model, loader, train_error=0.5 / epoch)
    run = Catalogue(store).sel(width=WIDTH, seed=3, lr=0.1).only()
    found = run.dataset("test").compute()
    np.testing.assert_allclose(found.activations, np.stack(expected), rtol=1e-6)
    np.testing.assert_array_equal(found.label, data.tensors[1])
    np.testing.assert_array_equal(found.epoch, [1, 2])
    np.testing.assert_array_equal(run.metrics().train_error, [0.5, 0.25])
    np.testing.assert_array_equal(run.readout().weight[-1], model[-1].weight.detach())
    np.testing.assert_array_equal(run.readout().bias[-1], model[-1].bias.detach())
    assert run.complete


def test_record_in_one_line_stores_the_same_as_watch(store, model, loader):
    with Recorder(store, model, epochs=1, run="watched") as recorder:
        watch_all(recorder, 1, model, loader, train_error=0.5)
    with Recorder(store, model, epochs=1, run="recorded") as recorder:
        recorder.record(1, test=loader, train_error=torch.tensor(0.5))
    watched, recorded = (stored(store, run=name) for name in ("watched", "recorded"))
    np.testing.assert_array_equal(watched.activations, recorded.activations)
    np.testing.assert_array_equal(watched.train_error, recorded.train_error)


def test_several_splits_and_layers_are_stored(store, model, loader, data):
    layers = {"last_hidden": "4", "first": "0"}
    with Recorder(store, model, epochs=1, layers=layers) as recorder:
        recorder.record(1, train=loader, test=loader)
    run = Catalogue(store).only()
    assert run.splits == ("test", "train")
    assert run.layers("test") == ("first", "last_hidden")
    assert run.attrs["layers"] == {"last_hidden": "4:input", "first": "0:output"}
    np.testing.assert_allclose(
        run.dataset("train", "first").activations[0],
        model[0](data.tensors[0]).detach(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_training_with_and_without_recording_gives_the_same_weights(tmp_path, loader, data):
    def train(how):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - it is the global state that must not change
        random.seed(0)
        model = nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.3), nn.Linear(WIDTH, 3)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        recorder = Recorder(tmp_path / how, model, epochs=4, schedule="0,every:1")
        with recorder:
            for epoch in range(5):
                if epoch:
                    model.train()
                    for x, y in DataLoader(data, batch_size=6, shuffle=True):
                        optimizer.zero_grad()
                        nn.functional.cross_entropy(model(x), y).backward()
                        optimizer.step()
                if how == "watched":
                    watch_all(recorder, epoch, model, loader)
                if how == "recorded":
                    recorder.record(epoch, test=loader)
        after = [torch.rand(1).item(), np.random.rand(), random.random()]  # noqa: NPY002
        return [p.detach() for p in model.parameters()], after

    plain, after = train("plain")
    for how in ("watched", "recorded"):
        weights, drawn = train(how)
        assert all(torch.equal(a, b) for a, b in zip(plain, weights, strict=True))
        assert drawn == after


def test_modes_and_gradients_are_as_found_after_each_way_out_of_the_loop(store, model, loader):
    model.train()
    model[1].eval()  # a frozen batch norm stays frozen
    modes = [m.training for m in model.modules()]

    def as_found():
        hooked = any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
        return [m.training for m in model.modules()] == modes and torch.is_grad_enabled(), hooked

    with Recorder(store, model, epochs=1) as recorder:
        with (  # noqa: PT012
            pytest.raises(CaptureError, match="left before its last batch"),
            recorder.epoch(1) as snapshot,
        ):
            for x, _ in snapshot.watch(loader, "test"):
                assert not model.training
                assert not torch.is_grad_enabled()
                model(x)
                break
        assert as_found() == (True, False)
        with pytest.raises(ZeroDivisionError), recorder.epoch(1) as snapshot:  # noqa: PT012
            for _ in snapshot.watch(loader, "test"):
                raise ZeroDivisionError
        assert as_found() == (True, False)
        kept = None
        with pytest.raises(CaptureError, match="left before"), recorder.epoch(1) as snapshot:  # noqa: PT012
            kept = snapshot.watch(loader, "test")  # a loop that its owner keeps alive
            next(kept)
        assert as_found() == (True, False)
        watch_all(recorder, 1, model, loader)
        assert as_found() == (True, False)
    assert Catalogue(store).only().complete


def test_an_exception_in_the_block_commits_nothing_and_the_epoch_can_be_repeated(
    store, model, loader
):
    recorder = Recorder(store, model, epochs=2)
    with pytest.raises(ZeroDivisionError), recorder:  # noqa: PT012
        watch_all(recorder, 1, model, loader)
        with recorder.epoch(2) as snapshot:
            for x, _ in snapshot.watch(loader, "test"):
                model(x)
            raise ZeroDivisionError
    run = Catalogue(store).only()
    assert run.committed.tolist() == [1]
    assert not run.complete
    with Recorder(store, model, epochs=2, resume=True) as recorder:
        assert recorder.committed == (1,)
        assert not recorder.due(1)
        assert recorder.due(2)
        watch_all(recorder, 2, model, loader)
    assert Catalogue(store).only().complete
    with Recorder(store, model, epochs=2, resume=True) as recorder:
        assert not recorder.due(2)
        with pytest.raises(InvalidParameterError, match="is complete"):
            watch_all(recorder, 2, model, loader)


def test_a_run_that_exists_is_kept_unless_overwriting_is_asked_for(store, model, loader, data):
    for overwrite in (False, True):
        with torch.no_grad():
            model[0].weight.add_(1.0)
        with Recorder(store, model, epochs=1, overwrite=overwrite) as recorder:
            recorder.record(1, test=loader)
        before = every_byte(store)
        with pytest.raises(RunExistsError):
            Recorder(store, model, epochs=1)
        assert every_byte(store) == before
        np.testing.assert_allclose(stored(store).activations[0], features(model, data), rtol=1e-6)


def test_due_follows_the_schedule_and_the_event(store, model, loader):
    rule = "0,every:5,zero_train_error"
    with Recorder(store, model, epochs=12, schedule=rule) as recorder:
        assert [e for e in range(13) if recorder.due(e)] == [0, 5, 10, 12]
        assert not recorder.due(3, train_error=0.1)
        assert recorder.due(3, train_error=0)
        recorder.record(3, test=loader, train_error=0)
        assert not recorder.due(4, train_error=0)
        with pytest.raises(InvalidParameterError, match=r"epoch 4 is not in the schedule"):
            recorder.record(4, test=loader)
        for epoch in (5, 10, 12):
            recorder.record(epoch, test=loader, train_error=0)
    assert Catalogue(store).only().committed.tolist() == [3, 5, 10, 12]


def test_epochs_are_recorded_in_order_and_one_at_a_time(store, model, loader):
    with Recorder(store, model, epochs=3, schedule="every:1") as recorder:
        recorder.record(2, test=loader)
        with pytest.raises(InvalidParameterError, match="ascending order"):
            recorder.record(1, test=loader)
        with (
            pytest.raises(InvalidParameterError, match="epoch 3 is still being recorded"),
            recorder.epoch(3),
        ):
            recorder.record(3, test=loader)


def test_labels_that_change_between_epochs_are_an_error_that_says_so(store, model, data, loader):
    x, y = data.tensors
    with Recorder(store, model, epochs=2) as recorder:
        recorder.record(1, test=loader)
        with pytest.raises(InvalidDataError, match=r"another label at \d+ of 23.*shuffle=False"):
            recorder.record(2, test=[(x.flip(0), y.flip(0))])
        with pytest.raises(InvalidDataError, match="20 samples instead of 23"):
            recorder.record(2, test=[(x[:20], y[:20])])
        recorder.record(2, test=loader)
    assert Catalogue(store).only().committed.tolist() == [1, 2]


def test_a_loader_that_shuffles_is_refused_at_once(store, model, data):
    with (
        Recorder(store, model, epochs=1) as recorder,
        pytest.raises(InvalidDataError, match="shuffle=False"),
    ):
        recorder.record(1, test=DataLoader(data, shuffle=True))


@pytest.mark.parametrize(
    ("batch", "labels", "message"),
    [
        (torch.zeros(5, INPUTS), None, "no labels in a batch that is a Tensor"),
        ({"x": torch.zeros(5, INPUTS)}, None, "a mapping with keys x"),
        ((torch.zeros(5, INPUTS), torch.zeros(5, 3)), None, r"shape \(5, 3\)"),
    ],
)
def test_a_batch_without_labels_is_an_error_that_asks_for_them(
    store, model, batch, labels, message
):
    with (
        Recorder(store, model, epochs=1) as recorder,
        pytest.raises((InvalidParameterError, InvalidDataError), match=message),
    ):
        recorder.record(1, test=[batch], labels=labels)


def test_labels_come_from_a_tuple_a_mapping_or_a_function(store, model, data):
    x, y = data.tensors
    batches = {
        "tuple": ((x, "ignored", y), None),
        "mapping": ({"input": x, "label": y}, None),
        "column": ((x, y[:, None]), None),
        "function": ([x, y + 1], lambda batch: batch[1] - 1),
    }
    for name, (batch, labels) in batches.items():
        with Recorder(store, model, epochs=1, run=name) as recorder:
            recorder.record(
                1,
                test=[batch],
                labels=labels,
                forward=lambda model, b: model(b["input"] if isinstance(b, dict) else b[0]),
            )
        np.testing.assert_array_equal(stored(store, run=name).label, y)


def test_original_indices_are_stored_where_they_are_given(store, model, loader):
    samples = np.arange(SAMPLES)[::-1]
    with Recorder(store, model, epochs=1) as recorder, recorder.epoch(1) as snapshot:
        for x, _ in snapshot.watch(loader, "test", samples=samples):
            model(x)
    np.testing.assert_array_equal(stored(store).sample, samples)


def test_an_epoch_without_a_watched_split_is_an_error(store, model, loader):
    with Recorder(store, model, epochs=1) as recorder:
        with (
            pytest.raises(CaptureError, match="no split was watched at epoch 1"),
            recorder.epoch(1) as snapshot,
        ):
            snapshot.log(train_error=0)
        with pytest.raises(CaptureError, match="gave no batch"):
            recorder.record(1, test=[])
        with (
            pytest.raises(CaptureError, match="'a' is still being watched"),
            recorder.epoch(1) as snapshot,
        ):
            for _ in zip(snapshot.watch(loader, "a"), snapshot.watch(loader, "b"), strict=True):
                pass
    assert not Catalogue(store).only().complete


def test_a_width_that_is_not_the_readout_s_is_an_error(store, model):
    with pytest.raises(InvalidParameterError, match=r"width 256 .* reads 8 neurons; give width=8"):
        Recorder(store, model, epochs=1, width=256)
    assert not store.exists()


def test_without_a_readout_the_width_is_asked_for(store, data):
    model = nn.Sequential(nn.Conv1d(1, 6, 3), nn.ReLU())
    layers = {"last_hidden": "1"}
    with pytest.raises(InvalidParameterError, match="pass width="):
        Recorder(store, model, epochs=1, layers=layers)
    x, y = data.tensors
    pool = lambda h: h.mean(2)  # noqa: E731
    with Recorder(store, model, epochs=1, layers=layers, width=6, pool=pool) as recorder:
        recorder.record(1, test=[(x[:, None], y)])
    run = Catalogue(store).only()
    assert run.dataset("test").sizes["neuron"] == 6
    assert not run.has_readout


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_is_stored_as_float32(store, model, data, dtype):
    x, y = data.tensors
    model = model.to(dtype)
    with Recorder(store, model, epochs=1) as recorder:
        recorder.record(1, test=[(x.to(dtype), y)])
    found = stored(store).activations
    model.eval()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], model[:-1](x.to(dtype)).detach().float())


def test_activations_are_rounded_where_fewer_bits_are_asked_for(store, model, loader, data):
    with Recorder(store, model, epochs=1, keep_bits=10) as recorder:
        recorder.record(1, test=loader)
    found, exact = stored(store).activations[0].values, features(model, data)
    np.testing.assert_allclose(found, exact, rtol=2**-11)
    assert not (found.view("uint32") & 0x1FFF).any()


def test_autocast_is_stored_as_float32(store, model, data):
    x, y = data.tensors
    with Recorder(store, model, epochs=1) as recorder, recorder.epoch(1) as snapshot:
        for batch, _ in snapshot.watch([(x, y)], "test"):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                model(batch)
                expected = model[:-1](batch)
    found = stored(store).activations
    assert (expected.dtype, found.dtype) == (torch.bfloat16, np.float32)
    np.testing.assert_array_equal(found[0], expected.float())


def test_a_compiled_model_is_recorded_or_says_what_to_do(store, model, loader, data):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled.eval()
    with torch.no_grad():
        for x, _ in loader:
            compiled(x)  # compiled now, before there is a hook
    with Recorder(store, compiled, epochs=2) as recorder:
        recorder.record(1, test=loader)
        with pytest.raises(CaptureError, match=r"torch.compile skips hooks.*force_eager"):
            watch_all(recorder, 2, compiled, loader)
        with torch.compiler.set_stance("force_eager"):
            watch_all(recorder, 2, compiled, loader)
    expected = features(model, data)
    np.testing.assert_allclose(stored(store).activations, np.stack([expected] * 2), rtol=1e-6)


def test_data_parallel_and_gradient_checkpointing_are_recorded(store, model, loader, data):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = model[:-1], model[-1]

        def forward(self, x):
            hidden = checkpoint(self.body, x, use_reentrant=False)
            return checkpoint(self.head, hidden, use_reentrant=False)

    wrapped = nn.DataParallel(Checkpointed())
    with Recorder(store, wrapped, epochs=1) as recorder:
        watch_all(recorder, 1, wrapped, loader)
    np.testing.assert_allclose(stored(store).activations[0], features(model, data), rtol=1e-6)


def test_the_writer_s_error_is_raised_by_the_next_call_and_nothing_is_committed(
    store, model, loader, monkeypatch
):
    write, failing = RunWriter.write, threading.Event()

    def fail(self, *args, **kwargs):
        if failing.is_set():
            raise StoreWriteError("no space left")
        write(self, *args, **kwargs)

    monkeypatch.setattr(RunWriter, "write", fail)
    recorder = Recorder(store, model, epochs=3, schedule="every:1")
    with pytest.raises(StoreWriteError, match="no space left"), recorder:  # noqa: PT012
        recorder.record(1, test=loader)
        recorder.flush()
        failing.set()
        recorder.record(2, test=loader)
        with pytest.raises(StoreWriteError):
            recorder.flush()
        recorder.record(3, test=loader)
    run = Catalogue(store).only()
    assert run.committed.tolist() == [1]
    assert not run.complete


def test_a_training_that_diverged_is_not_stored(store, model, loader):
    recorder = Recorder(store, model, epochs=2, schedule="every:1")
    with pytest.raises(InvalidDataError, match="NaN or infinite"), recorder:  # noqa: PT012
        recorder.record(1, test=loader)
        with torch.no_grad():
            model[0].weight.fill_(float("nan"))
        recorder.record(2, test=loader)
    assert Catalogue(store).only().committed.tolist() == [1]


def test_the_training_s_error_is_raised_and_the_writer_s_is_noted_on_it(
    store, model, loader, monkeypatch
):
    def fail(*args, **kwargs):
        raise StoreWriteError("no space left")

    monkeypatch.setattr(RunWriter, "write", fail)
    with pytest.raises(ZeroDivisionError) as caught, Recorder(store, model, epochs=1) as recorder:  # noqa: PT012
        recorder.record(1, test=loader)
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["and the recorder: no space left"]


def test_training_goes_on_while_an_epoch_is_written_and_waits_for_the_one_before(
    store, model, loader, monkeypatch
):
    write, allowed, writing = RunWriter.write, threading.Semaphore(0), []

    def slow(self, epoch, *args, **kwargs):
        writing.append(epoch)
        assert allowed.acquire(timeout=30)
        write(self, epoch, *args, **kwargs)

    monkeypatch.setattr(RunWriter, "write", slow)
    with Recorder(store, model, epochs=3, schedule="every:1") as recorder:
        recorder.record(1, test=loader)  # returns although nothing is written yet
        assert recorder.committed == ()
        second = threading.Thread(target=recorder.record, args=(2,), kwargs={"test": loader})
        second.start()
        second.join(0.3)
        assert second.is_alive()  # back-pressure: at most one epoch waits to be written
        allowed.release(3)
        second.join()
        assert recorder.committed[:1] == (1,)
        recorder.record(3, test=loader)
    assert writing == [1, 2, 3]
    found = stored(store).activations
    np.testing.assert_array_equal(found[0], found[2])


def test_memory_is_reused_only_after_it_was_written(store, model, loader, data):
    expected = []
    with Recorder(store, model, epochs=6, schedule="every:1") as recorder:
        for epoch in range(1, 7):
            with torch.no_grad():
                model[0].bias.fill_(float(epoch))
            expected.append(features(model, data))
            recorder.record(epoch, test=loader)
    np.testing.assert_allclose(stored(store).activations, np.stack(expected), rtol=1e-6)


def test_without_a_thread_the_epoch_is_committed_at_the_end_of_its_block(store, model, loader):
    with Recorder(store, model, epochs=1, background=False) as recorder:
        recorder.record(1, test=loader)
        assert recorder.committed == (1,)


def test_a_training_that_ends_early_is_complete_at_its_last_epoch(store, model, loader):
    with Recorder(store, model, epochs=9, schedule="1,2,5,9") as recorder:
        recorder.record(1, test=loader)
        recorder.end_at(20)  # no later than it was planned
        assert recorder.planned == (1, 2, 5, 9)
        recorder.end_at(4)
        assert recorder.planned == (1, 2, 4)
        assert not recorder.due(5)
        for epoch in (2, 4):
            recorder.record(epoch, test=loader)
        with pytest.raises(InvalidParameterError, match="epoch 3 was to be the last, and epoch 4"):
            recorder.end_at(3)
    assert Catalogue(store).only().complete


@pytest.mark.parametrize(
    ("begun", "asked"),
    [({}, {"moments": True}), ({}, {"keep_bits": 10}), ({"keep_bits": 10}, {"keep_bits": 12})],
)
def test_a_run_is_continued_with_what_it_keeps_or_refused(store, model, loader, begun, asked):
    options = {"epochs": 2, "schedule": "1,2"}
    with Recorder(store, model, **options, **begun) as recorder:
        recorder.record(1, test=loader)
    with pytest.raises(InvalidDataError, match="and it was to be continued with"):
        Recorder(store, model, **options, **asked, resume=True)
    with Recorder(store, model, **options, **begun, resume=True) as recorder:
        recorder.record(2, test=loader)
    assert Catalogue(store).only().complete
