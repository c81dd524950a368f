"""The Wide-ResNet for images of 32 × 32 pixels, as the paper trains it."""

from __future__ import annotations

from torch import Tensor, nn

from actstore.errors import InvalidParameterError

_GROUPS = 3
_CONVOLUTIONS = 2  # in a block


def wide_resnet(
    width: int,
    *,
    depth: int = 28,
    widen: str = "all",
    base: int = 512,
    outputs: int = 10,
    channels: int = 3,
) -> WideResNet:
    """Return a Wide-ResNet whose last layer has ``width`` neurons: WRN-28-8 is ``width=512``.

    Parameters
    ----------
    width
        Channels of the last group, 64 k; a multiple of 4.
    depth
        6 n + 4: n blocks in each of three groups.
    widen
        ``all``: every group. ``last``: the last group only, and the others as in the network
        whose last group has ``base`` channels.
    base
        See ``widen``.
    outputs, channels
        Classes; channels of an image.

    Raises
    ------
    InvalidParameterError
        If ``width``, ``depth`` or ``widen`` is none of these.

    References
    ----------
    Zagoruyko and Komodakis, arXiv 1605.07146; arXiv 2106.03485, methods: 16 and 32 neurons by
    shrinking the input planes to 4 and 8.

    Examples
    --------
    >>> wide_resnet(16, depth=10).readout
    Linear(in_features=16, out_features=10, bias=True)
    """
    if widen not in ("all", "last"):
        raise InvalidParameterError(f"widen is {widen!r}; expected all or last")
    blocks, rest = divmod(depth - 4, _GROUPS * _CONVOLUTIONS)
    if blocks < 1 or rest:
        raise InvalidParameterError(
            f"depth {depth} was given; a Wide-ResNet has 6n + 4 layers: 10, 16, 22, 28, 40"
        )
    along = width if widen == "all" else base
    if along < 4 or along % 4:
        raise InvalidParameterError(
            f"width {along} was given; the last group of a Wide-ResNet has a multiple of 4 channels"
        )
    stem = min(16, along // 4)
    return WideResNet(stem, (along // 4, along // 2, width), blocks, outputs, channels)


class WideResNet(nn.Module):
    """Three groups of pre-activation blocks, the later two at half the resolution each.

    There is no ReLU between the last batch norm and the average over positions, so that
    the activations of the last layer are signed.

    Parameters
    ----------
    stem
        Planes of the first convolution.
    groups
        Channels of the three groups.
    blocks
        Blocks in a group.
    outputs, channels
        Classes; channels of an image.
    """

    def __init__(
        self, stem: int, groups: tuple[int, int, int], blocks: int, outputs: int, channels: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        reads = (stem, *groups)
        self.groups = nn.Sequential(
            *(
                _group(reads[index], planes, blocks, stride=1 if index == 0 else 2)
                for index, planes in enumerate(groups)
            )
        )
        self.norm = nn.BatchNorm2d(groups[-1])
        self.readout = nn.Linear(groups[-1], outputs)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(sample, output)`` of images ``(sample, channel, row, column)``."""
        maps: Tensor = self.norm(self.groups(self.stem(images)))
        logits: Tensor = self.readout(maps.mean((2, 3)))
        return logits


class Block(nn.Module):
    """[batch norm, ReLU, 3 × 3 convolution] twice, beside a shortcut."""

    def __init__(self, reads: int, planes: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(reads)
        self.conv1 = nn.Conv2d(reads, planes, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        same = reads == planes and stride == 1
        # The paper's shortcut reads the input itself, neither normalised nor rectified.
        self.shortcut = nn.Identity() if same else nn.Conv2d(reads, planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps."""
        inner: Tensor = self.conv1(self.norm1(x).relu_())
        inner = self.conv2(self.norm2(inner).relu_())
        shortcut: Tensor = self.shortcut(x)
        return inner + shortcut


def _group(reads: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(reads, planes, stride)
    return nn.Sequential(first, *(Block(planes, planes, 1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)
