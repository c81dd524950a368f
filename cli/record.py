"""``actstore record``: train a sweep and record it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .echo import echo
from .options import parse_value
from .sections import Sweep

if TYPE_CHECKING:
    from actstore.training import RunPlan

RECIPES = (  # named here so that --help need not import torch
    "digits",
    "fashion-mnist",
    "cifar10-wrn28",
    "cifar10-wrn16",
    "cifar100-wrn28",
    "cifar10-densenet40",
    "pmnist-fc",
    "imagenet-resnet50",
)


def _numbers(ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> list[int]:
    """Read ``8,16,32`` and repeated options alike."""
    try:
        return [int(number) for text in given for number in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{', '.join(given)} is not a list of whole numbers; write 8,16,32"
        ) from None


def _values(
    ctx: click.Context, option: click.Parameter, given: Sequence[str]
) -> dict[str, list[Any]]:
    """Collect ``key=value``; a key that is repeated has several values to try."""
    values: dict[str, list[Any]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
        values.setdefault(key.strip(), []).append(parse_value(value.strip()))
    return {key: list(dict.fromkeys(tried)) for key, tried in values.items()}


@click.command(
    "record",
    cls=Sweep,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("store", type=click.Path())
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    metavar="NAME",
    help=f"A built-in model, data and settings: {', '.join(RECIPES)}.",
)
@click.option(
    "--model", metavar="MOD:FUNC", help="A function of your own, from the width to an nn.Module."
)
@click.option("--data", metavar="MOD:FUNC", help="A function of your own that gives (train, test).")
@click.option(
    "--width",
    "widths",
    multiple=True,
    callback=_numbers,
    metavar="W,…",
    help="Widths to train; repeatable.  [default: the recipe's]",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    callback=_numbers,
    default=["0"],
    metavar="N,…",
    help="Seeds to train each width with; repeatable.  [default: 0]",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    callback=_values,
    metavar="KEY=VALUE",
    help="A setting of the training, the model or the data; --explain lists them. Repeatable: a "
    "key given twice is trained with both values.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Epochs to train.  [default: the recipe's, or 100]"
)
@click.option(
    "--schedule",
    metavar="RULE",
    help="Epochs to record: every:N, geometric (1, 2, 4, …), paper (1, 2, 5, 10, 20, … 200), "
    "0,1,5, zero_train_error, joined by commas; the last always is.  "
    "[default: the recipe's, or paper]",
)
@click.option(
    "--until",
    metavar="zero-error[:K]",
    help="End a training K epochs after its first epoch without train errors.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Folder of the data sets, in torchvision's layout.  [default: data]",
)
@click.option("--download", is_flag=True, help="Download a data set that is missing.")
@click.option("--resume", is_flag=True, help="Skip complete runs and continue interrupted ones.")
@click.option("--overwrite", is_flag=True, help="Train anew what the store already holds.")
@click.option(
    "--keep",
    type=click.Choice(["activations", "moments"]),
    default="activations",
    show_default=True,
    help="What to store of a layer. Moments take 2 W / N of the space, and answer what needs no "
    "samples.",
)
@click.option(
    "--moments",
    is_flag=True,
    help="Store moments beside the activations, so that the first query reads none.",
)
@click.option(
    "--keep-bits",
    type=click.IntRange(1, 23),
    metavar="N",
    help="Round activations to N bits of mantissa: 10, as in float16, take half the space.",
)
@click.option("--durable", is_flag=True, help="Let every epoch outlive a power failure (fsync).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs to train at the same time, on all GPUs in turn or a share of the cores.",
)
@click.option(
    "--amp", is_flag=True, help="Train in half precision; what is recorded stays in single."
)
@click.option("--compile", "compiled", is_flag=True, help="Train through torch.compile.")
@click.option(
    "--explain", is_flag=True, help="Say what would be trained and recorded, and stop there."
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Progress as bars or lines, or as one JSON object a line.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    store: str,
    recipe: str | None,
    model: str | None,
    data: str | None,
    widths: list[int],
    seeds: list[int],
    values: dict[str, list[Any]],
    epochs: int | None,
    schedule: str | None,
    until: str | None,
    data_dir: str | None,
    download: bool,
    resume: bool,
    overwrite: bool,
    keep: str,
    moments: bool,
    keep_bits: int | None,
    durable: bool,
    device: str,
    jobs: int,
    amp: bool,
    compiled: bool,
    explain: bool,
    log_format: str,
    quiet: bool,
) -> None:
    """Train a sweep of widths, seeds and settings, and record it into STORE.

    Every width is trained with every seed and every choice of the values set.

    \b
    actstore record digits.zarr --recipe digits
    actstore record d.zarr --recipe digits --width 64,128 --set weight_decay=0
    actstore record f.zarr --recipe fashion-mnist --jobs 2 --until zero-error:20
    actstore record m.zarr --model nets:mlp --data sets:load --width 64 --seed 0,1
    actstore record m.zarr --model nets:mlp --data sets:load --schedule 0,every:10
    """
    if (recipe is None) == (model is None and data is None) or (model is None) != (data is None):
        raise click.UsageError("give either --recipe, or both --model and --data")
    if resume and overwrite:
        raise click.UsageError("give either --resume or --overwrite")
    from actstore.training import RECIPES as BUILT_IN
    from actstore.training import plan_sweep
    from actstore.training.own import own_recipe

    if recipe is not None:
        chosen = BUILT_IN[recipe]
    else:
        assert model is not None
        assert data is not None
        chosen = own_recipe(model, data)
    plans = plan_sweep(
        chosen, widths=widths, seeds=seeds, values=values, epochs=epochs, schedule=schedule,
        amp=amp, until=until, keep=keep, moments=moments, keep_bits=keep_bits,
    )  # fmt: skip
    if explain:
        from .record_explain import explained

        echo(explained(plans, data_dir=data_dir))
        return
    try:
        record_plans(
            store, plans, resume=resume, overwrite=overwrite, durable=durable, device=device,
            jobs=jobs, compiled=compiled, data_dir=data_dir, download=download,
            log_format=log_format, quiet=quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        said = interrupted(store, plans)
        as_json = json.dumps({"event": "interrupted", "message": said})
        echo(as_json if log_format == "json" else f"\n{said}", err=True)
        raise SystemExit(130) from None


def record_plans(
    store: str,
    plans: Sequence[RunPlan],
    *,
    resume: bool = False,
    overwrite: bool = False,
    durable: bool = False,
    device: str = "auto",
    jobs: int = 1,
    compiled: bool = False,
    data_dir: str | None = None,
    download: bool = False,
    log_format: str = "text",
    quiet: bool = False,
) -> None:
    """Train and record ``plans`` with progress on stderr; ``actstore demo`` does it too."""
    from actstore.training import record_sweep

    from .record_progress import shown

    with shown(store, quiet=quiet, log_format=log_format) as progress:
        record_sweep(
            store,
            plans,
            resume=resume,
            overwrite=overwrite,
            durable=durable,
            device=device,
            jobs=jobs,
            compiled=compiled,
            data_dir=data_dir,
            download=download,
            count_clones=getattr(progress, "counts_clones", False),
            command=command_line(sys.argv),
            progress=progress,
        )


def interrupted(store: str, plans: Sequence[RunPlan]) -> str:
    """Say what an interrupted sweep has stored, and how to go on."""
    from actstore.errors import StoreNotFoundError
    from actstore.storage.catalogue import Catalogue

    try:
        catalogue = Catalogue(store)
    except StoreNotFoundError:
        return f"interrupted: nothing is stored in {store!r} yet"
    runs = [catalogue[plan.name] for plan in plans if plan.name in catalogue]
    done = sum(run.complete for run in runs)
    begun = [run for run in runs if not run.complete]
    epochs = [f"epoch {run.committed[-1]} of {run.name!r}" for run in begun if len(run.committed)]
    last = f" and up to {', '.join(epochs)}" if epochs else ""
    return (
        f"interrupted: {store!r} holds {done} of {len(plans)} runs complete{last}; "
        "the same command with --resume goes on"
    )


def command_line(argv: Sequence[str]) -> str:
    """Return a command line for the provenance: absolute paths and URLs lose their folders.

    Examples
    --------
    >>> command_line(["/home/ada/.venv/bin/actstore", "record", "/data/ada/runs.zarr"])
    'actstore record runs.zarr'
    >>> command_line(["actstore", "record", "sftp://ada:secret=@host/runs.zarr?token=1"])
    'actstore record runs.zarr'
    """
    words = []
    for word in argv:
        before, scheme, rest = word.partition("://")  # what follows it may hold an = of its own
        option, equals, value = before.rpartition("=")
        if scheme:
            value = os.path.basename(rest.partition("?")[0].rstrip("/"))
        elif os.path.isabs(value):
            value = os.path.basename(value.rstrip("/\\"))
        words.append(f"{option}{equals}{value}")
    return shlex.join(words)
