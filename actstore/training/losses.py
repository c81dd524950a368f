"""The losses that a training minimises; both read logits ``(sample, output)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn.functional import cross_entropy

from actstore.training.settings import Settings

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def loss_of(settings: Settings, *, training: bool) -> Loss:
    """Return the loss: its mean over samples while training, otherwise its sum.

    Labels are smoothed while training only: the recorded loss is that of the true labels.
    """
    reduction = "mean" if training else "sum"
    if settings.loss == "square_hinge":
        return lambda logits, labels: square_hinge(logits, labels, reduction=reduction)
    smoothing = settings.label_smoothing if training else 0.0
    return lambda logits, labels: cross_entropy(
        logits, labels, label_smoothing=smoothing, reduction=reduction
    )


def square_hinge(logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Return the square hinge loss of two classes.

    .. math:: ½ \max(0, 1 - y f)^2, \quad f = z_1 - z_0, \quad y = 2 · label - 1

    Parameters
    ----------
    logits
        ``(sample, 2)``.
    labels
        ``(sample,)``, 0 or 1.
    reduction
        ``mean`` or ``sum`` over samples.

    References
    ----------
    arXiv 2106.03485, parity of MNIST digits.

    Examples
    --------
    >>> import torch
    >>> square_hinge(torch.tensor([[0.0, 0.5], [1.0, 0.0]]), torch.tensor([1, 0])).item()
    0.0625
    """
    margin = (2 * labels - 1) * (logits[:, 1] - logits[:, 0])
    loss = 0.5 * (1 - margin).clamp(min=0).square()
    return loss.mean() if reduction == "mean" else loss.sum()
