"""The data sets of the recipes. Inputs stay bytes until a batch of them is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from actstore.errors import InvalidParameterError, MissingExtraError
from actstore.training.augmentation import CropAndFlip, Normalise
from actstore.training.folders import DEFAULT_FOLDER, from_torchvision, not_found, read_idx
from actstore.training.splits import Split

#: where Debian's package dataset-fashion-mnist puts its files
DEBIAN_FASHION_MNIST: Final = Path("/usr/share/datasets/fashion-mnist")


def digits() -> dict[str, Split]:
    """Return scikit-learn's handwritten digits: 800 train, 997 test, 64 pixels, 10 classes.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.

    Examples
    --------
    >>> {name: len(split) for name, split in digits().items()}
    {'train': 800, 'test': 997}
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "the digits come with scikit-learn, which is not installed; "
            "pip install 'actstore[train]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    # The legacy generator: its permutation is the one that the published numbers were made with.
    order = np.random.RandomState(0).permutation(len(labels))
    scaled = pixels / 16
    train = scaled[order[:800]]
    inputs = torch.from_numpy(((scaled - train.mean()) / train.std()).astype("float32"))
    targets = torch.from_numpy(labels.astype("int64"))
    return {
        name: Split((inputs[index], targets[index]), samples=index)
        for name, index in (("train", order[:800]), ("test", order[800:]))
    }


def fashion_mnist_pixels(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    train_samples: int = 2000,
    pool: int = 2,
) -> dict[str, Split]:
    """Return Fashion-MNIST for fully connected networks: pixels in a row, one mean and sd.

    Parameters
    ----------
    data_dir, download
        See :func:`fashion_mnist_images`.
    train_samples
        The first so many of the 60,000 training images; 0 is all.
    pool
        Side of the squares of pixels that are averaged: 2 gives 14 × 14 pixels.

    Raises
    ------
    DatasetNotFoundError
        If the data set is not there.
    """
    held = _fashion_mnist(data_dir, download, train_samples)
    pooled = {
        name: avg_pool2d(images.float()[:, None], pool).flatten(1) / 255
        for name, (images, _) in held.items()
    }
    mean, sd = pooled["train"].mean(), pooled["train"].std(correction=0)
    return {name: Split(((pooled[name] - mean) / sd, held[name][1])) for name in held}


def fashion_mnist_images(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    train_samples: int = 0,
    augment: bool = True,
) -> dict[str, Split]:
    """Return Fashion-MNIST for convolutions: images padded to 32 × 32, one channel.

    Parameters
    ----------
    data_dir
        Root of torchvision's layout (``FashionMNIST/raw/…`` in it), or the folder of the
        four idx files. Without it: ``data`` in the current directory, then Debian's folder.
    download
        Fetch the files with torchvision where they are missing.
    train_samples
        The first so many of the 60,000 training images; 0 is all.
    augment
        Random crop with reflection and horizontal flip while training.

    Raises
    ------
    DatasetNotFoundError
        If the data set is not there.
    """
    held = _fashion_mnist(data_dir, download, train_samples)
    images = {name: (pad(x[:, None], (2, 2, 2, 2)), y) for name, (x, y) in held.items()}
    return _image_splits(images, augment)


def cifar10(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    train_samples: int = 0,
    augment: bool = True,
) -> dict[str, Split]:
    """Return CIFAR-10: 50,000 and 10,000 images, random crop and flip while training.

    Parameters
    ----------
    data_dir, download, train_samples, augment
        As for :func:`fashion_mnist_images`.

    Raises
    ------
    DatasetNotFoundError
        If the data set is not there.
    """
    return _cifar("CIFAR10", data_dir, download, train_samples, augment)


def cifar100(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    train_samples: int = 0,
    augment: bool = True,
) -> dict[str, Split]:
    """Return CIFAR-100: as :func:`cifar10` with 100 classes."""
    return _cifar("CIFAR100", data_dir, download, train_samples, augment)


def mnist_parity(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    train_samples: int = 0,
    components: int = 10,
) -> dict[str, Split]:
    """Return MNIST digits as their first principal components, labelled 1 if odd and 0 if even.

    Components are those of the training images, and keep their relative variances: all are
    divided by one number, so that their variance on the training images is 1 on average.

    Parameters
    ----------
    data_dir, download, train_samples
        As for :func:`fashion_mnist_images`.
    components
        Principal components to keep.

    Raises
    ------
    DatasetNotFoundError
        If the data set is not there.

    References
    ----------
    arXiv 2106.03485, pMNIST; the scale of the components is not given there.
    """
    from_disk = _torchvision("MNIST", "MNIST", data_dir, download)
    pixels = {name: part.data.flatten(1).double() for name, part in from_disk.items()}
    mean = pixels["train"].mean(0)
    centred = pixels["train"] - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = axes[:, -components:].flip(1)
    # An eigenvector has no sign of its own; one rule gives every machine the same data.
    largest = kept.gather(0, kept.abs().argmax(0, keepdim=True))
    kept = kept * largest.sign() / variances[-components:].mean().sqrt()
    held = {
        name: (((pixels[name] - mean) @ kept).float(), part.targets % 2)
        for name, part in from_disk.items()
    }
    return {name: Split(pair) for name, pair in _first(held, train_samples).items()}


