"""How many directions a layer uses: eigenvalues of its covariance and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.spectrum import components_needed, effective_rank, participation_ratio
from actstore.kernels.spectrum import spectrum as eigenvalues_of
from actstore.queries.apply import Layer, Output, concat_runs, describe, per_epoch
from actstore.queries.sources import Data, sources

COMPONENT = "component"
FRACTION = "fraction"
FRACTIONS = (0.9, 0.95, 0.99)

OUTPUTS = {
    "eigenvalue": Output((COMPONENT,), "eigenvalue of the covariance, descending"),
    "participation_ratio": Output((), "participation ratio of the eigenvalues"),
    "effective_rank": Output((), "exponential of the entropy of the eigenvalues"),
    "components_needed": Output((FRACTION,), "components for the fraction of the variance"),
    "alive": Output((), "neurons that are not dead", dtype="int64"),
}


def spectrum(
    data: Data,
    *,
    fraction: float | Sequence[float] = FRACTIONS,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return the eigenvalues of a layer's covariance and three counts of its directions.

    With eigenvalues :math:`λ_i`, the participation ratio is :math:`(\sum λ_i)^2 / \sum λ_i^2`,
    the effective rank :math:`\exp(-\sum p_i \log p_i)` with :math:`p_i = λ_i / \sum λ_j`, and
    the components needed are the fewest whose eigenvalues sum to a fraction of all.

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    fraction : float or sequence of float
        Fractions of the variance, in (0, 1].
    split, layer : str
        Which activations.
    cache : bool, optional
        Whether moments are kept in the store; by default if they are smaller than the activations.

    Returns
    -------
    Dataset
        ``eigenvalue (run, epoch, component)``, NaN beyond the alive neurons;
        ``participation_ratio``, ``effective_rank`` and ``alive (run, epoch)``;
        ``components_needed (run, epoch, fraction)``. Lazy: nothing is read until values are
        asked for.

    Raises
    ------
    InvalidParameterError
        If a fraction is outside (0, 1].
    InvalidDataError
        On asking for values, if every neuron is dead.
    NotInStoreError
        If a run does not hold the split or the layer.

    Notes
    -----
    A clone explains no more than as many principal components as it has neurons, so the
    components needed for a threshold bound the number of clones from above.

    References
    ----------
    Not a measurement of arXiv 2106.03485: it bounds the number of clones. Roy & Vetterli (2007),
    "The effective rank"; Papyan, Han & Donoho (2020) for the about classes − 1 directions that
    remain when training ends.

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> result = spectrum(planted_dataset(width=8), fraction=0.9)
    >>> result.eigenvalue.dims
    ('run', 'epoch', 'component')
    """
    fractions = [float(f) for f in np.atleast_1d(np.asarray(fraction))]
    for share in fractions:
        if not 0 < share <= 1:
            raise InvalidParameterError(
                f"fraction {share} of the variance was asked for; it lies in (0, 1]"
            )
    if not fractions:
        raise InvalidParameterError("no fraction was given; 0.95 of the variance is a usual one")
    found = sources(data, split=split, layer=layer)

    def kernel(layer: Layer) -> tuple[Any, ...]:
        values = eigenvalues_of(layer.comoment, layer.samples)
        padded = np.full(layer.width, np.nan)
        padded[: len(values)] = values
        needed = [components_needed(values, f) for f in fractions]
        alive = len(layer.alive)
        return padded, participation_ratio(values), effective_rank(values), needed, alive

    results = []
    for source in found:
        sizes = {COMPONENT: source.width, FRACTION: len(fractions)}
        one = per_epoch(kernel, source, (split,), OUTPUTS, sizes=sizes, cache=cache)
        results.append(
            one.assign_coords(
                {
                    COMPONENT: np.arange(1, source.width + 1),
                    FRACTION: (FRACTION, fractions, {"long_name": "fraction of the variance"}),
                }
            )
        )
    return describe(concat_runs(results, found), "spectrum", found, split=split, layer=layer)
