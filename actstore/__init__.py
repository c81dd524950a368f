"""An activation database for people who study what wide neural networks learn."""

from typing import TYPE_CHECKING, Any

from actstore._version import __version__

if TYPE_CHECKING:
    from actstore.recording import Recorder
    from actstore.store import Store, open

#: public name -> module; imported on first use, so that a query never imports torch (PEP 562)
_HOMES = {
    "Recorder": "actstore.recording",
    "Store": "actstore.store",
    "open": "actstore.store",
}

__all__ = ["Recorder", "Store", "__version__", "open"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'actstore' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