def imagenet(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    size: int = 224,
    workers: int = 8,
) -> dict[str, Split]:
    """Return ImageNet from the folders ``train`` and ``val``, one folder a class in each.

    Random resized crop and flip while training; for evaluation the centre of the image,
    whose shorter side is 8/7 of it.

    Parameters
    ----------
    data_dir
        Folder of ``train`` and ``val``, or one with ``imagenet`` in it.
    size
        Pixels of a side.
    workers
        Processes that read images ahead.

    Raises
    ------
    DatasetNotFoundError
        If the data set is not there.
    """
    torchvision = _import_torchvision()
    root = Path(data_dir or DEFAULT_FOLDER)
    candidates = [root, root / "imagenet"]
    found = [path for path in candidates if all((path / s).is_dir() for s in ("train", "val"))]
    if not found:
        raise not_found(
            "ImageNet (folders 'train' and 'val', one folder a class in each)",
            candidates,
            "it needs an account at image-net.org: get it there and give its folder (--data-dir)",
        )
    transforms = torchvision.transforms.v2
    numbers = [
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    changed = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *numbers]
    plain = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size), *numbers]

    def images(folder: str, steps: list[Any]) -> Any:
        made = torchvision.datasets.ImageFolder(found[0] / folder)
        made.transform = transforms.Compose(steps)
        return made

    return {
        "train": Split(images("train", plain), augmented=images("train", changed), workers=workers),
        "test": Split(images("val", plain), workers=workers),
    }


def _cifar(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    train_samples: int,
    augment: bool,
) -> dict[str, Split]:
    from_disk = _torchvision(name, name[:5] + "-" + name[5:], data_dir, download)
    held = {
        split: (
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets),
        )
        for split, part in from_disk.items()
    }
    return _image_splits(_first(held, train_samples), augment)


def _image_splits(held: dict[str, tuple[Tensor, Tensor]], augment: bool) -> dict[str, Split]:
    prepare = Normalise.of(held["train"][0])
    splits = {name: Split(pair, prepare=prepare) for name, pair in held.items()}
    if augment:
        splits["train"] = Split(held["train"], prepare=prepare, augment=CropAndFlip())
    return splits


def _first(
    held: dict[str, tuple[Tensor, Tensor]], train_samples: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what is held with only the first training samples, if any number is asked for."""
    inputs, labels = held["train"]
    if not isinstance(train_samples, int) or not 0 <= train_samples <= len(labels):
        raise InvalidParameterError(
            f"train_samples is {train_samples!r}; expected a whole number up to {len(labels)}"
        )
    count = train_samples or len(labels)
    return {**held, "train": (inputs[:count], labels[:count])}


def _fashion_mnist(
    data_dir: str | os.PathLike[str] | None, download: bool, train_samples: int
) -> dict[str, tuple[Tensor, Tensor]]:
    # torchvision's layout first; then the four files as distributed, zipped or not.
    also = DEBIAN_FASHION_MNIST if data_dir is None else Path(data_dir)
    files = {
        f"{name}-{kind}": next(iter(sorted(also.glob(f"{name}-{kind}-idx*-ubyte*"))), None)
        for name in ("train", "t10k")
        for kind in ("images", "labels")
    }
    in_torchvision = (Path(data_dir or DEFAULT_FOLDER) / "FashionMNIST").is_dir()
    if not in_torchvision and all(files.values()):
        read = {name: read_idx(path) for name, path in files.items() if path is not None}
        held = {
            split: (read[f"{name}-images"], read[f"{name}-labels"].long())
            for split, name in (("train", "train"), ("test", "t10k"))
        }
        return _first(held, train_samples)
    from_disk = _torchvision(
        "FashionMNIST",
        "Fashion-MNIST",
        data_dir,
        download,
        also=[also] if data_dir is None else [],
        remedy=", or with Debian: apt-get install dataset-fashion-mnist",
    )
    held = {name: (part.data, part.targets.long()) for name, part in from_disk.items()}
    return _first(held, train_samples)


def _torchvision(
    name: str,
    words: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    *,
    also: Sequence[Path] = (),
    remedy: str = "",
) -> dict[str, Any]:
    make = getattr(_import_torchvision().datasets, name)
    folder = Path(data_dir or DEFAULT_FOLDER)
    train, test = from_torchvision(words, make, folder, download=download, also=also, remedy=remedy)
    return {"train": train, "test": test}


def _import_torchvision() -> Any:
    try:
        import torchvision.transforms.v2  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            "this data set is read with torchvision, which cannot be imported; "
            "pip install 'actstore[train]'"
        ) from error
    return torchvision
