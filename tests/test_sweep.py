import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from actstore.errors import InvalidParameterError, RunExistsError, StoreCorruptError
from actstore.storage.catalogue import Catalogue
from actstore.training import RECIPES, Recipe, Settings, Silent, plan_sweep, record_sweep
from actstore.training.architectures import mlp
from actstore.training.checkpoint import Checkpoint
from actstore.training.datasets import digits
from actstore.training.own import load_function, own_recipe
from actstore.training.settings import learning_rate
from actstore.training.splits import Split, as_splits

from .recordings import assert_same


def blobs(*, classes=3, shift=0.0):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % classes
    x = torch.randn(60, 5, generator=generator) + 3 * nn.functional.one_hot(y, 5) + shift
    return (x[:40], y[:40]), (x[40:], y[40:])


def net(width, *, dropout=0.2):
    return nn.Sequential(
        nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(dropout), nn.Linear(width, 3)
    )


RECIPE = Recipe(
    name="blobs",
    model=net,
    data=blobs,
    settings=Settings(epochs=6, batch_size=8),
    widths=(4, 8),
    schedule="0,every:2",
    threads=1,
)


class Log(Silent):
    """Keeps what it is told, and stops a training on demand."""

    def __init__(self, *, stop_at=None):
        self.steps = []
        self.stop_at = stop_at

    def sweep_started(self, plans, skipped, n_bytes):  # noqa: D102
        self.steps.append(("sweep", len(plans), len(skipped), n_bytes))

    def run_started(self, plan, first_epoch):  # noqa: D102
        self.steps.append(("run", plan.name, first_epoch))

    def epoch_ended(self, plan, epoch):  # noqa: D102
        if (plan.width, epoch) == self.stop_at:
            raise KeyboardInterrupt

    def epoch_recorded(self, plan, recorded):  # noqa: D102
        self.steps.append(("recorded", recorded.epoch))


def test_the_sweep_is_the_product_of_widths_seeds_and_values():
    plans = plan_sweep(
        RECIPE, widths=[4, 8, 4], seeds=[0, 1], values={"weight_decay": [0, 0.1], "dropout": [0.5]}
    )
    assert len(plans) == 8
    assert len({plan.name for plan in plans}) == 8
    plan = plans[-1]
    assert plan.name == "width=8,dropout=0.5,weight_decay=0.1,seed=1"
    assert plan.recipe.settings == Settings(epochs=6, batch_size=8, weight_decay=0.1)
    assert plan.recipe.model_keywords == {"dropout": 0.5}
    assert plan.recipe.data_keywords == {}


def test_a_value_goes_to_whatever_takes_it():
    (plan,) = plan_sweep(RECIPE, widths=[4], values={"shift": [2.0]})
    assert plan.recipe.data_keywords == {"shift": 2.0}
    everything = dataclasses.replace(RECIPE, model=lambda width, **rest: net(width))
    (plan,) = plan_sweep(everything, widths=[4], values={"anything": [1]})
    assert plan.recipe.model_keywords == {"anything": 1}


