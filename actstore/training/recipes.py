"""What is trained on what, and how: the settings of a training and the built-in recipes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn

from actstore.errors import InvalidParameterError
from actstore.training import architectures, datasets


@dataclass(frozen=True)
class Settings:
    """Settings of a training by stochastic gradient descent with a cosine learning rate.

    Parameters
    ----------
    epochs
        Passes over the training set.
    batch_size
        Samples a step.
    learning_rate, final_learning_rate
        At the first epoch, and after the last; in between ½(1 + cos) of the difference.
    momentum, nesterov
        Of the descent.
    weight_decay
        On all parameters.
    label_smoothing
        Share of a label that is spread over all classes.

    Raises
    ------
    InvalidParameterError
        If a value is out of its range.
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.1
    final_learning_rate: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 1, None),
            ("batch_size", 2, None),
            ("learning_rate", 0, None),
            ("final_learning_rate", 0, None),
            ("momentum", 0, 1),
            ("nesterov", 0, 1),
            ("weight_decay", 0, None),
            ("label_smoothing", 0, 1),
        ):
            value = getattr(self, name)
            whole = name in ("epochs", "batch_size")
            kinds = int if whole else (int, float)
            if (
                not isinstance(value, kinds)
                or not value >= low
                or (high is not None and value > high)
            ):
                number = "a whole number" if whole else "a number"
                span = f"of {low} or more" if high is None else f"from {low} to {high}"
                raise InvalidParameterError(f"{name} is {value!r}; expected {number} {span}")
            if not whole and name != "nesterov":
                # 0 and 0.0 are one setting, and must be one in the name of the run.
                object.__setattr__(self, name, float(value))
        if self.nesterov and self.momentum == 0:
            raise InvalidParameterError("nesterov is set and momentum is 0; give a momentum")


@dataclass(frozen=True)
class Recipe:
    """A model, its data, and the settings that they are trained with.

    Parameters
    ----------
    name
        As given to ``actstore record --recipe``.
    model
        Called as ``model(width, **keywords)``.
    data
        Called as ``data(**keywords)``; gives the splits, of which ``train`` is trained on.
    settings, widths, schedule
        Defaults of a sweep.
    threads
        Threads for one training on a CPU; nothing is changed when it is None.
    model_keywords, data_keywords
        Keywords of the two functions.
    """

    name: str
    model: Callable[..., nn.Module]
    data: Callable[..., Any]
    settings: Settings = Settings()
    widths: tuple[int, ...] = ()
    schedule: str = "paper"
    threads: int | None = None
    model_keywords: Mapping[str, Any] = field(default_factory=dict)
    data_keywords: Mapping[str, Any] = field(default_factory=dict)

    def set(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with values given to whatever takes them.

        A key goes to the settings, or else to the model and the data functions whose
        signatures have it.

        Raises
        ------
        InvalidParameterError
            If nothing takes a key; the message lists the keys that exist.
        """
        known = {f.name for f in dataclasses.fields(Settings)}
        model, data = _keywords(self.model, skip=1), _keywords(self.data)
        settings = {key: value for key, value in values.items() if key in known}
        rest = {key: value for key, value in values.items() if key not in known}
        for key in rest:
            if not any(takes is None or key in takes for takes in (model, data)):
                listed = sorted(known | (model or set()) | (data or set()))
                raise InvalidParameterError(
                    f"nothing in {self.name!r} takes {key!r}; it has {', '.join(listed)}"
                )
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, **settings),
            model_keywords={**self.model_keywords, **_taken(rest, model)},
            data_keywords={**self.data_keywords, **_taken(rest, data)},
        )

    def splits(self) -> dict[str, datasets.Split]:
        """Return the data, as splits.

        Raises
        ------
        InvalidParameterError
            If the data function gives something that is not labelled examples.
        """
        return datasets.as_splits(self.data(**self.data_keywords), source=f"data of {self.name!r}")


def _keywords(function: Callable[..., Any], *, skip: int = 0) -> set[str] | None:
    """Return the keywords that a function takes, without its first ``skip``; None for any."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _taken(values: Mapping[str, Any], keywords: set[str] | None) -> dict[str, Any]:
    return {key: value for key, value in values.items() if keywords is None or key in keywords}


RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            model=architectures.mlp,
            data=datasets.digits,
            settings=Settings(batch_size=50, weight_decay=0.005),
            widths=(8, 16, 32, 64, 128, 256, 512),
            schedule="0,paper",
            # Steps of a millisecond: a second thread gains 20 % on an idle machine, and on a
            # busy one the two wait for each other up to a hundred times as long.
            threads=1,
        ),
    )
}
