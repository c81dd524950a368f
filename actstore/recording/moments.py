"""Moments of a layer, summed on the device while its batches pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from actstore.errors import InvalidDataError
from actstore.kernels.moments import Moments

#: samples that are gathered before they are multiplied: many thin products take twice as long
GATHERED = 1024


class MomentSum:
    r"""The running moments of a layer, in float64 on the device of its batches.

    .. math:: C \leftarrow C + C_b + \frac{n n_b}{n + n_b} δδᵀ, \quad δ = μ_b - μ

    Some batches together are centred on their own mean first: Σ xxᵀ − n μμᵀ would lose the digits
    of a neuron whose mean is large against its spread. Nothing waits for the device before
    :meth:`moments`.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", Am. Stat. 37.

    Examples
    --------
    >>> total = MomentSum()
    >>> total.add(torch.tensor([[0.0, 1.0]]))
    >>> total.add(torch.tensor([[2.0, 1.0]]))
    >>> total.moments().comoment.tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self) -> None:
        self.count = 0
        self._gathered: list[Tensor] = []
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._comoment = torch.zeros(0, 0, dtype=torch.float64)
        self._stream: Any = None

    def add(self, batch: Tensor) -> None:
        """Add a batch ``(sample, neuron)`` of any float dtype from any device but one."""
        # Apple's devices have no float64: there, the sum is kept in the host's memory.
        batch = batch.cpu() if batch.device.type == "mps" else batch
        if batch.device.type == "cuda":
            self._stream = torch.cuda.current_stream(batch.device)
        # By way of float32, which is what a store would hold of it.
        x = batch.detach().float().double()
        if not self._mean.numel():
            self._mean = x.new_zeros(x.shape[1])
            self._comoment = x.new_zeros(x.shape[1], x.shape[1])
        self._gathered.append(x)
        if sum(map(len, self._gathered)) >= GATHERED:
            self.settle()

    def settle(self) -> None:
        """Sum what was gathered; nothing waits for the device.

        For the thread that trains: PyTorch gives each thread that computes a crew of its own, and
        with two crews on the cores each parallel step of the training took 1.7 times as long.
        """
        if not self._gathered:
            return
        x = torch.cat(self._gathered)
        self._gathered.clear()
        if not len(x):  # a process whose last samples are padding
            return
        mean = x.mean(0)
        x -= mean
        total = self.count + len(x)
        delta = mean - self._mean
        self._comoment.addmm_(x.T, x)
        self._comoment.addr_(delta, delta, alpha=self.count * len(x) / total)
        self._mean += delta * (len(x) / total)
        self.count = total

    def moments(self) -> Moments:
        """Return the moments of all batches.

        Raises
        ------
        InvalidDataError
            If there was no batch, or an activation is NaN or infinite.
        """
        # The writer's thread has another stream, which would not wait for the batches of this one.
        with torch.cuda.stream(self._stream):
            self.settle()
            mean, comoment = self._mean.cpu().numpy(), self._comoment.cpu().numpy()
        if not self._mean.numel():
            raise InvalidDataError("no batch has passed; moments of nothing were asked for")
        if not (np.isfinite(mean).all() and np.isfinite(comoment).all()):
            raise InvalidDataError(
                "the moments of a layer are NaN or infinite; did the training diverge?"
            )
        # A product of a matrix with its own transpose need not be symmetric to the last bit.
        return Moments(self.count, mean, (comoment + comoment.T) / 2)
