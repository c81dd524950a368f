"""The settings of a training: optimiser, loss, learning rate, regularisation, when it ends."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from actstore.errors import InvalidParameterError

#: field → its lowest and its highest value; a field of whole numbers is one of ``_WHOLE``
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "epochs": (1, math.inf),
    "batch_size": (2, math.inf),
    "learning_rate": (0, math.inf),
    "learning_rate_by_width": (0, math.inf),
    "final_learning_rate": (0, math.inf),
    "momentum": (0, 1),
    "nesterov": (0, 1),
    "weight_decay": (0, math.inf),
    "label_smoothing": (0, 1),
    "label_noise": (0, 1),
    "amp": (0, 1),
    "record_train": (0, math.inf),
}
_WHOLE: Final = ("epochs", "batch_size", "record_train")
_TRUTHS: Final = ("nesterov", "amp")
_CHOICES: Final = {
    "optimizer": ("sgd", "adam"),
    "loss": ("cross_entropy", "square_hinge"),
    "decay": ("cosine", "constant"),
}


@dataclass(frozen=True)
class Settings:
    """Settings of a training.

    Parameters
    ----------
    epochs
        Passes over the training set.
    batch_size
        Samples a step; as many as there are, or more, is a full batch.
    optimizer
        ``sgd`` or ``adam``.
    loss
        ``cross_entropy``, or ``square_hinge`` for labels 0 and 1.
    learning_rate, final_learning_rate, decay
        At the first epoch, and after the last; in between ½(1 + cos) of the difference, or
        with ``decay="constant"`` the first one throughout.
    learning_rate_by_width
        Where it is not 0, the learning rate is no more than this · width^-1.5.
    momentum, nesterov
        Of stochastic gradient descent.
    weight_decay
        On all parameters.
    label_smoothing
        Share of a label that is spread over all classes.
    label_noise
        Share of the training labels that are drawn anew from all classes: 1 is random labels.
        Every run of a sweep has the same ones.
    amp
        Steps in half precision. Evaluation, and so what is recorded, stays in single precision.
    record_train
        Training samples to evaluate and record, drawn once; 0 is all of them.
    until
        ``zero-error:k`` ends the training k epochs after the first one whose train error
        is zero, ``zero-error`` at that one.

    Raises
    ------
    InvalidParameterError
        If a value is out of its range.
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: str = "sgd"
    loss: str = "cross_entropy"
    learning_rate: float = 0.1
    final_learning_rate: float = 0.0
    decay: str = "cosine"
    learning_rate_by_width: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    label_noise: float = 0.0
    amp: bool = False
    record_train: int = 0
    until: str = ""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            self._check_range(name, low, high)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidParameterError(
                    f"{name} is {getattr(self, name)!r}; expected {' or '.join(choices)}"
                )
        if self.nesterov and self.momentum == 0:
            raise InvalidParameterError("nesterov is set and momentum is 0; give a momentum")
        if self.loss == "square_hinge" and self.label_smoothing:
            raise InvalidParameterError(
                "label_smoothing was given for the square hinge loss; it is one of cross_entropy"
            )
        if not re.fullmatch(r"|zero-error(:\d+)?", str(self.until)):
            raise InvalidParameterError(
                f"until is {self.until!r}; expected 'zero-error' or 'zero-error:EPOCHS'"
            )

    @property
    def epochs_after_interpolation(self) -> int | None:
        """Epochs from zero train error to the end; None where the training does not end early."""
        if not self.until:
            return None
        return int(self.until.partition(":")[2] or 0)

    def _check_range(self, name: str, low: float, high: float) -> None:
        value, whole = getattr(self, name), name in _WHOLE
        # inf is a number, and no learning rate.
        sound = isinstance(value, int if whole else (int, float)) and math.isfinite(value)
        if not sound or not low <= value <= high:
            number = "a whole number" if whole else "a number"
            span = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
            raise InvalidParameterError(f"{name} is {value!r}; expected {number} {span}")
        if name in _TRUTHS:
            object.__setattr__(self, name, bool(value))
        elif not whole:
            # 0 and 0.0 are one setting, and must be one in the name of the run.
            object.__setattr__(self, name, float(value))


def learning_rate(settings: Settings, epoch: int) -> float:
    """Return the learning rate during an epoch (from 1), and the first one's at epoch 0.

    Examples
    --------
    >>> [round(learning_rate(Settings(epochs=4), epoch), 3) for epoch in (0, 1, 2, 3, 4)]
    [0.1, 0.1, 0.085, 0.05, 0.015]
    """
    if settings.decay == "constant":
        return settings.learning_rate
    share = 0.5 * (1 + math.cos(math.pi * max(epoch - 1, 0) / settings.epochs))
    low, high = settings.final_learning_rate, settings.learning_rate
    return low + (high - low) * share
