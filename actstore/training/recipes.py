"""A recipe: what is trained on what, and how."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn

from actstore.errors import InvalidParameterError
from actstore.training.settings import Settings
from actstore.training.splits import Split, as_splits

#: keywords that say where data are, on which no result depends: no setting of a run
_WHERE: Final = ("data_dir", "download")
_VARIANT: Final = "model"


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
    readout
        Dotted name of the model's readout, where it is not its last ``nn.Linear``.
    threads
        Threads for one training on a CPU; nothing is changed when it is None.
    model_keywords, data_keywords
        Keywords of the two functions.
    variants
        Other recipes under the same name, chosen by the value ``model``.
    variant
        Which of them this one is.
    """

    name: str
    model: Callable[..., nn.Module]
    data: Callable[..., Any]
    settings: Settings = field(default_factory=Settings)
    widths: tuple[int, ...] = ()
    schedule: str = "paper"
    readout: str | None = None
    threads: int | None = None
    model_keywords: Mapping[str, Any] = field(default_factory=dict)
    data_keywords: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Recipe] = field(default_factory=dict)
    variant: str = ""

    def set(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with values given to whatever takes them.

        A key goes to the settings, or else to the model and the data functions whose
        signatures have it; ``model`` chooses among the variants, where there are some.

        Raises
        ------
        InvalidParameterError
            If nothing takes a key; the message lists the keys that exist.
        """
        if self.variants and _VARIANT in values:
            rest = {key: value for key, value in values.items() if key != _VARIANT}
            return self._of_variant(values[_VARIANT]).set(rest)
        known = {f.name for f in dataclasses.fields(Settings)}
        model, data = _keywords(self.model, skip=1), _keywords(self.data)
        settings = {key: value for key, value in values.items() if key in known}
        rest = {key: value for key, value in values.items() if key not in known}
        for key in rest:
            if key in _WHERE:
                raise InvalidParameterError(
                    f"{key!r} says where the data are and is no setting of a run; give it to the "
                    f"sweep: --{key.replace('_', '-')}"
                )
            if not any(takes is None or key in takes for takes in (model, data)):
                raise InvalidParameterError(
                    f"nothing in {self.name!r} takes {key!r}; it has {', '.join(self.keys())}"
                )
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, **settings),
            model_keywords={**self.model_keywords, **_taken(rest, model)},
            data_keywords={**self.data_keywords, **_taken(rest, data)},
        )

    def at(self, width: int) -> Recipe:
        """Return the recipe with the learning rate that it has at a width."""
        cap = self.settings.learning_rate_by_width * width**-1.5
        if not 0 < cap < self.settings.learning_rate:
            return self
        settings = dataclasses.replace(self.settings, learning_rate=cap)
        return dataclasses.replace(self, settings=settings)

    def splits(
        self, *, data_dir: str | os.PathLike[str] | None = None, download: bool = False
    ) -> dict[str, Split]:
        """Return the data, as splits.

        Parameters
        ----------
        data_dir, download
            Where data sets lie, and whether to fetch one that is missing; given to a data
            function that takes them.

        Raises
        ------
        InvalidParameterError
            If the data function gives something that is not labelled examples, or
            ``data_dir`` is given and it takes none.
        DatasetNotFoundError
            If a data set is not there.
        """
        takes = _keywords(self.data) or set()
        given = {"data_dir": data_dir, "download": download}
        for key, value in given.items():
            if value and key not in takes:
                raise InvalidParameterError(
                    f"{key} was given, and the data of {self.name!r} take no {key}; leave it out"
                )
        where = {key: value for key, value in given.items() if key in takes and value}
        found = as_splits(self.data(**self.data_keywords, **where), source=f"data of {self.name!r}")
        return {**found, "train": found["train"].with_label_noise(self.settings.label_noise)}

    def _of_variant(self, name: Any) -> Recipe:
        if name not in self.variants:
            raise InvalidParameterError(
                f"{self.name!r} has no model {name!r}; it has {', '.join(self.variants)}"
            )
        return self.variants[name]

    def keys(self) -> list[str]:
        """Return the keys that ``set`` takes, as far as signatures name them."""
        known = {f.name for f in dataclasses.fields(Settings)}
        model, data = _keywords(self.model, skip=1), _keywords(self.data)
        own = (_VARIANT,) if self.variants else ()
        return sorted(known.union(model or (), data or (), own) - set(_WHERE))


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