def test_zero_written_in_two_ways_is_one_run():
    names = {plan_sweep(RECIPE, widths=[4], values={"weight_decay": [z]})[0].name for z in (0, 0.0)}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"values": {"depth": [3]}}, r"takes 'depth'; it has amp, batch_size, classes, decay, "),
        ({"values": {"weight_decay": ["big"]}}, "weight_decay is 'big'; expected a number"),
        ({"values": {"weight_decay": [-1]}}, "weight_decay is -1"),
        ({"values": {"learning_rate": [float("nan")]}}, "learning_rate is nan"),
        ({"values": {"batch_size": [2.5]}}, "expected a whole number of 2 or more"),
        ({"values": {"momentum": [1.5]}}, "expected a number from 0 to 1"),
        ({"values": {"nesterov": [True], "momentum": [0]}}, "give a momentum"),
        ({"widths": [0]}, "width 0"),
        ({"schedule": "0,9"}, "epoch 9 of a training of 6 epochs"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_a_plan_that_cannot_be_trained_is_an_error_before_anything_trains(keywords, message):
    with pytest.raises(InvalidParameterError, match=message):
        plan_sweep(RECIPE, **keywords)
    with pytest.raises(InvalidParameterError, match="no widths of its own"):
        plan_sweep(dataclasses.replace(RECIPE, widths=()))


def test_a_sweep_records_every_run_with_metrics_and_tells_what_it_does(tmp_path):
    store, log = tmp_path / "s.zarr", Log()
    record_sweep(store, plan_sweep(RECIPE), progress=log, command="actstore record s.zarr")
    catalogue = Catalogue(store)
    assert list(catalogue) == [f"width={w},weight_decay=0.0,seed=0" for w in (4, 8)]
    assert all(run.complete for run in catalogue.values())
    run = catalogue.sel(width=8).only()
    assert run.splits == ("test", "train")
    assert run.committed.tolist() == [0, 2, 4, 6]
    metrics = run.metrics()
    assert set(metrics) == {
        "train_loss", "train_error", "test_loss", "test_error", "learning_rate",
    }  # fmt: skip
    assert metrics.test_error[-1] < metrics.test_error[0]
    assert ("sweep", 2, 0, 4 * (4 + 8) * (40 + 20) * 4) in log.steps
    assert log.steps.count(("recorded", 6)) == 2
    assert not (tmp_path / "s.zarr.checkpoints").exists()


def test_recorded_errors_are_those_of_the_recorded_layer_under_the_recorded_readout(tmp_path):
    record_sweep(tmp_path / "s.zarr", plan_sweep(RECIPE, widths=[8]))
    run = Catalogue(tmp_path / "s.zarr").only()
    data, readout = run.dataset("test").compute(), run.readout().compute()
    logits = data.activations.values @ readout.weight.values.transpose(0, 2, 1)
    logits += readout.bias.values[:, None, :]
    error = (logits.argmax(2) != data.label.values).mean(1)
    np.testing.assert_allclose(run.metrics().test_error, error)


def test_provenance_names_versions_settings_and_device_but_no_host_or_user(tmp_path):
    record_sweep(tmp_path / "s.zarr", plan_sweep(RECIPE, widths=[4]), command="actstore record")
    found = Catalogue(tmp_path / "s.zarr").only().attrs["provenance"]
    assert {"actstore", "python", "torch", "numpy", "zarr", "device", "seconds"} <= found.keys()
    assert found["command"] == "actstore record"
    assert found["configuration"]["learning_rate"] == 0.1
    text = json.dumps(found)
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text
    assert os.path.expanduser("~") not in text


def test_the_same_seed_gives_the_same_store_and_the_callers_random_numbers_are_left(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    for name in ("a.zarr", "b.zarr"):
        record_sweep(tmp_path / name, plan_sweep(RECIPE))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")


def test_an_existing_run_is_an_error_before_anything_trains(tmp_path):
    store = tmp_path / "s.zarr"
    record_sweep(store, plan_sweep(RECIPE, widths=[8]))
    with pytest.raises(RunExistsError, match="resume to leave complete runs"):
        record_sweep(store, plan_sweep(RECIPE))
    assert len(Catalogue(store)) == 1
    log = Log()
    record_sweep(store, plan_sweep(RECIPE), resume=True, progress=log)
    assert log.steps[0][:3] == ("sweep", 1, 1)
    log = Log()
    record_sweep(store, plan_sweep(RECIPE), overwrite=True, progress=log)
    assert log.steps[0][:3] == ("sweep", 2, 0)
    with pytest.raises(InvalidParameterError, match="both given"):
        record_sweep(store, plan_sweep(RECIPE), resume=True, overwrite=True)


def test_a_run_of_other_settings_is_not_taken_for_the_same(tmp_path):
    store = tmp_path / "s.zarr"
    record_sweep(store, plan_sweep(RECIPE, widths=[4]))
    with pytest.raises(RunExistsError, match="recorded with epochs=6, and epochs=8 is asked"):
        record_sweep(store, plan_sweep(RECIPE, widths=[4], epochs=8), resume=True)


@pytest.mark.parametrize("stop_at", [(8, 1), (8, 3), (8, 5), (4, 2)])
def test_an_interrupted_sweep_resumes_to_the_same_store(tmp_path, stop_at):
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    record_sweep(whole, plan_sweep(RECIPE))
    with pytest.raises(KeyboardInterrupt):
        record_sweep(broken, plan_sweep(RECIPE), progress=Log(stop_at=stop_at))
    assert not all(run.complete for run in Catalogue(broken).values())
    log = Log()
    record_sweep(broken, plan_sweep(RECIPE), resume=True, progress=log)
    assert log.steps[1][2] == {1: 1, 3: 3, 5: 5, 2: 1}[stop_at[1]]
    assert_same(broken, whole)
    assert not (tmp_path / "broken.zarr.checkpoints").exists()


def test_a_checkpoint_ahead_of_its_epoch_records_that_epoch_first(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    plans = plan_sweep(RECIPE, widths=[8])
    record_sweep(whole, plans)
    save = Checkpoint.save

    def save_and_die(self, *args, epoch, **keywords):
        save(self, *args, epoch=epoch, **keywords)
        if epoch == 4:
            raise KeyboardInterrupt  # after the checkpoint, before the epoch is committed

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        record_sweep(broken, plans)
    assert Catalogue(broken).only().committed.tolist() == [0, 2]
    monkeypatch.setattr(Checkpoint, "save", save)
    record_sweep(broken, plans, resume=True)
    assert_same(broken, whole)


def test_a_checkpoint_of_a_store_that_is_gone_is_not_continued(tmp_path):
    whole, again = tmp_path / "whole.zarr", tmp_path / "again.zarr"
    plans = plan_sweep(RECIPE, widths=[8])
    record_sweep(whole, plans)
    with pytest.raises(KeyboardInterrupt):
        record_sweep(again, plans, progress=Log(stop_at=(8, 5)))
    again.rename(tmp_path / "moved.zarr")
    record_sweep(again, plans, resume=True)
    assert_same(again, whole)


def test_a_lost_or_damaged_checkpoint_is_an_error_that_says_so(tmp_path):
    store, plans = tmp_path / "s.zarr", plan_sweep(RECIPE, widths=[8])
    with pytest.raises(KeyboardInterrupt):
        record_sweep(store, plans, progress=Log(stop_at=(8, 5)))
    path = Checkpoint.of(store, plans[0].name).path
    torch.load(path, weights_only=True)  # holds no code
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(StoreCorruptError, match="overwrite the run"):
        record_sweep(store, plans, resume=True)
    path.unlink()
    with pytest.raises(RunExistsError, match=r"stopped after epoch 4 and its checkpoint is not in"):
        record_sweep(store, plans, resume=True)
    record_sweep(store, plans, overwrite=True)
    assert Catalogue(store).only().complete


def test_a_killed_sweep_resumes_to_the_same_store(tmp_path):
    script = """
import os, signal, sys
from actstore.training import RECIPES, Silent, plan_sweep, record_sweep
class Dies(Silent):
    def epoch_ended(self, plan, epoch):
        if epoch == 7:  # wherever the thread that writes is
            os.kill(os.getpid(), signal.SIGKILL)
plans = plan_sweep(RECIPES["digits"], widths=[8], epochs=12, schedule="0,every:1")
record_sweep(sys.argv[1], plans, progress=Dies())
"""
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    killed = subprocess.run([sys.executable, "-c", script, broken], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not Catalogue(broken).only().complete
    plans = plan_sweep(RECIPES["digits"], widths=[8], epochs=12, schedule="0,every:1")
    record_sweep(broken, plans, resume=True)
    record_sweep(whole, plans)
    assert_same(broken, whole)


def test_the_first_epoch_without_train_errors_is_recorded(tmp_path):
    plans = plan_sweep(RECIPE, widths=[8], epochs=30, schedule="1,zero_train_error")
    record_sweep(tmp_path / "s.zarr", plans)
    run = Catalogue(tmp_path / "s.zarr").only()
    first, event, last = run.committed.tolist()
    assert (first, last) == (1, 30)
    errors = run.metrics().train_error.values
    assert errors[0] > 0
    assert errors[1] == 0
    every = plan_sweep(RECIPE, widths=[8], epochs=30, schedule="every:1")
    record_sweep(tmp_path / "all.zarr", every)
    all_errors = Catalogue(tmp_path / "all.zarr").only().metrics().train_error.values
    assert 1 + int(np.flatnonzero(all_errors == 0)[0]) == event


def test_learning_rate_falls_from_the_first_to_the_last_by_a_cosine():
    settings = Settings(epochs=50, learning_rate=0.4, final_learning_rate=0.1)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.1)
    for epoch in range(1, 51):
        assert learning_rate(settings, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()


def test_digits_are_split_as_the_published_numbers_were():
    splits = digits()
    train, test = splits["train"].examples, splits["test"].examples
    assert train[0].shape == (800, 64)
    assert test[0].shape == (997, 64)
    assert abs(float(train[0].mean())) < 1e-6
    assert abs(float(train[0].std()) - 1) < 1e-4
    everything = np.concatenate([splits["train"].samples, splits["test"].samples])
    assert sorted(everything) == list(range(1797))
    np.testing.assert_array_equal(everything, np.random.RandomState(0).permutation(1797))


def test_the_mlp_is_initialised_as_the_published_numbers_were():
    torch.manual_seed(0)
    model = mlp(512)
    linear = [m for m in model if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        (64, 512), (512, 512), (512, 512), (512, 10),
    ]  # fmt: skip
    assert all(not m.bias.any() for m in linear)
    for m in linear[:-1]:
        assert float(m.weight.detach().std()) == pytest.approx((2 / m.in_features) ** 0.5, rel=0.02)
    assert float(linear[-1].weight.detach().std()) == pytest.approx(512**-0.5, rel=0.05)
    assert [type(m).__name__ for m in mlp(8, depth=1)] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear",
    ]  # fmt: skip


def test_data_sets_and_tensors_train_alike(tmp_path):
    def as_data_sets():
        return {
            name: TensorDataset(*pair)
            for name, pair in zip(("train", "test"), blobs(), strict=True)
        }

    record_sweep(tmp_path / "a.zarr", plan_sweep(RECIPE, widths=[4]))
    other = dataclasses.replace(RECIPE, data=as_data_sets)
    record_sweep(tmp_path / "b.zarr", plan_sweep(other, widths=[4]))
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")


def test_a_last_batch_of_one_sample_is_not_trained_on(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, settings=Settings(epochs=1, batch_size=13)
    )  # 40 = 3·13 + 1
    record_sweep(tmp_path / "a.zarr", plan_sweep(recipe, widths=[4]))
    assert Catalogue(tmp_path / "a.zarr").only().complete


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2, 3], "gave a list of 3; expected"),
        ({"test": blobs()[1]}, "gave a mapping of test; expected"),
        ({"train": (torch.zeros(5, 2), torch.zeros(4))}, r"inputs \(5, 2\) and labels \(4,\)"),
        ({"train": 3}, "split 'train' of f is a int"),
    ],
)
def test_data_that_are_not_labelled_examples_are_an_error(data, message):
    with pytest.raises(InvalidParameterError, match=message):
        as_splits(data, source="f")


