"""Networks whose last hidden layer has a given width."""

from __future__ import annotations

from torch import nn


def mlp(width: int, *, inputs: int = 64, outputs: int = 10, depth: int = 3) -> nn.Sequential:
    """Return ``depth`` layers of [linear, batch norm, ReLU] of ``width`` neurons, and a readout.

    One hidden layer hardly shows clones, and without batch norm a fifth of the neurons of a
    wide network die; three layers with it show them.

    Parameters
    ----------
    width
        Neurons of every hidden layer.
    inputs, outputs
        Numbers a sample comes with, classes.
    depth
        Hidden layers.

    Examples
    --------
    >>> mlp(256)[-1]
    Linear(in_features=256, out_features=10, bias=True)
    """
    layers: list[nn.Module] = []
    for reads in [inputs] + [width] * (depth - 1):
        linear = nn.Linear(reads, width)
        nn.init.kaiming_normal_(linear.weight, mode="fan_in")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.BatchNorm1d(width), nn.ReLU()]
    readout = nn.Linear(width, outputs)
    nn.init.normal_(readout.weight, std=width**-0.5)
    nn.init.zeros_(readout.bias)
    return nn.Sequential(*layers, readout)
