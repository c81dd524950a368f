"""Random changes of images as tensor operations on a whole batch, where the batch lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop of the image padded by reflection, and a horizontal flip of every second.

    Both only move pixels, so that they are one gather from the unpadded batch, whatever its
    type: bytes are augmented before they become numbers. torchvision's ``RandomCrop`` and
    ``RandomHorizontalFlip`` do the same image by image.

    Parameters
    ----------
    padding
        Pixels that the image is padded by on each side.
    flip
        Whether to flip.

    References
    ----------
    arXiv 2106.03485: random crop 32 with reflect-pad 4, horizontal flip.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return changed images ``(sample, channel, row, column)``, a new tensor."""
        count, _, height, width = images.shape
        rows = self._places(count, height, generator)
        columns = self._places(count, width, generator)
        if self.flip:
            coin = torch.randint(2, (count, 1), generator=generator, device=generator.device)
            columns = torch.where(coin.bool(), columns.flip(1), columns)
        sample = torch.arange(count, device=images.device)[:, None, None]
        # The two full indices around a slice put channels last; that is also the layout which
        # convolutions on a GPU read fastest.
        moved = images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)

    def _places(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return where each row or column of a crop comes from, ``(sample, size)``."""
        device = generator.device
        shift = torch.randint(
            -self.padding, self.padding + 1, (count, 1), generator=generator, device=device
        )
        places = (torch.arange(size, device=device) + shift).abs()
        return torch.where(places < size, places, 2 * (size - 1) - places)


@dataclass(frozen=True)
class Normalise:
    """Bytes to numbers of mean 0 and variance 1 in each channel.

    Parameters
    ----------
    mean, sd
        Of each channel of the training set, in bytes.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Normalise:
        """Return the one for these images ``(sample, channel, row, column)`` of bytes."""
        # From a count of each byte's value: exact, and without a copy of the images as numbers.
        counts = torch.stack(
            [torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]
        ).double()
        values = torch.arange(256, dtype=torch.float64)
        total = counts.sum(1)
        mean = counts @ values / total
        variance = counts @ values**2 / total - mean**2
        return cls(tuple(mean.tolist()), tuple(variance.sqrt().tolist()))

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 images."""
        shape = (1, -1, 1, 1)
        # Made on the host and copied without waiting: a GPU keeps its queue of work.
        mean, scale = (
            values.view(shape).to(images.device, non_blocking=True)
            for values in (torch.tensor(self.mean), torch.tensor(self.sd).reciprocal())
        )
        return (images.float() - mean) * scale
