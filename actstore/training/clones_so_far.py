"""The number of clones while a training runs, for its progress: a count from a few samples."""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from actstore.kernels.moments import alive, moments
from actstore.kernels.reconstruction import critical_size, r2_curves

_SUBSETS = 4  # of each size; a query takes 40
_SAMPLES = 2000
_THRESHOLD = 0.95  # held out, as the queries' own


class CloneCount:
    """Counts clones in what a readout reads while it is entered.

    Moments of at most 2000 samples (or four a neuron), four random subsets of each size and
    the queries' threshold, held-out R² ≥ 0.95: about as long as evaluating a thousand samples
    of a small network, and within a few per cent of ``actstore query clones``.

    Parameters
    ----------
    readout
        Module that reads the layer.
    samples
        Samples to take.
    skip
        Samples that pass before the first one to take.
    """

    #: neurons of the widest layer that this is cheap for
    WIDEST: ClassVar = 2048

    def __init__(self, readout: nn.Module, samples: int, *, skip: int = 0) -> None:
        self._readout = readout
        self._skip, self._samples = skip, samples
        self._taken: list[Tensor] = []

    def __enter__(self) -> Self:
        self._handle = self._readout.register_forward_pre_hook(self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handle.remove()

    def value(self) -> float | None:
        """Return alive neurons ÷ critical size; None where no neuron varies.

        Below 2 there are no clones.
        """
        if not self._taken:
            return None
        layer = moments(torch.cat(self._taken).float().cpu().numpy())
        varies = alive(layer)
        if not varies.any():
            return None
        comoment = layer.comoment[np.ix_(varies, varies)]
        _, heldout = r2_curves(comoment, subsets=_SUBSETS, seed=0)
        return len(comoment) / critical_size(heldout.mean(0), _THRESHOLD)

    def _take(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        activations: Tensor = inputs[0]
        most = min(self._samples, max(_SAMPLES, 4 * activations.shape[1]))
        wanted = activations[self._skip :][: most - sum(map(len, self._taken))]
        self._skip = max(0, self._skip - len(activations))
        if len(wanted):
            self._taken.append(wanted.detach().clone())  # where it is: nothing waits for a GPU
