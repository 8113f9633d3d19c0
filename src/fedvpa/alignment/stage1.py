"""What stage 2 needs of stage 1: the trained selector, its users, and the text that they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import SelectorAlgorithm
from fedvpa.core.files import check_folder_name
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.partition import ClientRows
from fedvpa.data.schema import Text
from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.policy.config import PolicyConfig
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

ONE = ""
"""The name of the policy of a method that has one for all."""


@dataclass(frozen=True, repr=False)
class Users:
    """Users and what their labelled pairs say about them, in one order.

    Attributes:
        ids: Their names.
        groups: Their true groups; None where the data do not say. For evaluation, never for training.
        posterior: Over their latents, from their training pairs; None of nobody.
    """

    ids: tuple[str, ...]
    groups: tuple[str | None, ...]
    posterior: Posterior | None

    __repr__ = short_repr

    @classmethod
    def of(cls, clients: Sequence[ClientRows], posterior: Posterior | None) -> Self:
        """Clients and their posteriors, in one order."""
        return cls(tuple(one.client_id for one in clients), tuple(one.group for one in clients), posterior)

    @property
    def z(self) -> Float[Tensor, "n k"]:
        """The z that serves each user: the posterior's mean. Of nobody, shape [0, 0]."""
        return torch.zeros(0, 0) if self.posterior is None else self.posterior.mean


@dataclass(frozen=True, repr=False)
class Stage1:
    """A trained selector and its users.

    Attributes:
        method: The name of the run's method.
        algorithm: The method.
        selector: Frozen.
        seen: The users that trained; nobody where the run's users are on other machines.
        unseen: The users that did not.
        open_pairs: Reads the text that they hold; called only where stage 2 needs it, so that a run whose data are gone
            can still be aligned on public prompts.
        has_text: Whether that text is there.
        holds_out: Whether no policy may train on a prompt, so that policies can be judged on it; needs no text.
        data: A hash of these texts and of who holds them; empty where the run holds no users.
        features: How the selector's language model is read.
        policy: Stage 2.
        seed: Of the run.
        world: Whether the data are the bundled world's, which has public prompts.
        strict: Whether a prompt that would be changed is an error (``data.strict``).
        open_tastes: Gives user → the name under which an exact judge knows what that user likes, where users have no
            groups.
        private: Whether the selector's sums were noised. Policies are then trained without a look at users, so also
            at what they hold out; see :mod:`fedvpa.runs.released`.
    """

    method: str
    algorithm: SelectorAlgorithm[Any]
    selector: Selector
    seen: Users
    unseen: Users
    open_pairs: Callable[[], ClientPairs]
    has_text: bool
    holds_out: Callable[[Text], bool]
    data: str
    features: FeatureConfig
    policy: PolicyConfig
    seed: int
    world: bool
    strict: bool
    open_tastes: Callable[[], Mapping[str, str]] = dict
    private: bool = False

    __repr__ = short_repr

    @cached_property
    def reward(self) -> Selector:
        """The selector as it orders responses for the policy; see ``policy.preferences.surface``."""
        return reward_of(self.selector, self.features, self.policy)

    @property
    def personal(self) -> bool:
        """Whether the method infers a latent that its policy follows."""
        return self.algorithm.personal

    @property
    def by_group(self) -> bool:
        """Whether the method trains one policy per true group: the oracle."""
        return self.algorithm.reads_groups and self.algorithm.has_prototypes

    @property
    def groups(self) -> tuple[str, ...]:
        """The preferences that evaluation knows by name."""
        return tuple(sorted({group for group in (*self.seen.groups, *self.unseen.groups) if group is not None}))

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the method's policies.

        Raises:
            DataError: If there is one for each group, and the name of a group cannot be the name of a folder.
        """
        if not self.by_group:
            return (ONE,)
        for name in self.groups:
            check_folder_name(name, "the name of a group, which names the folder of its policy")
        return self.groups

    @cached_property
    def pairs(self) -> ClientPairs:
        """The text that the users hold. Raises as ``open_pairs``."""
        return self.open_pairs()

    @cached_property
    def backbone(self) -> Backbone:
        """The selector's language model."""
        return load_backbone(self.features)

    def named_preferences(self) -> Mapping[str, list[float]]:
        """Group → the z that stands for it: the prototype that most of its users are nearest to, or their mean z."""
        return named_latents(self.selector, self.seen)


def reward_of(selector: Selector, features: FeatureConfig, policy: PolicyConfig) -> Selector:
    """A run's selector as the reward of stage 2; says what becomes of surface features where it was trained on some."""
    surface = policy.preferences.surface
    if features.surface:
        names = ", ".join(features.surface)
        say(
            f"the reward reads the surface features ({names}), so the policy learns them (policy.preferences.surface)"
            if surface
            else f"the reward leaves out the surface features ({names}), which z is inferred with "
            "(policy.preferences.surface=true reads them)"
        )
    return selector.as_reward(surface=surface)


def named_latents(selector: Selector, users: Users) -> dict[str, list[float]]:
    """Group → the z that stands for it; see :meth:`Stage1.named_preferences`. Empty of nobody."""
    found: dict[str, list[float]] = {}
    if users.posterior is None:
        return found
    for name in sorted({group for group in users.groups if group is not None}):
        rows = [row for row, group in enumerate(users.groups) if group == name]
        shares = users.posterior.weights[rows].mean(0)
        nearest = len(shares) == len(selector.prototypes) > 1
        z = selector.prototypes[int(shares.argmax())] if nearest else users.z[rows].mean(0)
        found[name] = z.tolist()
    return found
