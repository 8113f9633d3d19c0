"""Objectives: rewards whose preference is fixed, so that a policy can be trained towards several of them at once.

An objective is made from its name (:mod:`fedvpa.rewards.objective_names`): the bundled world's exact utility of a
group, a run's selector at one of its prototypes, a reward model, or any registered reward under a preference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Text
from fedvpa.features.backbone import Backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.responses import features_of
from fedvpa.rewards.base import Reward, Score, as_score
from fedvpa.rewards.objective_names import REWARD_MODEL, SELECTOR, ObjectiveName
from fedvpa.rewards.registry import REWARDS
from fedvpa.selector.selector import Selector


@runtime_checkable
class Objective(Protocol):
    """Scores responses; higher is better. Scores of one objective can be compared with each other only."""

    @property
    def name(self) -> str:
        """Names the objective in configurations, tables and files."""

    def score(self, items: Sequence[tuple[Text, str]]) -> list[Score]:
        """Score responses.

        Args:
            items: (prompt, response) of each; an item may occur more than once.

        Returns:
            One finite score per item, or the reason why there is none, in the order of the items.

        Raises:
            InputError: If this objective cannot score a prompt.
        """


@dataclass(frozen=True)
class RewardObjective:
    """A reward under one preference.

    Attributes:
        name: See :class:`Objective`.
        reward: What scores.
        preference: Whose taste decides.
    """

    name: str
    reward: Reward
    preference: str

    def score(self, items: Sequence[tuple[Text, str]]) -> list[Score]:
        """See :class:`Objective`."""
        return [as_score(value) for value in self.reward.score(items, self.preference)]


@dataclass(frozen=True, repr=False)
class ResponseReader:
    """A selector that reads responses by its language model.

    The features of the last items are kept, so that the objectives of one selector read a batch once.

    Attributes:
        selector: Frozen.
        backbone: Gives the selector's language model.
        features: How it reads.
    """

    selector: Selector
    backbone: Callable[[], Backbone]
    features: FeatureConfig
    _last: dict[tuple[tuple[Text, str], ...], Float[Tensor, "items d"]] = field(default_factory=dict)

    __repr__ = short_repr

    def read(self, items: Sequence[tuple[Text, str]]) -> Float[Tensor, "items d"]:
        """Scaled features of (prompt, response) of each."""
        key = tuple(items)
        if key not in self._last:
            prompts, responses = [prompt for prompt, _ in items], [response for _, response in items]
            raw = features_of(prompts, responses, self.backbone(), self.features)
            self._last.clear()
            self._last[key] = self.selector.scale(raw.numpy())
        return self._last[key]


@dataclass(frozen=True)
class PrototypeObjective:
    """A run's selector at one of its prototypes: r(h(x, y); p_j), in nats.

    Attributes:
        name: See :class:`Objective`.
        reader: The selector and its language model.
        prototype: The number of the prototype.
    """

    name: str
    reader: ResponseReader
    prototype: int

    def score(self, items: Sequence[tuple[Text, str]]) -> list[Score]:
        """See :class:`Objective`."""
        if not items:
            return []
        selector = self.reader.selector
        posterior = selector.at_prototype(torch.tensor(self.prototype))
        return [as_score(value) for value in selector.rewards(posterior, self.reader.read(items)).tolist()]


def make_objectives(
    names: Sequence[ObjectiveName],
    *,
    selector: ResponseReader | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Objective, ...]:
    """The objectives of these names, in their order.

    Args:
        names: See :mod:`fedvpa.rewards.objective_names`.
        selector: The run's selector; None where there is none.
        settings: Name of a reward → its settings, such as the ``dtype`` of ``reward-model``.

    Raises:
        ConfigError: If a prototype is asked for and there is no selector or no such prototype, if the
            selector's rewards do not depend on z, or a reward does not take its settings.
    """
    given, made = settings or {}, {}
    for name in names:
        if name.kind == SELECTOR:
            _check_prototype(name, selector)
        elif name.kind not in made:
            made[name.kind] = REWARDS.get(name.kind)(_settings(name.kind, names, given.get(name.kind, {})))
    return tuple(
        PrototypeObjective(str(name), selector, int(name.of))
        if name.kind == SELECTOR and selector is not None
        else RewardObjective(str(name), made[name.kind], name.of)
        for name in names
    )


def _settings(kind: str, names: Sequence[ObjectiveName], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a reward; a reward model's place is the name of its preference too."""
    if kind != REWARD_MODEL:
        return given
    return {**given, "models": {name.of: name.of for name in names if name.kind == kind}}


def _check_prototype(name: ObjectiveName, selector: ResponseReader | None) -> None:
    if selector is None:
        raise ConfigError(
            f"The objective {str(name)!r} is a prototype of the run's selector, and the run has no selector.",
            fix="Train one first, or name other objectives.",
        )
    if selector.selector.config.head == "residual":
        raise ConfigError(
            f"The objective {str(name)!r} is the same at every prototype: under the residual head no reward of a "
            "response depends on z.",
            fix="Train the selector with selector.head=bilinear, or name other objectives.",
        )
    count = len(selector.selector.prototypes)
    if int(name.of) >= count:
        raise ConfigError(
            f"The objective {str(name)!r} is not there: the run's selector has {count} prototypes.",
            fix=f"They are counted from 0: selector:0 to selector:{count - 1}.",
        )
