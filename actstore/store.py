"""A store as a user holds it: its runs, and the questions that can be asked of them."""

from __future__ import annotations

import html

from actstore import queries
from actstore.errors import without_passwords
from actstore.queries.explain import explain
from actstore.storage.catalogue import Catalogue
from actstore.storage.location import StorePath


class Store(Catalogue):
    """The runs of a store by name, and the questions that can be asked of them.

    Made by :func:`actstore.open`. See :class:`actstore.storage.catalogue.Catalogue` for
    ``runs``, ``sel``, ``dataset`` and ``tree``. Each question is the function of
    :mod:`actstore.queries` with the store as its data.
    """

    clones = queries.clones
    dynamics = queries.dynamics
    ensemble = queries.ensemble
    error = queries.error
    explain = explain
    moments = queries.moments
    noise = queries.noise
    reconstruction = queries.reconstruction
    scaling = queries.scaling
    spectrum = queries.spectrum

    def _repr_html_(self) -> str:
        """Return the runs as a table for a notebook, and how far the sweep is."""
        complete = sum(run.complete for run in self.values())
        share = f'<progress value="{complete}" max="{max(len(self), 1)}"></progress>'
        count = f"{len(self)} {'run' if len(self) == 1 else 'runs'}"
        title = f"{html.escape(without_passwords(self.path))}: {count}, {complete} complete {share}"
        # pandas escapes names and settings
        return f"<p><b>actstore</b> {title}</p>{self.runs.to_html(max_rows=40, escape=True)}"


def open(path: StorePath) -> Store:
    """Open a store to ask questions of it.

    Parameters
    ----------
    path : str or path
        The folder that ``actstore record`` or :class:`actstore.Recorder` wrote, or its URL in a
        bucket, such as ``s3://bucket/runs.zarr``.

    Returns
    -------
    Store
        Lazy: the runs' attributes are read, no activations are.

    Raises
    ------
    StoreNotFoundError
        If nothing is there, or it is not an actstore store.
    StoreFormatError
        If it was written in a later format.
    StoreUnreachableError
        If the server of the bucket does not answer, or refuses the credentials.
    """
    return Store(path)
