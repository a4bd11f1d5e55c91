"""What a search may try: the points of the recipe's [search] table, and the recipe of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.errors import BadRecipe
from asrcompress.recipe import Quantization, Recipe
from asrcompress.search import Choice
from asrcompress.search_settings import Search
from asrcompress.sensitivity import check_subject, read_sensitivity


class Suggests(Protocol):
    """A trial of Optuna, as far as it is used here."""

    def suggest_categorical(self, name: str, choices: list[Any], /) -> Any:
        """One of `choices`, which have no order."""

    def suggest_int(self, name: str, low: int, high: int, /) -> int:
        """A number from `low` to `high`, which have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Every combination of these; a dimension with a single value is none.

    Attributes:
        recipe: what all candidates have in common.
        layers: names, the most sensitive first.
    """

    recipe: Recipe
    observers: tuple[str, ...]
    epochs: tuple[int, ...]
    prune_amounts: tuple[float, ...]
    float_layers: tuple[int, ...]
    layers: tuple[str, ...]

    def choices(self) -> list[Choice]:
        """Every point, plain quantization first."""
        return [
            Choice(observer=observer, epochs=epochs, prune_amount=amount, float_layers=count)
            for amount, count, epochs, observer in itertools.product(
                self.prune_amounts, self.float_layers, self.epochs, self.observers
            )
        ]

    def baselines(self) -> list[Choice]:
        """What is tried first: each calibration by itself, then training, all else at its least."""
        amount, count = self.prune_amounts[0], self.float_layers[0]
        first = [
            Choice(
                observer=observer, epochs=self.epochs[0], prune_amount=amount, float_layers=count
            )
            for observer in self.observers
        ]
        trained = [replace(first[0], observer=self._own_observer(), epochs=self.epochs[-1])]
        return first + (trained if len(self.epochs) > 1 else [])

    def _own_observer(self) -> str:
        own = self.recipe.quantization.observer
        return own if own in self.observers else self.observers[0]

    def suggest(self, trial: Suggests) -> Choice:
        """The point that the optimiser wants to know next.

        Numbers go by their place in the list, so that the optimiser knows which are neighbours.
        """

        def ordered(name: str, values: tuple[Any, ...]) -> Any:
            return values[trial.suggest_int(name, 0, len(values) - 1) if len(values) > 1 else 0]

        observer = self.observers[0]
        if len(self.observers) > 1:
            observer = trial.suggest_categorical("observer", list(self.observers))
        return Choice(
            observer=observer,
            epochs=ordered("epochs", self.epochs),
            prune_amount=ordered("prune_amount", self.prune_amounts),
            float_layers=ordered("float_layers", self.float_layers),
        )

    def parameters(self, choice: Choice) -> Mapping[str, Any]:
        """What `suggest` has to be given for `choice` to come of it."""
        named = {
            "epochs": (choice.epochs, self.epochs),
            "prune_amount": (choice.prune_amount, self.prune_amounts),
            "float_layers": (choice.float_layers, self.float_layers),
        }
        found = {
            name: values.index(value) for name, (value, values) in named.items() if len(values) > 1
        }
        return found if len(self.observers) == 1 else {"observer": choice.observer, **found}

    def skipped(self, choice: Choice) -> tuple[str, ...]:
        """Layers that `choice` keeps in float because of their sensitivity."""
        return self.layers[: choice.float_layers]

    def recipe_of(self, choice: Choice) -> Recipe:
        """The recipe of a point, as ``qat`` or ``ptq`` takes it."""
        own = self.recipe.quantization
        skip = tuple(dict.fromkeys((*own.skip, *self.skipped(choice))))
        prune = self.recipe.prune
        if self.prune_amounts != (0.0,):
            prune = replace(prune, amount=choice.prune_amount)
        return replace(
            self.recipe,
            search=Search(),
            prune=prune,
            quantization=replace(own, observer=choice.observer, skip=skip),
            training=replace(self.recipe.training, epochs=choice.epochs),
        )

    def pruning_of(self, choice: Choice) -> Recipe:
        """The recipe of its pruning alone, which all points with the same amount share."""
        recipe = self.recipe_of(choice)
        return replace(
            recipe, quantization=Quantization(), training=replace(recipe.training, epochs=0)
        )


def space_of(recipe: Recipe, checkpoint: Checkpoint) -> tuple[Space, list[str]]:
    """The space of a recipe, and what of it cannot be tried, one line each.

    Raises:
        BadRecipe: a dimension is empty, or contradicts [prune].
        BadSensitivity: the order of layers is damaged or of other weights.
    """
    search, notes = recipe.search, list[str]()
    for name in ("observers", "prune_amounts", "float_layers"):
        if not getattr(search, name):
            raise BadRecipe(f"search.{name}: got an empty list, expected at least one value")
    epochs = tuple(sorted({0, recipe.training.epochs if search.qat else 0}))
    amounts = tuple(sorted(set(search.prune_amounts)))
    if recipe.data.train is None and (len(epochs) > 1 or amounts[-1] > 0):
        notes.append("data.train is not set: neither training nor pruning is tried")
        epochs, amounts = (0,), (0.0,)
    if (recipe.prune.budget or not recipe.prune.structured) and amounts != (0.0,):
        raise BadRecipe(
            "search.prune_amounts: got amounts, but [prune] has a budget or leaves zeros, "
            "expected one of them",
            hint="--search-prune-amount 0 keeps what [prune] says in every candidate",
        )
    layers, counts = _layers(recipe, checkpoint), tuple(sorted(set(search.float_layers)))
    if not layers and counts[-1]:
        notes.append("search.sensitivity is not set: no layer is tried in float")
    counts = tuple(dict.fromkeys(min(count, len(layers)) for count in counts))
    if recipe.prune.drop_blocks and counts[-1]:
        raise BadRecipe(
            "search.float_layers: the names of layers change where prune.drop_blocks is set, "
            "expected one of them",
            hint="--search-float-layers 0",
        )
    observers = tuple(dict.fromkeys(search.observers))
    space = Space(
        recipe=recipe, observers=observers, epochs=epochs, prune_amounts=amounts,
        float_layers=counts, layers=layers,
    )  # fmt: skip
    return space, notes


def _layers(recipe: Recipe, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names by sensitivity, the worst first; none where it was not measured."""
    path = recipe.search.sensitivity
    if path is None:
        return ()
    found = read_sensitivity(path)
    check_subject(found, checkpoint.sha256, item=str(path))
    return tuple(item.probe.target for item in found.most_sensitive_layers())
