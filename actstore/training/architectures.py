"""Networks whose last hidden layer has a given width."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from types import ModuleType

import torch
from torch import Tensor, nn

from actstore.errors import InvalidParameterError, MissingExtraError


def mlp(
    width: int,
    *,
    inputs: int = 64,
    outputs: int = 10,
    depth: int = 3,
    widen: str = "all",
    base: int = 128,
) -> nn.Sequential:
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
    widen, base
        ``widen="last"`` gives the last hidden layer ``width`` neurons and the others ``base``.

    Examples
    --------
    >>> mlp(256)[-1]
    Linear(in_features=256, out_features=10, bias=True)
    """
    widths = _hidden(width, depth, widen, base)
    layers: list[nn.Module] = []
    for reads, planes in zip([inputs, *widths], widths, strict=False):
        linear = nn.Linear(reads, planes)
        nn.init.kaiming_normal_(linear.weight, mode="fan_in")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.BatchNorm1d(planes), nn.ReLU()]
    readout = nn.Linear(width, outputs)
    nn.init.normal_(readout.weight, std=width**-0.5)
    nn.init.zeros_(readout.bias)
    return nn.Sequential(*layers, readout)


def parity_network(
    width: int,
    *,
    inputs: int = 10,
    depth: int = 6,
    batch_norm: bool = False,
    widen: str = "all",
    base: int = 128,
) -> nn.Sequential:
    """Return the fully connected network of the parity of digits: ``depth`` linear layers.

    Weights are orthogonal and biases zero; the gammas of batch norm, in the regularised
    variant, are uniform in (0, 1).

    Parameters
    ----------
    width
        Neurons of every hidden layer.
    inputs
        Principal components.
    depth
        Linear layers, the readout among them.
    batch_norm
        Normalise before each ReLU.
    widen, base
        As for :func:`mlp`.

    References
    ----------
    arXiv 2106.03485, pMNIST.
    """
    widths = _hidden(width, depth - 1, widen, base)
    layers: list[nn.Module] = []
    for reads, planes in zip([inputs, *widths], widths, strict=False):
        linear = nn.Linear(reads, planes)
        nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if batch_norm:
            norm = nn.BatchNorm1d(planes)
            nn.init.uniform_(norm.weight)
            layers.append(norm)
        layers.append(nn.ReLU())
    named = {"hidden": nn.Sequential(*layers), "readout": SignReadout(width)}
    return nn.Sequential(OrderedDict(named))


class SignReadout(nn.Module):
    """One output f, read as the two logits −f/2 and f/2.

    Their difference is f and the larger of the two is the class of its sign, so that what
    asks for the largest logit needs no rule of its own for one output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Linear(width, 1)
        nn.init.orthogonal_(self.slope.weight)
        nn.init.zeros_(self.slope.bias)

    @property
    def weight(self) -> Tensor:
        """The readout's weight ``(2, neuron)``."""
        return torch.cat([-self.slope.weight, self.slope.weight]) / 2

    @property
    def bias(self) -> Tensor:
        """The readout's bias ``(2,)``."""
        return torch.cat([-self.slope.bias, self.slope.bias]) / 2

    def forward(self, activations: Tensor) -> Tensor:
        """Return logits ``(sample, 2)``."""
        half = self.slope(activations) / 2
        return torch.cat([-half, half], 1)


def densenet(width: int, *, depth: int = 40, outputs: int = 10) -> nn.Module:
    """Return a DenseNet-BC for images of 32 × 32 pixels, by torchvision.

    Three dense blocks of n = (depth − 4) / 6 layers with growth k, after a convolution to 2k
    channels. DenseNet-40 ends in 11k channels: the paper's 44 … 1408 are k = 4 … 128.

    Parameters
    ----------
    width
        Channels of the last layer.
    depth
        6 n + 4.
    outputs
        Classes.

    Raises
    ------
    InvalidParameterError
        If the depth is another, or no whole k gives ``width``.

    References
    ----------
    Huang et al., arXiv 1608.06993; arXiv 2106.03485.
    """
    layers, rest = divmod(depth - 4, 6)
    if layers < 1 or rest:
        raise InvalidParameterError(
            f"depth {depth} was given; a DenseNet of three blocks has 6n + 4 layers, such as 40"
        )
    widths = {_densenet_width(growth, layers): growth for growth in range(1, width + 1)}
    if width not in widths:
        near = sorted(widths, key=lambda found: abs(found - width))[:2]
        raise InvalidParameterError(
            f"no growth gives a DenseNet-{depth} a last layer of {width} neurons; the nearest "
            f"widths are {' and '.join(map(str, sorted(near)))}"
        )
    model: nn.Module = _models().densenet(layers, widths[width], outputs)
    return model


def resnet50(width: int = 2048, *, outputs: int = 1000, widen: str = "last") -> nn.Module:
    """Return torchvision's ResNet-50 with ``width`` neurons in the last layer.

    Parameters
    ----------
    width
        Channels that the last group gives; 2048 is the ResNet-50 itself.
    outputs
        Classes.
    widen
        ``last``: what the three blocks of the last group give, and nothing else. ``all``:
        every layer, in the proportion of ``width`` to 2048.

    Raises
    ------
    InvalidParameterError
        If ``width`` is not a multiple of 512 (``last``) or of 32 (``all``), or ``widen`` is
        another word.

    References
    ----------
    He et al., arXiv 1512.03385; arXiv 2106.03485: the last layer up to 8192 wide.
    """
    step = {"last": 512, "all": 32}.get(widen)
    if step is None:
        raise InvalidParameterError(f"widen is {widen!r}; expected all or last")
    if width < step or width % step:
        raise InvalidParameterError(
            f"width {width} was given; with widen={widen!r} the last layer of a ResNet-50 has a "
            f"multiple of {step} neurons"
        )
    model: nn.Module = _models().resnet50(width, outputs, widen)
    return model


def _hidden(width: int, count: int, widen: str, base: int) -> list[int]:
    """Return the widths of ``count`` hidden layers."""
    if widen not in ("all", "last"):
        raise InvalidParameterError(f"widen is {widen!r}; expected all or last")
    if count < 1:
        raise InvalidParameterError("depth leaves no hidden layer; give more")
    return [width if widen == "all" else base] * (count - 1) + [width]


def _densenet_width(growth: int, layers: int) -> int:
    channels = 2 * growth
    for _ in range(2):
        channels = (channels + layers * growth) // 2
    return channels + layers * growth


def _models() -> ModuleType:
    """Import what needs torchvision: digits and models of one's own do without."""
    try:
        return importlib.import_module("actstore.training.torchvision_models")
    except ImportError as error:
        raise MissingExtraError(
            "DenseNet and ResNet-50 come with torchvision, which cannot be imported; "
            "pip install 'actstore[train]'"
        ) from error
