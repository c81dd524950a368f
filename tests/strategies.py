"""Layers and ways of cutting them up, for the laws that hold of all of them."""

from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st
from numpy.typing import NDArray

from actstore.testing import planted_layer

Layer = NDArray[np.float64]


@st.composite
def layers(draw: st.DrawFn, *, widest: int = 10) -> Layer:
    """Draw a layer ``(sample, neuron)`` of shared signals and private noise, well conditioned."""
    width = draw(st.integers(2, widest))
    return planted_layer(
        samples=draw(st.integers(3 * width, 60)),
        width=width,
        signals=draw(st.integers(1, width)),
        noise=draw(st.floats(0.05, 2.0)),
        seed=draw(st.integers(0, 10_000)),
        dtype=np.float64,
    )


def permutations(n: int) -> st.SearchStrategy[list[int]]:
    """Draw an order of n things."""
    return st.permutations(range(n))


@st.composite
def chunkings(draw: st.DrawFn, n: int) -> tuple[int, ...]:
    """Draw a way of cutting n things into blocks, blocks of one among them."""
    cuts = draw(st.sets(st.integers(1, n - 1), max_size=6))
    edges = [0, *sorted(cuts), n]
    return tuple(int(length) for length in np.diff(edges))


def dataset(x: NDArray[Any]) -> xr.Dataset:
    """Return a layer as the queries take it."""
    return xr.Dataset({"activations": (("sample", "neuron"), x)})
