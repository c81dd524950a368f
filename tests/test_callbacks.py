import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from actstore.errors import InvalidParameterError, MissingExtraError
from actstore.storage.catalogue import Catalogue

from .examples import run_example

# What the two libraries warn about themselves, and about loaders without processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(23, 4, generator=generator)
    return TensorDataset(x, torch.randint(0, 3, (23,), generator=generator))


@pytest.fixture
def fit(data):
    import lightning.pytorch as lightning

    class Small(lightning.LightningModule):
        """A network whose training draws random numbers."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU())
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(x))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _, dataloader_idx=0):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log(f"val{dataloader_idx}/loss", loss, add_dataloader_idx=False)
            if self.fails_at == self.current_epoch:
                raise ZeroDivisionError

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(*callbacks, epochs=2, fails_at=None, **options):
        lightning.seed_everything(0, verbose=False)
        module = Small()
        module.fails_at = fails_at
        trainer = lightning.Trainer(
            max_epochs=epochs,
            callbacks=list(callbacks),
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        loaders = [DataLoader(data, 8), DataLoader(data, 23)]
        trainer.fit(module, DataLoader(data, 5, shuffle=True), loaders)
        return module

    return fit


def test_lightning_s_validation_is_recorded_and_the_training_is_the_same(tmp_path, fit, data):
    from actstore.recording.lightning import RecorderCallback

    plain = fit()
    callback = RecorderCallback(tmp_path / "r.zarr", splits=("test", "again"), schedule="0,every:1")
    module = fit(callback)
    for a, b in zip(plain.parameters(), module.parameters(), strict=True):
        assert torch.equal(a, b)
    run = Catalogue(tmp_path / "r.zarr").only()
    assert run.complete
    assert run.committed.tolist() == [0, 1, 2]
    with torch.no_grad():
        expected = module.eval().body(data.tensors[0])
    for split in ("test", "again"):
        found = run.dataset(split).compute()
        np.testing.assert_array_equal(found.label, data.tensors[1])
        np.testing.assert_allclose(found.activations[-1], expected, rtol=1e-5, atol=1e-6)
    losses = run.metrics().val0_loss.values
    assert np.isnan(losses[0])
    logits = module.head(expected).detach()
    assert losses[2] == pytest.approx(nn.functional.cross_entropy(logits, data.tensors[1]).item())


def test_a_lightning_training_that_fails_commits_nothing_of_its_epoch(tmp_path, fit):
    from actstore.recording.lightning import RecorderCallback

    options = {"splits": ("test", "again"), "schedule": "every:1"}
    with pytest.raises(ZeroDivisionError):
        fit(RecorderCallback(tmp_path / "r.zarr", **options), fails_at=1, num_sanity_val_steps=0)
    run = Catalogue(tmp_path / "r.zarr").only()
    assert run.committed.tolist() == [1]
    assert not run.complete
    fit(RecorderCallback(tmp_path / "r.zarr", **options, resume=True))
    assert Catalogue(tmp_path / "r.zarr").only().complete


def test_each_validation_loader_of_lightning_needs_a_name(tmp_path, fit):
    from actstore.recording.lightning import RecorderCallback

    with pytest.raises(InvalidParameterError, match="2 validation loaders, and splits names test"):
        fit(RecorderCallback(tmp_path / "r.zarr"), epochs=1)


def test_the_lightning_example_learns(tmp_path):
    run_example("lightning_callback.py", tmp_path / "l.zarr")
    run = Catalogue(tmp_path / "l.zarr").only()
    assert run.committed.tolist() == [0, 5, 10]
    assert run.splits == ("test", "train")
    assert run.metrics().test_error[-1] < 0.1


def test_the_evaluation_of_the_trainer_is_recorded_and_the_training_is_the_same(tmp_path):
    import transformers

    from actstore.recording.transformers import RecorderCallback

    generator = torch.Generator().manual_seed(1)
    rows = [
        {"input_ids": torch.randint(0, 20, (6,), generator=generator), "labels": k % 3}
        for k in range(21)
    ]

    def train(*callbacks):
        transformers.set_seed(0)
        config = transformers.BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=8,
            num_labels=3,
        )
        trainer = transformers.Trainer(
            transformers.BertForSequenceClassification(config),
            transformers.TrainingArguments(
                output_dir=str(tmp_path / "out"),
                num_train_epochs=2,
                per_device_train_batch_size=8,
                per_device_eval_batch_size=8,
                eval_strategy="epoch",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=rows,
            eval_dataset=rows,
            callbacks=list(callbacks),
        )
        trainer.train()
        return trainer.model

    plain = train()
    model = train(RecorderCallback(tmp_path / "r.zarr", schedule="every:1"))
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not model._forward_pre_hooks
    run = Catalogue(tmp_path / "r.zarr").only()
    assert run.complete
    assert run.committed.tolist() == [1, 2]
    found = run.dataset().compute()
    assert found.label.values.tolist() == [row["labels"] for row in rows]
    with torch.no_grad():
        inputs = torch.stack([row["input_ids"] for row in rows])
        expected = model.eval().bert(inputs).pooler_output
        loss = model(inputs, labels=torch.tensor([row["labels"] for row in rows])).loss
    np.testing.assert_allclose(found.activations[-1], expected, rtol=1e-4, atol=1e-6)
    assert run.metrics().loss.values[-1] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("module", "needs"), [("lightning", "lightning.pytorch"), ("transformers", "transformers")]
)
def test_a_library_that_is_not_installed_is_named(monkeypatch, module, needs):
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"actstore.recording.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'actstore\[{module}\]'"):
        importlib.import_module(f"actstore.recording.{module}")
