"""The user's own model and data: functions named as ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from actstore.errors import InvalidParameterError
from actstore.training.recipes import Recipe


def own_recipe(model: str, data: str) -> Recipe:
    """Return a recipe of two functions of the user's.

    Parameters
    ----------
    model
        ``pkg.mod:function``, called as ``function(width, **keywords)``; gives an
        ``nn.Module``.
    data
        ``pkg.mod:function``, called as ``function(**keywords)``; gives ``(train, test)``
        or a mapping of split to examples.

    Raises
    ------
    InvalidParameterError
        If a function cannot be found.
    """
    return Recipe(name=model, model=load_function(model), data=load_function(data))


def load_function(name: str) -> Callable[..., Any]:
    """Return the function ``pkg.mod:function``; modules in the current directory are found too.

    Raises
    ------
    InvalidParameterError
        If the name has another form, or the module or the function does not exist.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise InvalidParameterError(f"{name!r} was given; expected package.module:function")
    here = os.getcwd()
    # A console script has its own folder first on the path, not the one it is started in.
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # something that the user's module imports: its traceback says what
        raise InvalidParameterError(
            f"no module {module_name!r} for {name!r}; it is looked for on the Python path and in "
            "the current directory"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = sorted(
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module_name
        )
        raise InvalidParameterError(
            f"{module_name!r} has no function {function_name!r}; "
            f"it has {', '.join(found) or 'none'}"
        )
    return function  # type: ignore[no-any-return]
