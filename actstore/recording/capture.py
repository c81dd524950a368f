"""Read a layer while the model runs: find it, hook it, check what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from actstore import schema
from actstore.errors import CaptureError, InvalidParameterError

_SHOWN = 12  # names listed in an error: enough to recognise one's model, short enough to read

Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tap:
    """Where a layer is read: at the ``input`` or the ``output`` of a module."""

    path: str
    side: str
    module: nn.Module

    def __str__(self) -> str:
        return f"{self.path}:{self.side}"


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, ``DataParallel`` and their like."""
    return _wrapped(model)[-1]


def device_order(model: nn.Module) -> tuple[int, ...]:
    """Return the devices to which ``DataParallel`` gives the parts of a batch, first part first."""
    for module in _wrapped(model):
        if isinstance(module, nn.DataParallel):
            return tuple(module.device_ids)
    return ()


def _wrapped(model: nn.Module) -> list[nn.Module]:
    """Return the model and what is inside it, from the outside inwards."""
    found = [model]
    while True:
        inner = getattr(found[-1], "_orig_mod", None)
        if inner is None and isinstance(
            found[-1], nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = found[-1].module
        if not isinstance(inner, nn.Module):
            return found
        found.append(inner)


def find_readout(model: nn.Module, name: str | None = None) -> str:
    """Return the dotted name of the readout: ``name``, or the last ``nn.Linear``.

    Raises
    ------
    InvalidParameterError
        If there is no such module, it is not a linear map from neurons to outputs, or the last
        ``nn.Linear`` does not seem to be the head.
    """
    found = name
    if found is None:
        linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InvalidParameterError(
                f"{type(model).__name__} has no nn.Linear to take as its readout{_hint(model)}"
            )
        found = linear[-1]
    module = get_module(model, found)
    weight = getattr(module, "weight", None)
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise InvalidParameterError(
            f"the readout {found!r} is not initialised; run one batch through the model first"
        )
    if not isinstance(weight, Tensor) or weight.ndim != 2 or isinstance(module, nn.Embedding):
        raise InvalidParameterError(
            f"{found!r} is a {type(module).__name__}, and a readout has a weight "
            f"(output, neuron){_hint(model)}"
        )
    if name is None:
        _check_head(model, found)
    return found


def readout_arrays(readout: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight ``(output, neuron)`` and bias ``(output,)``, zero where there is none."""
    weight = readout.weight
    assert isinstance(weight, Tensor)  # find_readout has checked it
    weight = weight.detach()
    bias = getattr(readout, "bias", None)
    if not isinstance(bias, Tensor):
        bias = weight.new_zeros(weight.shape[0])
    return weight.float().cpu(), bias.detach().float().cpu()


def run_width(
    readout: nn.Module | None, given: int | None, *, name: str | None, layers: Iterable[str]
) -> int:
    """Return the neurons that the readout reads, or without one the width that was given.

    Raises
    ------
    InvalidParameterError
        If the two differ, or there is neither.
    """
    if readout is None:
        if given is None:
            raise InvalidParameterError(
                f"the layers {', '.join(layers)} do not tell the run's width; pass width="
            )
        return given
    weight = readout.weight
    assert isinstance(weight, Tensor)
    found = int(weight.shape[1])
    if given not in (None, found):
        raise InvalidParameterError(
            f"width {given} was given, and the readout {name!r} reads {found} neurons; give "
            f"width={found}, or name another readout with readout="
        )
    return found


def get_module(model: nn.Module, path: str) -> nn.Module:
    """Return a module by its dotted name.

    Raises
    ------
    InvalidParameterError
        If there is none; the message names those that exist.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if path == "" or path not in modules:
        raise InvalidParameterError(
            f"no module {path!r} in {type(model).__name__}; it has {names(model, near=path)}"
        )
    return modules[path]


def find_layers(
    model: nn.Module, readout: str | None, layers: Mapping[str, str] | None
) -> tuple[str | None, dict[str, Tap]]:
    """Return the readout to store, and where each layer is read; see :class:`Recorder`.

    A readout is stored where it reads a recorded layer: only then can errors of subsets be
    computed from the two.

    Raises
    ------
    InvalidParameterError
        If a module does not exist, or there is neither a readout nor a layer.
    """
    if layers is None or readout is not None:
        readout = find_readout(model, readout)
    else:
        with contextlib.suppress(InvalidParameterError):  # the layers say what is recorded
            readout = find_readout(model)
    wanted = layers or {schema.DEFAULT_LAYER: str(readout)}
    taps = find_taps(model, wanted, readout=readout)
    reads = str(taps.get(schema.DEFAULT_LAYER)) == f"{readout}:input"
    return readout if reads else None, taps


def find_taps(
    model: nn.Module, layers: Mapping[str, str], *, readout: str | None
) -> dict[str, Tap]:
    """Return the tap of each layer.

    A layer is given as ``"path:input"``, ``"path:output"``, or ``"path"``: the readout
    is then read at its input, any other module at its output.
    """
    taps = {}
    for layer, text in layers.items():
        path, _, side = text.partition(":")
        if side not in ("", "input", "output"):
            raise InvalidParameterError(
                f"the layer {layer!r} is read at {text!r}; expected 'MODULE', 'MODULE:input' "
                "or 'MODULE:output'"
            )
        side = side or ("input" if path == readout else "output")
        taps[layer] = Tap(path, side, get_module(model, path))
    return taps


def names(model: nn.Module, *, near: str = "") -> str:
    """List the model's modules for an error: close matches and linear ones first."""
    modules = {path: module for path, module in model.named_modules() if path}
    close = difflib.get_close_matches(near, modules, n=3)
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    ordered = list(dict.fromkeys([*close, *linear[::-1], *modules]))
    shown = ", ".join(f"{path} ({type(modules[path]).__name__})" for path in ordered[:_SHOWN])
    rest = len(ordered) - _SHOWN
    return (shown or "no modules") + (f" and {rest} more" if rest > 0 else "")


def _check_head(model: nn.Module, last: str) -> None:
    """Raise if something else than the last ``nn.Linear`` looks like the head."""
    modules = dict(model.named_modules())
    paths = list(modules)
    for path in paths[paths.index(last) + 1 :]:
        if _is_pointwise(modules[path]):
            raise InvalidParameterError(
                f"the last nn.Linear {last!r} comes before the 1×1 convolution {path!r}, which may "
                f"be the head; name the readout with readout={last!r}, or record the convolution's "
                f"pooled input without one, layers={{'last_hidden': '{path}:input'}}"
            )
    weight = modules[last].weight
    for path, module in modules.items():
        tied = isinstance(module, nn.Embedding) and module.weight is not weight
        if tied and weight.shape[:1] == module.weight.shape[1:]:
            raise InvalidParameterError(
                f"the last nn.Linear {last!r} gives as many outputs as the embedding {path!r} has "
                "dimensions, so the head seems to be tied to it; record that layer without a "
                f"readout, layers={{'last_hidden': '{last}:output'}}, or name it with "
                f"readout={last!r}"
            )


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and set(module.kernel_size) == {1}


def _hint(model: nn.Module) -> str:
    """Say what looks like a head although it cannot be the readout."""
    for path, module in reversed(list(model.named_modules())):
        if _is_pointwise(module):
            return (
                f"; {path!r} is a 1×1 convolution: record its pooled input without a readout, "
                f"layers={{'last_hidden': '{path}:input'}}"
            )
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            return (
                f"; its head may be tied to the embedding {path!r}, which is not a module of its "
                "own: record the output of the layer before it with layers={'last_hidden': "
                "'MODULE:output'}"
            )
    return f"; name it with readout=, it has {names(model)}"


def spatial_mean(activations: Tensor) -> Tensor:
    """Average feature maps ``(sample, neuron, …)`` over their positions."""
    # In single precision, also of halves: a mean has more digits than what it is taken of.
    return activations.flatten(2).mean(2, dtype=torch.float32)


class Capture:
    """Keeps what passes the taps, batch by batch, while it is entered.

    The hooks exist only between ``__enter__`` and ``__exit__``, so that a model that is
    not being recorded is exactly the model it was.

    Parameters
    ----------
    taps
        Layer name → tap.
    pool
        Turns an activation that is not ``(sample, neuron)`` into one that is; feature maps
        are averaged over their positions when it is not given.
    devices
        See :func:`device_order`.
    """

    def __init__(
        self, taps: Mapping[str, Tap], *, pool: Pool | None = None, devices: Sequence[int] = ()
    ) -> None:
        self.taps = dict(taps)
        self._pool = pool
        self._devices = devices
        self._seen: dict[str, list[Tensor]] = {layer: [] for layer in taps}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for layer, tap in self.taps.items():
            seen = self._seen[layer]

            def before(_: nn.Module, args: Any, kwargs: Any, seen: list[Tensor] = seen) -> None:
                self._keep(seen, (*args, *kwargs.values()))

            def after(_: nn.Module, __: Any, output: Any, seen: list[Tensor] = seen) -> None:
                self._keep(seen, (output,))

            if tap.side == "input":
                handle = tap.module.register_forward_pre_hook(before, with_kwargs=True)
            else:
                handle = tap.module.register_forward_hook(after)
            self._handles.append(handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        for seen in self._seen.values():
            seen.clear()

    def take(self, rows: int) -> dict[str, Tensor]:
        """Return each layer's activations ``(sample, neuron)`` of the last batch; forget them.

        Raises
        ------
        CaptureError
            If a layer was not called, was called more than once, or gave something else
            than one row a sample.
        """
        taken = {}
        for layer, tap in self.taps.items():
            parts = list(self._seen[layer])
            self._seen[layer].clear()
            taken[layer] = _check(_join(parts, tap, self._devices), tap, rows)
        return taken

    def _keep(self, seen: list[Tensor], values: tuple[Any, ...]) -> None:
        found = _first_tensor(values)
        if found is None:
            return
        activations = found.detach()
        if activations.ndim != 2 and self._pool is not None:
            activations = self._pool(activations)
        elif activations.ndim > 3:
            activations = spatial_mean(activations)
        # A copy: what follows may change the tensor in place, as nn.ReLU(inplace=True) does.
        seen.append(activations.clone() if activations.ndim == 2 else activations)


def _check(activations: Tensor, tap: Tap, rows: int) -> Tensor:
    if activations.ndim != 2:
        raise CaptureError(
            f"the {tap.side} of {tap.path!r} has shape {tuple(activations.shape)}; expected "
            "(sample, neuron): pass pool=, a function that turns the one into the other"
        )
    if activations.shape[0] != rows:
        raise CaptureError(
            f"the {tap.side} of {tap.path!r} has {activations.shape[0]} rows for a batch of "
            f"{rows} labels; call the model once for each batch, on the whole batch"
        )
    return activations


def _first_tensor(value: Any) -> Tensor | None:
    """Return the first floating-point tensor in tuples, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return None
    return next((found for item in value if (found := _first_tensor(item)) is not None), None)


def _join(parts: list[Tensor], tap: Tap, devices: Sequence[int]) -> Tensor:
    if not parts:
        raise CaptureError(
            f"nothing passed {tap.path!r} while the batch was watched: call the recorded model on "
            "it; a model under torch.compile skips hooks, so evaluate the uncompiled one or use "
            "'with torch.compiler.set_stance(\"force_eager\")'"
        )
    if len(parts) == 1:
        return parts[0]
    # DataParallel runs one copy of the layer on each device, and they end in any order.
    by_device = {part.device.index or 0: part for part in parts}
    if len(by_device) != len(parts):
        raise CaptureError(
            f"{tap.path!r} was called {len(parts)} times for one batch; call the model once for "
            "each batch that is watched"
        )
    order = dict.fromkeys([*devices, *sorted(by_device)])
    ordered = [by_device[index] for index in order if index in by_device]
    return torch.cat([part.to(ordered[0].device) for part in ordered])
