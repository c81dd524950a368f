"""torchvision's DenseNet and ResNet-50 at other widths than torchvision offers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import DenseNet, ResNet  # type: ignore[import-untyped]
from torchvision.models.resnet import Bottleneck  # type: ignore[import-untyped]


class SignedDenseNet(DenseNet):  # type: ignore[misc]
    """Without the ReLU between the last batch norm and the pooling, as the authors trained it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(sample, output)`` of images ``(sample, channel, row, column)``."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def densenet(layers: int, growth: int, outputs: int) -> nn.Module:
    """Return three dense blocks of ``layers`` each, behind a stem that keeps the resolution."""
    model = SignedDenseNet(growth, (layers,) * 3, 2 * growth, num_classes=outputs)
    model.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.features.conv0.weight)
    model.features.pool0 = nn.Identity()
    return model


def resnet50(width: int, outputs: int, widen: str) -> nn.Module:
    """Return a ResNet-50 whose last group (``last``) or all of it (``all``) is widened."""
    model: Any = ResNet(Bottleneck, [3, 4, 6, 3], num_classes=outputs)
    if widen == "last":
        model.inplanes = Bottleneck.expansion * 256
        block = type("WideBottleneck", (Bottleneck,), {"expansion": width // 512})
        model.layer4 = model._make_layer(block, 512, 3, stride=2)
    else:
        planes = width // 32
        model.inplanes = planes
        model.conv1 = nn.Conv2d(3, planes, 7, stride=2, padding=3, bias=False)
        model.bn1 = nn.BatchNorm2d(planes)
        model.layer1 = model._make_layer(Bottleneck, planes, 3)
        model.layer2 = model._make_layer(Bottleneck, 2 * planes, 4, stride=2)
        model.layer3 = model._make_layer(Bottleneck, 4 * planes, 6, stride=2)
        model.layer4 = model._make_layer(Bottleneck, 8 * planes, 3, stride=2)
    model.fc = nn.Linear(width, outputs)
    for module in model.modules():  # as torchvision does; what was replaced is new
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    made: nn.Module = model
    return made
