"""A judge that scores each response with a sequence-classification reward model of transformers."""

from __future__ import annotations

from collections.abc import Sequence

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.rewards.reward_model import RewardModel, RewardModelConfig, Score, load_reward_model, score_all


class RewardModelJudge:
    """Prefers the response of higher reward; equal rewards are a tie.

    Rewards are kept in memory, so a response that occurs in many duels is computed once. One model is in memory at a
    time. A text that is longer than the model can read, or whose reward is not finite, has no reward, and a duel
    without both rewards has no verdict: nothing is cut.

    Args:
        config: Which model scores which preference.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        self._config = config
        self._scores: dict[tuple[str, str, str], Score] = {}
        self._loaded: RewardModel | None = None

    @property
    def name(self) -> str:
        """``reward-model``."""
        return "reward-model"

    def compare(self, duels: Sequence[Duel]) -> list[Verdict]:
        """One verdict per duel, in the order of the duels.

        Raises:
            ConfigError: If no model is configured for a preference.
            ModelError: If a model's folder is incomplete, or its head is missing or has more than one output.
        """
        needed: dict[str, dict[tuple[str, str], None]] = {}
        for duel in duels:
            texts = needed.setdefault(self._place(duel.preference), {})
            texts.update({(duel.prompt, duel.first): None, (duel.prompt, duel.second): None})
        for place, texts in needed.items():
            self._score(place, [text for text in texts if (place, *text) not in self._scores])
        return [self._verdict(duel) for duel in duels]

    def rewards(self, items: Sequence[tuple[str, str]], preference: str) -> list[Score]:
        """The reward of each (prompt, response), or why there is none; see :meth:`compare` for what it raises."""
        place = self._place(preference)
        self._score(place, [item for item in dict.fromkeys(items) if (place, *item) not in self._scores])
        return [self._scores[(place, *item)] for item in items]

    def _place(self, preference: str) -> str:
        if preference not in self._config.models:
            raise ConfigError(
                f"No reward model is given for the preference {preference!r}.",
                fix=nearest(preference, self._config.models),
                where="configuration key 'models'",
            )
        return self._config.models[preference]

    def _score(self, place: str, items: Sequence[tuple[str, str]]) -> None:
        """Compute and keep the rewards of ``items``."""
        if not items:
            return
        if self._loaded is None or self._loaded.place != place:
            self._loaded = None  # the former model's memory is free before the next one is loaded
            self._loaded = load_reward_model(place, self._config)
        for item, score in zip(items, score_all(self._loaded, items, self._config.tokens_per_batch), strict=True):
            self._scores[(place, *item)] = score

    def _verdict(self, duel: Duel) -> Verdict:
        place = self._place(duel.preference)
        first, second = (self._scores[(place, duel.prompt, text)] for text in (duel.first, duel.second))
        if isinstance(first, str) or isinstance(second, str):
            return Verdict(None, first if isinstance(first, str) else str(second))
        if first == second:
            return Verdict(0.5, "equal reward")
        return Verdict(1.0 if first > second else 0.0)
