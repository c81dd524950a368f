"""``actstore export STORE -o FILE``: write activations for other programs."""

from __future__ import annotations

from typing import Any

import click

from .echo import echo
from .options import chosen_by, epochs, selection_options
from .waiting import waiting


@click.command("export", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="File or URL that ends in .zarr, .nc, .npy or .parquet; .npy takes one run, .parquet one "
    "epoch of one.",
)
@selection_options("-1")
@click.option("--split", default="test", show_default=True, help="Evaluation set.")
@click.option("--layer", default="last_hidden", show_default=True, help="Recorded layer.")
@click.option(
    "--variable",
    type=click.Choice(["activations", "label", "sample", "weight", "bias"]),
    default="activations",
    show_default=True,
    help="What a .npy file holds.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def command(
    store: str,
    output: str,
    width: Any,
    seed: Any,
    where: Any,
    run: tuple[str, ...],
    epoch: str,
    split: str,
    layer: str,
    variable: str,
    overwrite: bool,
) -> None:
    """Write a layer of the selected runs and epochs for other programs.

    \b
    actstore export digits.zarr -o wide.nc --width 256 --epoch all
    actstore export own.zarr -o layer.parquet --split train
    actstore export own.zarr -o labels.npy --variable label
    actstore export own.zarr -o s3://bucket/layer.zarr
    """
    import actstore
    from actstore.storage.exporting import export

    chosen = actstore.open(store).sel(
        run=list(run) or None, epoch=epochs(epoch), **chosen_by(width, seed, where)
    )
    with waiting("writing") as told:
        export(
            chosen, output, split=split, layer=layer, variable=variable, overwrite=overwrite,
            progress=told,
        )  # fmt: skip
    echo(f"saved {output}", err=True)
