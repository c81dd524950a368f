"""An activation database for people who study what wide neural networks learn."""

from typing import TYPE_CHECKING, Any

from actstore._version import __version__

if TYPE_CHECKING:
    from actstore.notebook import progress
    from actstore.queries.clones import clones
    from actstore.queries.dynamics import dynamics
    from actstore.queries.ensemble import ensemble
    from actstore.queries.error import error
    from actstore.queries.explain import explain
    from actstore.queries.moments import moments
    from actstore.queries.noise import noise
    from actstore.queries.reconstruction import reconstruction
    from actstore.queries.scaling import scaling
    from actstore.queries.spectrum import spectrum
    from actstore.recording import Recorder
    from actstore.store import Store, open

#: public name -> module; imported on first use, so that a query never imports torch (PEP 562)
_HOMES = {
    "Recorder": "actstore.recording",
    "Store": "actstore.store",
    "clones": "actstore.queries",
    "dynamics": "actstore.queries",
    "ensemble": "actstore.queries",
    "error": "actstore.queries",
    "explain": "actstore.queries.explain",
    "moments": "actstore.queries",
    "noise": "actstore.queries",
    "open": "actstore.store",
    "progress": "actstore.notebook",
    "reconstruction": "actstore.queries",
    "scaling": "actstore.queries",
    "spectrum": "actstore.queries",
}

__all__ = [
    "Recorder",
    "Store",
    "__version__",
    "clones",
    "dynamics",
    "ensemble",
    "error",
    "explain",
    "moments",
    "noise",
    "open",
    "progress",
    "reconstruction",
    "scaling",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'actstore' has no attribute {name!r}")
    import importlib

    if name != "Recorder":
        importlib.import_module("actstore.notebook")  # gives answers their .actstore.plot()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
