"""The built-in recipes: the paper's experiments, and two that a CPU trains."""

from __future__ import annotations

import dataclasses
from typing import Final

from actstore.training import architectures, datasets
from actstore.training.recipes import Recipe
from actstore.training.settings import Settings
from actstore.training.wide_resnet import wide_resnet

#: how the paper trains on CIFAR (arXiv 2106.03485)
_CIFAR: Final = Settings(
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    final_learning_rate=1e-5,
    momentum=0.9,
    weight_decay=5e-4,
)
_WIDTHS: Final = (16, 32, 64, 128, 256, 512)

_DIGITS: Final = Recipe(
    name="digits",
    model=architectures.mlp,
    data=datasets.digits,
    settings=Settings(batch_size=50, weight_decay=0.005),
    widths=(8, *_WIDTHS),
    schedule="0,paper",
    # Steps of a millisecond: a second thread gains 20 % on an idle machine, and on a busy one
    # the two wait for each other up to a hundred times as long.
    threads=1,
)

_FASHION_MLP: Final = Recipe(
    name="fashion-mnist",
    model=architectures.mlp,
    data=datasets.fashion_mnist_pixels,
    settings=Settings(epochs=150, batch_size=50, weight_decay=0.003),
    widths=_WIDTHS,
    schedule="0,paper",
    threads=1,
    model_keywords={"inputs": 196},
    variant="mlp",
)
_FASHION_WRN: Final = Recipe(
    name="fashion-mnist",
    model=wide_resnet,
    data=datasets.fashion_mnist_images,
    # Not from the paper: its settings for CIFAR in a quarter of the epochs, on a network of 10
    # layers in place of 28.
    settings=dataclasses.replace(_CIFAR, epochs=50),
    widths=_WIDTHS,
    schedule="0,paper",
    model_keywords={"depth": 10, "channels": 1},
    variant="wrn",
)
_FASHION: Final = dataclasses.replace(
    _FASHION_MLP, variants={"mlp": _FASHION_MLP, "wrn": _FASHION_WRN}
)

_WRN28: Final = Recipe(
    name="cifar10-wrn28",
    model=wide_resnet,
    data=datasets.cifar10,
    settings=_CIFAR,
    widths=_WIDTHS,
    schedule="0,paper",
    model_keywords={"depth": 28},
)
_WRN16: Final = dataclasses.replace(_WRN28, name="cifar10-wrn16", model_keywords={"depth": 16})
_WRN28_100: Final = dataclasses.replace(
    _WRN28,
    name="cifar100-wrn28",
    data=datasets.cifar100,
    # Not given in the paper; the last layer needs more neurons than there are classes.
    widths=(128, 256, 512, 1024),
    model_keywords={"depth": 28, "outputs": 100},
)

_DENSENET: Final = Recipe(
    name="cifar10-densenet40",
    model=architectures.densenet,
    data=datasets.cifar10,
    settings=_CIFAR,
    widths=(44, 88, 176, 352, 704, 1408),
    schedule="0,paper",
    model_keywords={"depth": 40},
)

_PARITY: Final = Recipe(
    name="pmnist-fc",
    model=architectures.parity_network,
    data=datasets.mnist_parity,
    settings=Settings(
        epochs=20_000,
        batch_size=60_000,  # all of them
        optimizer="adam",
        loss="square_hinge",
        learning_rate=1e-4,
        learning_rate_by_width=0.1,
        decay="constant",
    ),
    widths=_WIDTHS,
    schedule="0,geometric",
    readout="readout",
)

_IMAGENET: Final = Recipe(
    name="imagenet-resnet50",
    model=architectures.resnet50,
    data=datasets.imagenet,
    # The paper's epochs and widths. Its optimiser for ImageNet is not known to us: these are
    # the settings of the network's own paper (arXiv 1512.03385) with a cosine in place of steps.
    settings=Settings(
        epochs=120, batch_size=256, learning_rate=0.1, weight_decay=1e-4, record_train=50_000
    ),
    widths=(512, 1024, 2048, 4096, 8192),
    schedule="0,paper",
)

RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        _DIGITS,
        _FASHION,
        _WRN28,
        _WRN16,
        _WRN28_100,
        _DENSENET,
        _PARITY,
        _IMAGENET,
    )
}
