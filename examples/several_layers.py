"""Record every hidden layer, not only the last, and see where in the network clones live.

Run ``python examples/several_layers.py layers.zarr``: some seconds on a CPU.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actstore

path = sys.argv[1] if len(sys.argv) > 1 else "layers.zarr"
width, epochs = 64, 40

torch.manual_seed(0)
pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
data = TensorDataset((pixels.float() - 4.9) / 6.0, labels)
train_set, test_set = torch.utils.data.random_split(data, [800, 997])
train_loader = DataLoader(train_set, batch_size=50, shuffle=True)
test_loader = DataLoader(test_set, batch_size=500)

blocks = [
    nn.Sequential(nn.Linear(reads, width), nn.BatchNorm1d(width), nn.ReLU())
    for reads in (64, width, width)
]
model = nn.Sequential(*blocks, nn.Linear(width, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

# name in the store -> module; the output of each is recorded in the same evaluation pass
layers = {"hidden_1": "0", "hidden_2": "1", "hidden_3": "2"}
with actstore.Recorder(
    path, model, width=width, epochs=epochs, layers=layers, schedule="every:20"
) as recorder:
    for epoch in range(1, epochs + 1):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        cosine.step()
        if recorder.due(epoch):
            recorder.record(epoch, test=test_loader)

store = actstore.open(path).sel(epoch=-1)
for layer in layers:
    clones = store.clones(layer=layer, threshold=0.9).squeeze().compute()
    number = clones.n_clones.item()
    text = f"{number:.1f} clones" if clones.has_clones else "no clones"
    print(f"{layer}: critical size {clones.critical_size.item():g} of {width}, {text}")
