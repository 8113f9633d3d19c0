"""What every reward is: responses to prompts in, numbers out, and a missing number stays missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedvpa.data.schema import Text

if TYPE_CHECKING:  # a name of a reward can be checked without them
    import numpy as np
    from jaxtyping import Bool, Float

Score = float | str
"""A finite reward, or the reason why there is none."""

SETTINGS = ("policy", "judging", "settings")
"""Where a configuration has the settings of a judge, or of the reward that it judges by; named in error messages."""


class Reward(Protocol):
    """Scores responses under a preference; higher is better.

    Scores can be compared only with scores of the same reward under the same preference. A reward that cannot score a
    response says why; it never asks another reward.
    """

    @property
    def name(self) -> str:
        """Names the reward in tables and configurations."""

    def score(self, items: Sequence[tuple[Text, str]], preference: str) -> list[Score]:
        """Score responses.

        Args:
            items: (prompt, response) of each; an item may occur more than once. A prompt is a string, or the messages
                of a conversation.
            preference: Whose taste decides: the name of a group, such as ``helpful``.

        Returns:
            One score per item, in the order of the items.

        Raises:
            InputError: If this reward cannot score a prompt, or anything under this preference.
        """


@runtime_checkable
class ExactReward(Reward, Protocol):
    """A reward that knows what a response is worth to the users of a group: nothing is estimated, nothing missing."""

    def score(self, items: Sequence[tuple[Text, str]], preference: str) -> list[Score]:
        """The utilities of :meth:`utilities` as floats; none is missing."""
        values, _ = self.utilities(items, preference)
        return [float(value) for value in values]

    def utilities(
        self, items: Sequence[tuple[Text, str]], preference: str
    ) -> tuple[Float[np.ndarray, " items"], Bool[np.ndarray, " items"]]:
        """What responses are worth; arguments and errors are those of :meth:`score`.

        Returns:
            The utilities, which :meth:`score` gives as floats, and whether each response is a text that can be read.
        """


@dataclass(frozen=True, slots=True)
class HeldOutAccuracy:
    """How often a learned reward orders pairs as their label does that it was not fitted to.

    Attributes:
        value: Share of the pairs, in [0, 1]; equal rewards count one half.
        ci95: Its interval at 95%, over prompts; None where there is one prompt only.
        pairs: How many pairs.
        prompts: How many different prompts they have.
        longer: Share of them whose longer response is the preferred one: what counting letters alone would give.
    """

    value: float
    ci95: tuple[float, float] | None
    pairs: int
    prompts: int
    longer: float


@runtime_checkable
class LearnedReward(Reward, Protocol):
    """A reward that was trained on labelled pairs, and knows which these were and how good it is."""

    @property
    def accuracy(self) -> Mapping[str, HeldOutAccuracy]:
        """Preference → how good the reward is there."""

    @property
    def pairs(self) -> frozenset[int]:
        """Hashes of its training pairs, from :func:`fedvpa.data.reserve.pair_identity`."""


def as_score(value: Score) -> Score:
    """The value itself, or, for a number that is not finite, the reason why it is no reward."""
    return value if isinstance(value, str) or math.isfinite(value) else f"the reward is {value}"
