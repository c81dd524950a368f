"""A store as one page of HTML that needs nothing else: verdicts, figures, tables, provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from actstore import schema
from actstore._version import __version__
from actstore.errors import (
    ActstoreError,
    InvalidParameterError,
    MissingExtraError,
    without_passwords,
)
from actstore.queries.parameters import check_criterion, check_positive, check_thresholds
from actstore.report.answers import Progress, ask
from actstore.report.claims import CLAIMS, verdicts
from actstore.report.tables import provenance, tables
from actstore.storage.catalogue import distinct
from actstore.store import Store

MARKS = {"holds": "✓", "does not hold": "✗", "cannot be told": "?"}


def html(
    store: Store,
    *,
    threshold: float = 0.95,
    criterion: Literal["heldout", "paper"] = "heldout",
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    subsets: int = 40,
    rng_seed: int = 0,
    progress: Progress | None = None,
) -> str:
    """Return a report on a store as one HTML page, without references to anything outside it.

    For each setting of the hyper-parameters it judges each claim of the paper: "holds", "does not
    hold" or "cannot be told", with the numbers and thresholds, and what is missing. Below are the
    figures, the tables, the parameters and the provenance.

    Parameters
    ----------
    store : Store
        A store or a selection of it.
    threshold : float
        R² in (0, 1] that makes a subset a clone.
    criterion : "heldout" or "paper"
        R² of the neurons outside the subset, or of all neurons.
    split, layer : str
        Which activations.
    subsets : int
        Random subsets a size (the paper: 40).
    rng_seed : int
        Seed of the subsets.
    progress : callable, optional
        Is told ``(question, done, of)`` before each question is asked.

    Returns
    -------
    str
        Names and attributes of runs are escaped.

    Raises
    ------
    InvalidParameterError
        If the threshold is outside (0, 1] or the criterion is unknown.
    InvalidDataError
        If no run holds the split and the layer at any epoch.
    MissingExtraError
        If jinja2 or matplotlib is not installed.

    References
    ----------
    arXiv 2106.03485: the claims are those of its abstract.
    """
    try:
        import jinja2
        import markupsafe
    except ImportError as error:
        raise MissingExtraError(
            "a report needs jinja2, which is not installed; pip install 'actstore[plot]'"
        ) from error
    import actstore.plotting  # noqa: F401 - says what to install, before anything is computed
    from actstore.report.figures import draw

    check_thresholds(threshold)
    check_criterion(criterion)
    check_positive(subsets=subsets)
    answers = ask(
        store, threshold=float(threshold), criterion=criterion, split=split, layer=layer,
        subsets=subsets, rng_seed=rng_seed, progress=progress,
    )  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context: dict[str, Any] = {
        "name": Path(store.path).name or without_passwords(store.path),
        "summary": _summary(store),
        "claims": list(CLAIMS),
        "marks": MARKS,
        "settings": [
            {"name": setting.name, "verdicts": verdicts(answers, place)}
            for place, setting in enumerate(answers.settings)
        ],
        # drawn by us: the one thing that is not escaped
        "figures": [f._replace(svg=markupsafe.Markup(f.svg)) for f in draw(answers)],
        "tables": tables(answers, store),
        "parameters": _parameters(answers.parameters),
        "provenance": provenance(store),
        "failed": answers.failed,
        "left_out": answers.left_out,
        "version": __version__,
    }
    return environment.get_template("page.html.j2").render(context)


def save(store: Store, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a report into a file, which appears whole or not at all; see :func:`html`.

    Raises
    ------
    InvalidParameterError
        If the name does not end in ``.html``, or there is no such folder.
    ActstoreError
        If the file cannot be written.
    """
    where = checked(path)
    page = html(store, **options)
    aside = where.with_name(f"{where.name}.{os.getpid()}.partial")
    try:
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, where)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ActstoreError(
            f"{str(path)!r} cannot be written ({error.strerror or error}); give another place"
        ) from error


def checked(path: str | os.PathLike[str]) -> Path:
    """Return the path if a report can be written there."""
    where = Path(path)
    if where.suffix.lower() not in (".html", ".htm"):
        raise InvalidParameterError(
            f"a report {os.fspath(path)!r} was asked for; give a name that ends in .html"
        )
    if "://" in os.fspath(path):
        raise InvalidParameterError(
            f"a report {os.fspath(path)!r} is at a URL; give a file of this machine, and copy it"
        )
    if not where.parent.is_dir():
        raise InvalidParameterError(
            f"there is no folder {str(where.parent)!r} for the report; make it, or give another"
        )
    if where.is_dir() or not os.access(where.parent, os.W_OK):
        found = "is a folder" if where.is_dir() else "is in a folder where nothing may be written"
        raise InvalidParameterError(f"{str(path)!r} {found}; give another name for the report")
    return where


def _summary(store: Store) -> list[tuple[str, str]]:
    runs = list(store.values())
    widths = ", ".join(map(str, sorted({run.width for run in runs})))
    seeds = sorted({run.seed for run in runs})
    epochs = sorted({len(run.epochs) for run in runs})
    splits = sorted({(split, run.labels(split).size) for run in runs for split in run.splits})
    layers = sorted({name for run in runs for split in run.splits for name in run.layers(split)})
    keys = sorted({key for run in runs for key in run.hyper_parameters})
    return [
        ("runs", f"{len(runs)}, {sum(run.complete for run in runs)} complete"),
        ("widths", widths),
        ("seeds", ", ".join(map(str, seeds))),
        *((key, ", ".join(map(str, distinct(run.hyper_parameters.get(key) for run in runs))))
          for key in keys),
        ("epochs of a run", "…".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))),
        ("samples", ", ".join(f"{split} {samples}" for split, samples in splits)),
        ("layers", ", ".join(layers)),
        ("store", f"{without_passwords(store.path)}, "
                  f"created {schema.readable(str(store.attrs.get('created', '')))}, "
                  f"format {store.attrs.get('actstore_format', '')}"),
    ]  # fmt: skip


def _parameters(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    criterion = {
        "heldout": "heldout: R² of the neurons outside the subset",
        "paper": "paper: R² of all neurons",
    }
    return [(key.replace("_", " "), str(criterion.get(str(value), value)))
            for key, value in parameters.items()]  # fmt: skip
