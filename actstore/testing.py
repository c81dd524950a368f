"""Layers with a known answer, and a guard against computing early: for tests, yours and ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from actstore.errors import InvalidParameterError

if TYPE_CHECKING:
    import xarray as xr


def planted_layer(
    *,
    samples: int,
    width: int,
    signals: int,
    noise: float = 0.3,
    noise_correlation: float = 0.0,
    dead: int = 0,
    duplicates: int = 0,
    seed: int,
    dtype: DTypeLike = np.float32,
) -> NDArray[Any]:
    r"""Make a layer whose neurons share a few signals and carry noise of their own.

    .. math:: x = A z + σ e, \quad z ∼ N(0, I_k), \; e ∼ N(0, R)

    where the loadings A are drawn at random so that the signals give every neuron variance 1 on
    average. This is the paper's hypothesis made exact: identical information, independent noise.

    Parameters
    ----------
    samples, width, signals
        N, W and k.
    noise
        σ, the standard deviation of the private noise.
    noise_correlation
        The share c of the noise variance that comes from W hidden sources which every neuron
        mixes at random: R = (1 − c) I + c BBᵀ / W with B standard normal, so that the noise of
        two neurons correlates by about ± c / √W and no small number of factors describes it.
        0 is independent noise.
    dead
        How many neurons, the last ones, are zero for every sample.
    duplicates
        How many neurons, those before the dead ones, copy neurons 0, 1, ….
    seed
        Of the random numbers.
    dtype
        Of the result.

    Returns
    -------
    ``(sample, neuron)``.

    Raises
    ------
    InvalidParameterError
        If there are not enough neurons to copy, or ``noise_correlation`` is outside [0, 1].

    Examples
    --------
    >>> planted_layer(samples=5, width=4, signals=2, dead=1, seed=0).shape
    (5, 4)
    """
    private = width - dead - duplicates
    if private < duplicates or private < 1 or min(dead, duplicates, signals) < 0:
        raise InvalidParameterError(
            f"a layer of width {width} cannot hold {dead} dead neurons and {duplicates} "
            "duplicates of others; make it wider"
        )
    if not 0 <= noise_correlation <= 1:
        raise InvalidParameterError(
            f"noise_correlation must be in [0, 1], not {noise_correlation}: it is a share of the "
            "noise variance"
        )
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(signals, private)) / np.sqrt(max(signals, 1))
    x = np.zeros((samples, width))
    live = x[:, :private]
    live += rng.normal(size=(samples, signals)) @ loadings
    live += noise * np.sqrt(1 - noise_correlation) * rng.normal(size=(samples, private))
    if noise_correlation:
        mixing = rng.normal(size=(private, private)) / np.sqrt(private)
        live += noise * np.sqrt(noise_correlation) * rng.normal(size=(samples, private)) @ mixing
    x[:, private : private + duplicates] = x[:, :duplicates]
    return x.astype(dtype)


def planted_clones(
    *,
    samples: int,
    clones: int,
    clone_size: int,
    noise: float = 0.1,
    seed: int,
    dtype: DTypeLike = np.float32,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Make a layer out of clones that are known: each mixes the same signals in its own way.

    Every clone is an orthogonal mixture of the same ``clone_size`` signals of variance 1, plus
    independent noise, so that it explains a share of about 1 / (1 + noise²) of the others; the
    neurons are shuffled. Without noise no smaller subset explains the layer.

    Returns
    -------
    x
        ``(sample, neuron)``, clones · clone_size neurons.
    labels
        ``(neuron,)``, the clone of each neuron, 0 … clones − 1.

    Examples
    --------
    >>> x, labels = planted_clones(samples=50, clones=3, clone_size=2, seed=0)
    >>> x.shape, np.bincount(labels).tolist()
    ((50, 6), [2, 2, 2])
    """
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(samples, clone_size))
    mixtures = [np.linalg.qr(rng.normal(size=(clone_size,) * 2))[0] for _ in range(clones)]
    x = signals @ np.hstack(mixtures)
    x += noise * rng.normal(size=x.shape)
    shuffle = rng.permutation(clones * clone_size)
    labels = np.repeat(np.arange(clones), clone_size)[shuffle]
    return x[:, shuffle].astype(dtype), labels


def planted_dataset(
    *,
    samples: int = 400,
    width: int = 32,
    signals: int = 4,
    noise: Sequence[float] = (1.0, 0.3),
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Make a dataset of planted layers, one epoch for each noise, as the queries take it.

    Further options are those of :func:`planted_layer`. Each epoch is one dask chunk.

    Returns
    -------
    ``activations`` ``(epoch, sample, neuron)``, epochs 0, 1, ….

    Examples
    --------
    >>> dict(planted_dataset(samples=10, width=4).sizes)
    {'epoch': 2, 'sample': 10, 'neuron': 4}
    """
    import xarray as xr

    layers = [
        planted_layer(
            samples=samples, width=width, signals=signals, noise=sd, seed=seed + epoch, **options
        )
        for epoch, sd in enumerate(noise)
    ]
    data = xr.Dataset(
        {"activations": (("epoch", "sample", "neuron"), np.stack(layers))},
        coords={"epoch": np.arange(len(layers))},
    )
    return data.chunk(epoch=1)


@contextmanager
def raise_if_computes() -> Iterator[None]:
    """Raise AssertionError where anything inside the ``with`` block makes dask compute.

    Examples
    --------
    >>> import dask.array
    >>> with raise_if_computes():
    ...     total = dask.array.ones(3).sum()
    >>> float(total.compute())
    3.0
    """
    import dask

    def refuse(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"dask was asked to compute {keys}: this code must stay lazy")

    with dask.config.set(scheduler=refuse):
        yield
