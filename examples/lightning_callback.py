"""Record a Lightning training: digits, a few seconds on a CPU.

Run ``python examples/lightning_callback.py lightning.zarr``, then
``actstore query clones lightning.zarr``.
"""

import sys

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from actstore.recording.lightning import RecorderCallback

store = sys.argv[1] if len(sys.argv) > 1 else "lightning.zarr"
width, epochs = 64, 10


class Digits(lightning.LightningModule):  # noqa: D101
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for reads in (64, width, width):
            layers += [nn.Linear(reads, width), nn.BatchNorm1d(width), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(width, 10))

    def forward(self, x):  # noqa: D102
        return self.network(x)

    def training_step(self, batch, _):  # noqa: D102
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _, dataloader_idx=0):  # noqa: D102
        wrong = (self(batch[0]).argmax(1) != batch[1]).float().mean()
        name = f"{('train', 'test')[dataloader_idx]}_error"
        self.log(name, wrong, add_dataloader_idx=False)  # stored beside the activations

    def configure_optimizers(self):  # noqa: D102
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)


lightning.seed_everything(0, verbose=False)
pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
data = TensorDataset((pixels.float() - 4.9) / 6.0, labels)
train_set, test_set = torch.utils.data.random_split(data, [800, 997])

# Validation covers both sets, unshuffled: a row is the same sample at every epoch.
trainer = lightning.Trainer(
    max_epochs=epochs,
    callbacks=[RecorderCallback(store, splits=("train", "test"), schedule="0,every:5")],
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
loaders = [DataLoader(train_set, 500), DataLoader(test_set, 500)]
trainer.fit(Digits(), DataLoader(train_set, 50, shuffle=True), loaders)
