"""One epoch as it is handed to the writer, checked before a byte of it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.moments import Moments

Array: TypeAlias = npt.NDArray[Any]

LEAST_SAMPLES = 3  # a variance and a correlation need that many


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Activations, labels, readout and metrics of one epoch.

    Attributes
    ----------
    activations : dict of split to dict of layer to array
        Each ``(sample, neuron)`` float32; without samples where others write them or only
        their moments are kept.
    labels, samples : dict of split to array
        Each ``(sample,)``.
    readout : (weight, bias) or None
        ``(output, neuron)`` and ``(output,)`` float64.
    metrics : dict of str to float
    moments : dict of split to dict of layer to Moments
    """

    activations: dict[str, dict[str, Array]]
    labels: dict[str, Array]
    samples: dict[str, Array]
    readout: tuple[Array, Array] | None
    metrics: dict[str, float]
    moments: dict[str, dict[str, Moments]] = dataclasses.field(default_factory=dict)

    @classmethod
    def checked(
        cls,
        activations: Mapping[str, Mapping[str, npt.ArrayLike]],
        labels: Mapping[str, npt.ArrayLike],
        samples: Mapping[str, npt.ArrayLike] | None,
        readout: tuple[npt.ArrayLike, npt.ArrayLike] | None,
        metrics: Mapping[str, float] | None,
        moments: Mapping[str, Mapping[str, Moments]] | None = None,
    ) -> Self:
        """Return the epoch as it will be stored.

        Where the samples of a layer are not here, its number of neurons stands for them.

        Raises
        ------
        InvalidDataError
            If it is empty, not finite, or its parts do not fit each other.
        """
        if not activations or not all(activations.values()):
            raise InvalidDataError("no activations were given; record at least one split")
        if set(labels) != set(activations):
            raise InvalidDataError(
                f"labels of {sorted(labels)} were given for activations of {sorted(activations)}; "
                "give both of every split"
            )
        checked = {
            schema.check_name("split", split): {
                schema.check_name("layer", layer): np.empty((0, x), "float32")
                if isinstance(x, int)
                else _activations(x, split, layer)
                for layer, x in layers.items()
            }
            for split, layers in activations.items()
        }
        for what, names, taken in (
            ("split", set(checked), {schema.READOUT, schema.EPOCH, *(metrics or {})}),
            ("layer", set().union(*checked.values()), {schema.LABEL, schema.SAMPLE}),
        ):
            if names & taken:
                raise InvalidParameterError(
                    f"a {what} cannot be called {sorted(names & taken)[0]!r}, which is the name "
                    "of a metric or of a part of the store; give another name"
                )
        counts = {
            split: {x.shape[0] for layer, x in layers.items() if len(x)}
            | {m.count for m in (moments or {}).get(split, {}).values()}
            for split, layers in checked.items()
        }
        kept_labels, kept_samples = {}, {}
        for split, found in counts.items():
            label = _labels(labels[split], split)
            index = np.asarray((samples or {}).get(split, np.arange(len(label))), "int64")
            if not found <= {len(label)} or index.shape != label.shape:
                raise InvalidDataError(
                    f"split {split!r} has {sorted(found)} rows of activations, {len(label)} labels "
                    f"and {index.size} sample indices; give one of each a sample"
                )
            kept_labels[split], kept_samples[split] = label, index
        found_readout = _readout(readout)
        if found_readout is not None:
            _check_readout(found_readout[0].shape[1], checked)
        kept_moments = {split: dict(layers) for split, layers in (moments or {}).items()}
        _check_moments(kept_moments, checked)
        kept_metrics = _metrics(metrics or {})
        return cls(checked, kept_labels, kept_samples, found_readout, kept_metrics, kept_moments)

    def check_same(self, first: Snapshot, run: str, epoch: int) -> None:
        """Raise unless splits, layers, widths, samples and labels are those of ``first``."""
        remedy = "evaluate the same samples in the same order every epoch (shuffle=False)"
        for what, mine, theirs in (
            ("splits", sorted(self.activations), sorted(first.activations)),
            *(
                (f"layers of split {s!r}", sorted(self.activations[s]), sorted(layers))
                for s, layers in first.activations.items()
                if s in self.activations
            ),
        ):
            if mine != theirs:
                raise InvalidDataError(
                    f"epoch {epoch} of run {run!r} has the {what} {mine}, the epochs before it "
                    f"have {theirs}; record the same at every epoch"
                )
        for split, layers in first.activations.items():
            if len(self.labels[split]) != len(first.labels[split]):
                raise InvalidDataError(
                    f"epoch {epoch} of run {run!r} has {len(self.labels[split])} samples in split "
                    f"{split!r}, the epochs before it have {len(first.labels[split])}; {remedy}"
                )
            for what, now, then in (
                ("labels", self.labels[split], first.labels[split]),
                ("sample indices", self.samples[split], first.samples[split]),
            ):
                if not np.array_equal(now, then):
                    place = int(np.flatnonzero(now != then)[0])
                    raise InvalidDataError(
                        f"the {what} of split {split!r} changed at epoch {epoch} of run {run!r} "
                        f"(sample {place}: {then[place]} before, {now[place]} now); {remedy}"
                    )
            for layer, x in layers.items():
                width = self.activations[split][layer].shape[1]
                if width != x.shape[1]:
                    raise InvalidDataError(
                        f"layer {layer!r} has {width} neurons at epoch {epoch} of run {run!r} and "
                        f"{x.shape[1]} before; a run has one width"
                    )
        now_read, then_read = _readout_shape(self.readout), _readout_shape(first.readout)
        if now_read != then_read:
            raise InvalidDataError(
                f"epoch {epoch} of run {run!r} has {now_read}, the epochs before it have "
                f"{then_read}; record the same readout at every epoch"
            )

    def contents(self) -> dict[str, Any]:
        """Return what the run holds, as attributes: what is lost later is found by them."""
        splits = {
            split: {
                "samples": len(self.labels[split]),
                "layers": {layer: int(x.shape[1]) for layer, x in layers.items()},
            }
            for split, layers in self.activations.items()
        }
        outputs = 0 if self.readout is None else int(self.readout[0].shape[0])
        return {"splits": splits, "outputs": outputs}

    def without_data(self) -> Snapshot:
        """Return the same with empty activations: all that later epochs are compared with."""
        empty = {
            split: {layer: np.empty((0, x.shape[1]), "float32") for layer, x in layers.items()}
            for split, layers in self.activations.items()
        }
        return dataclasses.replace(self, activations=empty, metrics={}, moments={})