def test_numpy_arrays_are_data_too():
    splits = as_splits({"train": (np.zeros((5, 2), "float32"), np.arange(5))}, source="f")
    ((x, y),) = splits["train"].batches(10, device=torch.device("cpu"))
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1, 2, 3, 4]
    assert isinstance(as_splits(splits, source="f")["train"], Split)


def test_a_device_that_is_not_here_is_an_error(tmp_path):
    for device in ("cuda:77", "abacus"):
        with pytest.raises(InvalidParameterError, match="cannot be used here"):
            record_sweep(tmp_path / "s.zarr", plan_sweep(RECIPE), device=device)
    assert not (tmp_path / "s.zarr").exists()


def test_functions_are_found_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text("def wide(width): ...\ndef data(): ...\nvalue = 3\n")
    (tmp_path / "my_broken.py").write_text("import not_a_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert own_recipe("my_nets:wide", "my_nets:data").model.__name__ == "wide"
    for name, message in (
        ("my_nets", "expected package.module:function"),
        ("my_nets:wider", "has no function 'wider'; it has data, wide"),
        ("my_nets:value", "has no function 'value'"),
        ("my_net:wide", "no module 'my_net'"),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            load_function(name)
    with pytest.raises(ModuleNotFoundError, match="not_a_module_at_all"):
        load_function("my_broken:f")


def test_digits_recipe_is_that_of_the_published_numbers():
    recipe = RECIPES["digits"]
    assert recipe.settings == Settings(
        epochs=100, batch_size=50, learning_rate=0.1, momentum=0.9, weight_decay=5e-3
    )
    plans = plan_sweep(recipe)
    assert [plan.width for plan in plans] == [8, 16, 32, 64, 128, 256, 512]
    assert plans[0].schedule.epochs(100) == (0, 1, 2, 5, 10, 20, 40, 60, 80, 100)
