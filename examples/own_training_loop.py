"""Record a training loop of your own: digits in plain PyTorch, a few seconds on a CPU.

Run ``python examples/own_training_loop.py own.zarr``, then ``actstore query clones own.zarr``.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actstore

store = sys.argv[1] if len(sys.argv) > 1 else "own.zarr"
width, epochs = 64, 20

torch.manual_seed(0)
pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
data = TensorDataset((pixels.float() - 4.9) / 6.0, labels)
train_set, test_set = torch.utils.data.random_split(data, [800, 997])

# Training shuffles; what is recorded must not, so that a row is the same sample at every epoch.
train_loader = DataLoader(train_set, batch_size=50, shuffle=True)
fixed_loaders = {"train": DataLoader(train_set, 500), "test": DataLoader(test_set, 500)}

# Three hidden layers with batch norm: with fewer, there are hardly any clones to find.
layers: list[nn.Module] = []
for reads in (64, width, width):
    layers += [nn.Linear(reads, width), nn.BatchNorm1d(width), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(width, 10))

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

# The recorder finds the readout, the last nn.Linear, and records what goes into it.
with actstore.Recorder(store, model, epochs=epochs, schedule="0,every:5") as recorder:
    for epoch in range(epochs + 1):  # epoch 0 is the network before training
        if epoch > 0:
            model.train()
            for x, y in train_loader:
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
            cosine.step()
        if not recorder.due(epoch):
            continue
        with recorder.epoch(epoch) as snapshot:  # committed at its end, or not at all
            snapshot.log(learning_rate=optimizer.param_groups[0]["lr"])
            for split, loader in fixed_loaders.items():
                loss = wrong = 0.0
                # An evaluation as you would write it: watch() records what the model computes.
                for x, y in snapshot.watch(loader, split):
                    logits = model(x)
                    loss += cross_entropy(logits, y, reduction="sum").item()
                    wrong += (logits.argmax(1) != y).sum().item()
                n = len(loader.dataset)
                snapshot.log(**{f"{split}_loss": loss / n, f"{split}_error": wrong / n})
        print(f"epoch {epoch:3d}: test error {wrong / n:.3f}")