def check_finite(x: Array, what: str) -> None:
    """Raise InvalidDataError if ``x`` holds NaN or infinity, saying how many and where first."""
    # The sum of finite numbers is finite (or overflows, and then the slow look decides): one
    # pass without a temporary; in float64, a sum of float32 takes three times as long.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):
            return
    bad = ~np.isfinite(x)
    if bad.any():
        place = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
        raise InvalidDataError(
            f"{what} has {int(bad.sum())} values that are NaN or infinite (the first at {place}); "
            "nothing was stored: did the training diverge?"
        )


def _activations(x: npt.ArrayLike, split: str, layer: str) -> Array:
    array = np.asarray(x)
    what = f"layer {layer!r} of split {split!r}"
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InvalidDataError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; "
            "expected numbers of shape (sample, neuron)"
        )
    if array.shape[0] < LEAST_SAMPLES or array.shape[1] < 1:
        raise InvalidDataError(
            f"{what} has {array.shape[0]} samples of {array.shape[1]} neurons; "
            f"at least {LEAST_SAMPLES} samples and one neuron are needed"
        )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, and is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(array, what)
    return array


def _check_moments(
    moments: Mapping[str, Mapping[str, Moments]], activations: Mapping[str, Mapping[str, Array]]
) -> None:
    for split, layers in moments.items():
        for layer, m in layers.items():
            what = f"the moments of layer {layer!r} of split {split!r}"
            width = activations.get(split, {}).get(layer, np.empty((0, 0))).shape[1]
            if m.mean.shape != (width,) or m.comoment.shape != (width, width):
                raise InvalidDataError(
                    f"{what} have shapes {m.mean.shape} and {m.comoment.shape}, and the layer has "
                    f"{width} neurons; give those of the layer"
                )
            if m.count < LEAST_SAMPLES:
                raise InvalidDataError(f"{what} are of {m.count} samples; at least 3 are needed")
            check_finite(m.mean, what)
            check_finite(m.comoment, what)


def _labels(labels: npt.ArrayLike, split: str) -> Array:
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        raise InvalidDataError(
            f"the labels of split {split!r} have shape {array.shape} and dtype {array.dtype}; "
            "expected one number a sample"
        )
    array = array.astype("float64" if array.dtype.kind == "f" else "int64")
    check_finite(array, f"the labels of split {split!r}")
    return array


def _readout(readout: tuple[npt.ArrayLike, npt.ArrayLike] | None) -> tuple[Array, Array] | None:
    if readout is None:
        return None
    weight, bias = (np.asarray(part, "float64") for part in readout)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise InvalidDataError(
            f"the readout has weight {weight.shape} and bias {bias.shape}; "
            "expected (output, neuron) and (output,)"
        )
    check_finite(weight, "the readout weight")
    check_finite(bias, "the readout bias")
    return weight, bias


def _check_readout(neurons: int, activations: Mapping[str, Mapping[str, Array]]) -> None:
    for split, layers in activations.items():
        width = {layer: x.shape[1] for layer, x in layers.items()}.get(
            schema.DEFAULT_LAYER, neurons
        )
        if width != neurons:
            raise InvalidDataError(
                f"the readout reads {neurons} neurons, and layer {schema.DEFAULT_LAYER!r} of split "
                f"{split!r} has {width}; record the readout's own input"
            )


def _readout_shape(readout: tuple[Array, Array] | None) -> str:
    return "no readout" if readout is None else f"a readout of shape {readout[0].shape}"


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    reserved = {schema.EPOCH, schema.READOUT}
    for name in metrics:
        if schema.check_name("metric", name) in reserved:
            raise InvalidParameterError(f"a metric cannot be called {name!r}; give another name")
    return {name: float(value) for name, value in metrics.items()}
