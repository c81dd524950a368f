"""``actstore info STORE [RUN]``: what a store, or one run of it, holds."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from .echo import echo
from .waiting import waiting

if TYPE_CHECKING:
    from actstore.storage.files import Files
    from actstore.storage.run import Run
    from actstore.store import Store


@click.command("info", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.argument("run", required=False)
def command(store: str, run: str | None) -> None:
    """Say what a store, or one RUN of it, holds: layers, splits, epochs, bytes, provenance.

    \b
    actstore info digits.zarr
    actstore info digits.zarr width=256,weight_decay=0.005,seed=0
    """
    import actstore

    with waiting("looking"):
        opened = actstore.open(store)
        lines = _of_run(opened[run]) if run else _of_store(opened)
    room = min(max(len(key) for key, _ in lines), 38)  # a longer key stands alone in its line
    for key, value in lines:
        if not value:  # a model or a data set without a name
            continue
        told = textwrap.wrap(value, 78 - room, break_long_words=False, break_on_hyphens=False)
        first = f"{key:<{room}}  " if len(key) <= room else f"{key}\n{' ' * (room + 2)}"
        echo(first + f"\n{' ' * (room + 2)}".join(told))


def _of_store(store: Store) -> list[tuple[str, str]]:
    from actstore import schema
    from actstore.errors import without_passwords
    from actstore.storage.catalogue import distinct
    from actstore.storage.location import files_at

    runs = list(store.values())
    settings: dict[str, list[Any]] = {"widths": [], "seeds": []}
    for run in runs:
        for key, value in {"widths": run.width, "seeds": run.seed, **run.hyper_parameters}.items():
            settings.setdefault(key, []).append(value)

    return [
        ("store", without_passwords(store.path)),
        ("format", str(store.attrs["actstore_format"])),
        ("written by", f"actstore {store.attrs['actstore_version']}"),
        ("created", schema.readable(str(store.attrs["created"]))),
        ("runs", f"{len(store)}, {sum(run.complete for run in runs)} complete"),
        *((key, ", ".join(map(str, distinct(values)))) for key, values in settings.items()),
        ("on disk", size(_bytes(files_at(store.path, read_only=True), ""))),
    ]


def _of_run(run: Run) -> list[tuple[str, str]]:
    from actstore.storage.location import files_at

    files = files_at(run.path, read_only=True)
    lines = [
        ("run", run.name),
        *((key, str(value)) for key, value in run.coords().items()),
        ("model", str(run.attrs.get("model", ""))),
        ("dataset", str(run.attrs.get("dataset", ""))),
        ("complete", "yes" if run.complete else "no"),
        ("epochs", ", ".join(map(str, run.epochs)) or "none"),
    ]
    if run.keeps_samples:
        lines.append(("precision", _precision(run)))
    for split in run.splits:
        for layer in run.layers(split):
            samples, neurons = run.shape(split, layer)
            if not run.keeps_samples:
                kept = _bytes(files, f"{run.name}/{split}/{layer}")
                lines.append(
                    (f"{split}/{layer}", f"moments of {samples} samples x {neurons} neurons, "
                     f"{size(kept)} on disk")
                )  # fmt: skip
                continue
            kept = _bytes(files, f"{run.name}/{split}/{layer}/activations")
            whole = 4 * len(run.epochs) * samples * neurons
            ratio = (
                f", {whole / kept:.2f} x smaller than its {size(whole)}" if 0 < kept < whole else ""
            )
            lines.append(
                (f"{split}/{layer}", f"{samples} samples x {neurons} neurons, "
                 f"{size(kept)} on disk{ratio}")
            )  # fmt: skip
    lines += [("readout", "stored" if run.has_readout else "not stored")]
    for name, values in run.metrics().items():
        if len(run.epochs):
            lines.append((f"last {name}", f"{float(values[-1]):.5g}"))
    lines += [(key, str(value)) for key, value in run.attrs.get("provenance", {}).items()]
    return lines


def _precision(run: Run) -> str:
    """Say how many bits of the values are kept, and how much that changes the answers."""
    stored = run.attrs.get("precision")
    kept = run.attrs.get("keep_bits") if stored is None else stored["keep_bits"]
    if kept is None:
        return "float32"
    text = f"float32 rounded to {kept} of 23 bits of mantissa"
    if stored is not None:
        text += (
            f"; R² changes by {stored['r2_change']:.1g} at most, residual correlation by "
            f"{stored['residual_correlation_change']:.1g} (epoch {stored['measured_at_epoch']})"
        )
    return text


def _bytes(files: Files, folder: str) -> int:
    return sum(files.sizes(folder).values())


def size(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
