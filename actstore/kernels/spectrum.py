"""How many directions a layer uses: eigenvalues of its covariance and what they sum up to."""

import numpy as np
from numpy.typing import NDArray

from actstore.errors import InvalidDataError, InvalidParameterError


def spectrum(comoment: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the eigenvalues of the covariance C / (count − 1), the largest first.

    Parameters
    ----------
    comoment
        C, ``(neuron, neuron)``.
    count
        The number of samples.

    Returns
    -------
    ``(component,)``, as many as neurons; none is negative.

    Raises
    ------
    InvalidDataError
        If there are fewer than two samples.

    Examples
    --------
    >>> spectrum(np.diag([1.0, 4.0, 0.0]), 2).tolist()
    [4.0, 1.0, 0.0]
    """
    if count < 2:
        raise InvalidDataError(f"a covariance takes at least 2 samples, not {count}; record more")
    if not len(comoment):
        return np.empty(0)
    # Round-off puts the zero eigenvalues of a layer of lower rank on either side of 0.
    values = np.asarray(np.linalg.eigvalsh(comoment)[::-1], dtype=np.float64)
    return np.maximum(values, 0.0) / (count - 1)


def participation_ratio(eigenvalues: NDArray[np.float64]) -> float:
    """Return (Σ e)² / Σ e²: n where n equal eigenvalues carry all variance; NaN without variance.

    References
    ----------
    Gao et al. (2017), bioRxiv 214262.

    Examples
    --------
    >>> participation_ratio(np.array([2.0, 2.0, 0.0]))
    2.0
    """
    share = _shares(eigenvalues)
    return float(1 / np.square(share).sum()) if share.size else np.nan


def effective_rank(eigenvalues: NDArray[np.float64]) -> float:
    """Return exp(−Σ p log p) of the shares p of the variance; NaN without variance.

    References
    ----------
    Roy & Vetterli (2007), "The effective rank", EUSIPCO; here of the covariance's eigenvalues.

    Examples
    --------
    >>> round(effective_rank(np.array([2.0, 2.0, 0.0])), 6)
    2.0
    """
    share = _shares(eigenvalues)
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share)))) if share.size else np.nan


def components_needed(eigenvalues: NDArray[np.float64], fraction: float) -> int:
    """Return how many principal components carry a fraction of the variance; 0 without variance.

    Parameters
    ----------
    eigenvalues
        ``(component,)``, the largest first.
    fraction
        In (0, 1].

    Examples
    --------
    >>> components_needed(np.array([6.0, 3.0, 1.0]), 0.9)
    2
    """
    if not 0 < fraction <= 1:
        raise InvalidParameterError(f"the fraction of variance must be in (0, 1], not {fraction}")
    total = eigenvalues.sum()
    if not total > 0:
        return 0
    # What is left is summed from the small end, so that it reaches exactly 0 and not about 0; the
    # tolerance is for a fraction such as 0.9, of which 1 − 0.9 is not exactly 0.1.
    left = np.append(np.cumsum(eigenvalues[::-1])[::-1][1:], 0.0)
    return int(np.argmax(left <= (1 - fraction) * total * (1 + 1e-12))) + 1


def component_bound(eigenvalues: NDArray[np.float64], threshold: float) -> int:
    """Return the number of disjoint clones that no partition can exceed.

    A clone of w neurons explains no more of the layer than the first w principal components do,
    and its ``r2_heldout`` is no more than its ``r2``, whose own neurons count as explained. So by
    either criterion each clone has at least as many neurons as components are needed:
    n ≤ ⌊W / components_needed⌋.

    Parameters
    ----------
    eigenvalues
        ``(component,)``, the largest first, one for each of the W neurons that vary.
    threshold
        The R² that makes a subset a clone, in (0, 1].

    References
    ----------
    Eckart & Young (1936), Psychometrika 1, 211.

    Examples
    --------
    >>> component_bound(np.array([5.0, 5.0, 0.0, 0.0, 0.0]), 0.95)
    2
    """
    needed = components_needed(eigenvalues, threshold)
    return eigenvalues.size // needed if needed else 0


def _shares(eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of the variance, or nothing where there is none."""
    total = eigenvalues.sum()
    return eigenvalues / total if total > 0 else np.empty(0)
