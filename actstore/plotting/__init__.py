"""Figures: computed results in, matplotlib Axes out.

Each function draws one panel on an Axes of yours or on a new one, and returns it.
:func:`figure` draws all panels of an answer, :func:`save` writes them to a file. No window is
opened and no setting of matplotlib is changed.
"""

from actstore.errors import MissingExtraError

try:
    from actstore.plotting.clones import clones
    from actstore.plotting.figure import figure, save
    from actstore.plotting.matrix import clone_matrix
    from actstore.plotting.noise import noise
    from actstore.plotting.reconstruction import reconstruction
    from actstore.plotting.scaling import scaling
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingExtraError(
        "figures need matplotlib, which is not installed; pip install 'actstore[plot]'"
    ) from error

__all__ = ["clone_matrix", "clones", "figure", "noise", "reconstruction", "save", "scaling"]
