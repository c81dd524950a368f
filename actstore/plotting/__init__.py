"""Figures: computed results in, matplotlib Axes out.

Each function draws one panel on an Axes of yours or on a new one, and returns it.
:func:`figure` draws all panels of an answer, :func:`save` writes them to a file. No window is
opened and no setting of matplotlib is changed.
"""

from actstore.errors import MissingExtraError

try:
    from actstore.plotting.clones import clones
    from actstore.plotting.dynamics import dynamics
    from actstore.plotting.ensemble import bias_variance, ensemble
    from actstore.plotting.error import error, error_decay
    from actstore.plotting.figure import figure, save, save_paper
    from actstore.plotting.followed import followed
    from actstore.plotting.matrix import clone_matrix
    from actstore.plotting.moments import correlations, moments
    from actstore.plotting.noise import noise, noise_eigenvalues
    from actstore.plotting.paper import QUESTIONS as PAPER
    from actstore.plotting.paper import paper
    from actstore.plotting.parts import clone_errors
    from actstore.plotting.reconstruction import reconstruction
    from actstore.plotting.scaling import scaling
    from actstore.plotting.spectrum import spectrum
    from actstore.plotting.width_error import width_error
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingExtraError(
        "figures need matplotlib, which is not installed; pip install 'actstore[plot]'"
    ) from missing

__all__ = [
    "PAPER",
    "bias_variance",
    "clone_errors",
    "clone_matrix",
    "clones",
    "correlations",
    "dynamics",
    "ensemble",
    "error",
    "error_decay",
    "figure",
    "followed",
    "moments",
    "noise",
    "noise_eigenvalues",
    "paper",
    "reconstruction",
    "save",
    "save_paper",
    "scaling",
    "spectrum",
    "width_error",
]
