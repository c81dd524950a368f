"""Which epochs are recorded, and how many bytes they will take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from actstore import schema
from actstore.errors import InvalidParameterError

#: the epochs that the paper's authors kept of their 200
PAPER_EPOCHS: Final = (1, 2, 5, 10, 20, 40, 60, 80, 100, 130, 140, 150, 160, 180, 200)
#: the first epoch whose train error is zero, wherever it falls
ZERO_TRAIN_ERROR: Final = "zero_train_error"


@dataclass(frozen=True)
class Schedule:
    """The epochs to record, written as terms joined by commas.

    ``every:10`` is each tenth epoch, ``geometric`` is 1, 2, 4, 8, … (``geometric:1.5``
    for another factor), ``paper`` is the list of the paper's authors, a number is that
    epoch (0 is the untrained network) and ``zero_train_error`` is the first epoch
    without training errors. The last epoch of the training is always recorded.

    Parameters
    ----------
    rule
        The terms, for example ``"0,paper"``.

    Raises
    ------
    InvalidParameterError
        If a term is none of these.

    References
    ----------
    The list of the authors: arXiv 2106.03485, published analysis code.

    Examples
    --------
    >>> Schedule("0,paper").epochs(20)
    (0, 1, 2, 5, 10, 20)
    >>> Schedule("every:4").epochs(10)
    (4, 8, 10)
    """

    rule: str = "paper"

    def __post_init__(self) -> None:
        for term in self._terms():
            _expand(term, 1)

    @classmethod
    def of(cls, schedule: Schedule | str | Iterable[int] | None) -> Schedule:
        """Return a schedule from a rule, a list of epochs, or nothing (the paper's list)."""
        if schedule is None:
            return cls()
        if isinstance(schedule, Schedule):
            return schedule
        if isinstance(schedule, str):
            return cls(schedule)
        return cls(",".join(str(epoch) for epoch in schedule))

    def epochs(self, total: int) -> tuple[int, ...]:
        """Return the epochs known beforehand, for a training of ``total`` epochs.

        Raises
        ------
        InvalidParameterError
            If ``total`` is negative or a listed epoch lies beyond it.
        """
        if total < 0:
            raise InvalidParameterError(f"epochs is {total}; expected 0 or more")
        found = {total}
        for term in self._terms():
            planned = _expand(term, total)
            if term.isdecimal() and planned[0] > total:
                raise InvalidParameterError(
                    f"the schedule {self.rule!r} asks for epoch {planned[0]} of a training "
                    f"of {total} epochs; list epochs up to {total}"
                )
            found.update(epoch for epoch in planned if epoch <= total)
        return tuple(sorted(found))

    @property
    def at_zero_train_error(self) -> bool:
        """Whether the first epoch without training errors is recorded too."""
        return ZERO_TRAIN_ERROR in self._terms()

    def slots(self, total: int) -> int:
        """Return the largest number of epochs that can be recorded."""
        return len(self.epochs(total)) + self.at_zero_train_error

    def _terms(self) -> list[str]:
        return [term.strip() for term in self.rule.split(",")]


def _expand(term: str, total: int) -> tuple[int, ...]:
    kind, _, value = term.partition(":")
    if term.isdecimal():
        return (int(term),)
    if term == "paper":
        return PAPER_EPOCHS
    if term == ZERO_TRAIN_ERROR:
        return ()
    if kind == "every" and value.isdecimal() and int(value) > 0:
        return tuple(range(int(value), total + 1, int(value)))
    if kind == "geometric":
        factor = _number(value) if value else 2.0
        if factor > 1 and math.isfinite(factor):
            count = int(math.log(max(total, 1)) / math.log(factor)) + 1
            return tuple(round(factor**power) for power in range(count))
    raise InvalidParameterError(
        f"the schedule term {term!r} is not known; expected an epoch, 'every:N', 'geometric', "
        f"'geometric:FACTOR', 'paper' or '{ZERO_TRAIN_ERROR}', joined by commas"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def estimate_bytes(
    samples: Mapping[str, int],
    *,
    widths: Mapping[str, int],
    slots: int,
    outputs: int = 0,
    keep: Sequence[str] = (schema.ACTIVATIONS,),
) -> int:
    """Return the bytes that one run will write, before compression.

    Parameters
    ----------
    samples
        Samples of each split.
    widths
        Neurons of each recorded layer.
    slots
        Epochs to record.
    outputs
        Outputs of the readout, whose weight and bias are stored at every epoch.
    keep
        What is stored of a layer: activations (float32), moments (float64) or both.

    Examples
    --------
    >>> estimate_bytes({"train": 800, "test": 997}, widths={"last_hidden": 256}, slots=10)
    18401280
    """
    readout = 4 * outputs * (max(widths.values(), default=0) + 1)
    layers = 0
    if schema.ACTIVATIONS in keep:
        layers += 4 * sum(samples.values()) * sum(widths.values())
    if schema.MOMENTS in keep:
        layers += 8 * len(samples) * sum(1 + w + w**2 for w in widths.values())
    return slots * (layers + readout)
