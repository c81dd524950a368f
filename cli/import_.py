"""``actstore import STORE FILES…``: put activations from files of other programs into a store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .echo import echo
from .options import Numbers, Setting, flat
from .waiting import waiting

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

_NAMED = re.compile(r"([\w.+\-]+)(?:/([\w.+\-]+))?=(.+)")


@click.command("import", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.argument("files", nargs=-1, required=True, metavar="[SPLIT[/LAYER]=]FILE[::KEY]...")
@click.option("--layer", default="last_hidden", show_default=True, help="Layer of the files.")
@click.option("--split", default="test", show_default=True, help="Evaluation set of the files.")
@click.option("--width", type=int, help="Neurons of the run's layer.  [default: of the file]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the training.")
@click.option(
    "--epoch",
    type=Numbers(),
    multiple=True,
    required=True,
    help="Epochs of the files: one, or as many as files of a split or entries of a 3-d array.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Epochs that the run will have in all, if more are imported later.",
)
@click.option("--run", help="Name of the run.  [default: made of width, settings and seed]")
@click.option("--set", "settings", type=Setting(), multiple=True, help="A hyper-parameter.")
@click.option("--model", default="", help="What was trained, in words.")
@click.option("--dataset", default="", help="On what, in words.")
@click.option(
    "--labels", multiple=True, metavar="[SPLIT=]FILE[::KEY]", help="Class of each sample."
)
@click.option(
    "--readout-weight",
    multiple=True,
    metavar="FILE[::KEY]",
    help="(output, neuron), as torch.nn.Linear has it.",
)
@click.option(
    "--readout-bias", multiple=True, metavar="FILE[::KEY]", help="(output,).  [default: 0]"
)
@click.option("--key", help="Array to take from FILES of several that do not say ::KEY.")
@click.option("--overwrite", is_flag=True, help="Replace a run of the same name.")
def command(
    store: str,
    files: tuple[str, ...],
    layer: str,
    split: str,
    width: int | None,
    seed: int,
    epoch: tuple[list[int], ...],
    epochs: int | None,
    run: str | None,
    settings: tuple[tuple[str, Any], ...],
    model: str,
    dataset: str,
    labels: tuple[str, ...],
    readout_weight: tuple[str, ...],
    readout_bias: tuple[str, ...],
    key: str | None,
    overwrite: bool,
) -> None:
    """Put activations of FILES into STORE as a run: one command for the files of one network.

    FILES are .npy, .npz, .pt, .pth, .safetensors, .h5, .hdf5, .nc or .zarr with arrays
    (sample, neuron), or (epoch, sample, neuron). Pickled objects are never loaded; a .npy file
    may be larger than the memory. Files at URLs are copied to the disk for temporary files first.

    \b
    actstore import runs.zarr x.pt --labels y.pt --readout-weight w.pt --epoch 200
    actstore import runs.zarr train=x0.npy test=x1.npy --epoch 9 --set lr=0.1
    """
    from actstore.errors import InvalidParameterError
    from actstore.storage.array_file import read_array
    from actstore.storage.importing import import_run

    numbers = flat(epoch) or []
    if readout_bias and not readout_weight:
        raise click.UsageError("--readout-bias was given without --readout-weight")
    places: dict[str, dict[str, list[str]]] = {}
    for text in files:
        one_split, one_layer, file = _parse(text, split, layer)
        places.setdefault(one_split, {}).setdefault(one_layer, []).append(file)
    activations = {
        s: {la: _epochs(several, 2, key, _ACTIVATIONS) for la, several in layers.items()}
        for s, layers in places.items()
    }
    classes: dict[str, Any] = {}
    for text in labels:
        one_split, _, file = _parse(text, next(iter(places)) if len(places) == 1 else split, "")
        if one_split in classes:
            raise InvalidParameterError(f"labels of split {one_split!r} were given twice")
        classes[one_split] = _one_dimensional(read_array(file, usual=_LABELS))
    readout = None
    if readout_weight:
        weights = _epochs(list(readout_weight), 2, None, _WEIGHTS)
        biases = (
            _epochs(list(readout_bias), 1, None, _BIASES)
            if readout_bias
            else [weight[..., 0] * 0 for weight in weights]
        )
        readout = (weights, biases)
    if readout is not None and len(readout[0]) == 1 != len(numbers):
        raise click.UsageError(f"give a readout for each of the {len(numbers)} epochs")
    origin = {
        f"{s}/{la}": [_name(file) for file in several]
        for s, layers in places.items()
        for la, several in layers.items()
    }
    with waiting("importing") as told:
        name = import_run(
            store,
            activations,
            epochs=numbers,
            labels=classes,
            readout=readout,
            width=width,
            seed=seed,
            run=run,
            slots=epochs,
            overwrite=overwrite,
            progress=told,
            model=model,
            dataset=dataset,
            hyper_parameters=dict(settings),
            provenance={"files": origin},
        )
    shapes = ", ".join(
        f"{s}/{la} {' x '.join(map(str, x[0].shape))}"
        for s, layers in activations.items()
        for la, x in layers.items()
    )
    echo(f"{store}: run {name}, epochs {', '.join(map(str, numbers))}: {shapes}", err=True)
    for s in sorted(set(activations) - set(classes)):
        echo(f"split {s} has no labels: its errors cannot be asked for", err=True)


#: names to look for in a file of several arrays
_ACTIVATIONS = ("activations", "features")
_LABELS = ("label", "labels", "targets")
_WEIGHTS = ("weight", "weights", "fc.weight")
_BIASES = ("bias", "fc.bias")


def _parse(text: str, split: str, layer: str) -> tuple[str, str, str]:
    """Return split, layer and file of ``SPLIT/LAYER=FILE``, ``SPLIT=FILE`` or ``FILE``."""
    named = _NAMED.fullmatch(text)
    if named is None or Path(text.partition("::")[0]).exists():  # a file may be called a=b.npy
        return split, layer, text
    return named[1], named[2] or layer, named[3]


def _name(file: str) -> str:
    """Return a file's name without its folder, with the name of the array in it.

    Examples
    --------
    >>> _name("/data/x.npz::features"), _name("https://host/x.npy?token=secret")
    ('x.npz::features', 'x.npy')
    """
    path, colons, key = file.partition("::")
    if "://" in path:  # what follows the question mark may be a key to the whole folder
        path = path.partition("?")[0]
    return f"{Path(path).name}{colons}{key}"


def _epochs(files: list[str], ndim: int, key: str | None, usual: tuple[str, ...]) -> list[Any]:
    """Return an array an epoch, of several files or of one with an axis more."""
    from actstore.storage.array_file import read_array

    arrays: list[Any] = []
    for file in files:
        array = read_array(file, key=key, usual=usual)
        arrays += list(array) if array.ndim == ndim + 1 else [array]
    return arrays


def _one_dimensional(labels: Array) -> Array:
    """Return labels that were saved as a column as what they are."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
