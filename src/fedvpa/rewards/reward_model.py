"""A reward from sequence-classification reward models of transformers, one model for each preference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedvpa.core.errors import ConfigError, DataError, nearest
from fedvpa.core.progress import track
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Text
from fedvpa.data.text import plain_text, transcript_messages
from fedvpa.models.architecture import position_limit
from fedvpa.models.batching import batches
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.encoding import TextEncoder
from fedvpa.models.load import load_classifier
from fedvpa.models.locate import locate
from fedvpa.models.rendering import Renderer
from fedvpa.models.tokens import frame_of
from fedvpa.rewards.base import SETTINGS, Score, as_score
from fedvpa.rewards.reward_model_config import RewardModelConfig


@dataclass(frozen=True, slots=True, repr=False)
class RewardModel:
    """A loaded reward model.

    Attributes:
        place: Folder or hub id, as given.
        model: In evaluation mode, with a head of one output.
        tokenizer: Its tokenizer.
        positions: How many tokens a sequence may have; None if the architecture has no limit.
        pad_id: The token that the model takes for padding; None if it knows none, and then rows go one by one, because
            decoder-only heads read the last token that is no padding.
    """

    place: str
    model: Any
    tokenizer: Any
    positions: int | None
    pad_id: int | None

    __repr__ = short_repr


class RewardModelReward:
    """The rewards of reward models, each computed once.

    Rewards are kept in memory, so a response that occurs in many duels is computed once. One model is in memory at a
    time. A text that is longer than the model can read, or whose reward is not finite, has no reward: nothing is cut.

    Args:
        config: Which model scores which preference.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        self._config = config
        self._scores: dict[tuple[str, Text, str], Score] = {}
        self._loaded: RewardModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process, which loads the model itself."""
        return {**self.__dict__, "_loaded": None}

    @property
    def name(self) -> str:
        """``reward-model``."""
        return "reward-model"

    def score(self, items: Sequence[tuple[Text, str]], preference: str) -> list[Score]:
        """The reward of each (prompt, response), or why there is none.

        Raises:
            ConfigError: If no model is configured for the preference.
            ModelError: If the model's folder is incomplete, or its head is missing or has more than one output.
        """
        place = self._place(preference)
        new = [item for item in dict.fromkeys(items) if (place, *item) not in self._scores]
        if new:
            for item, score in zip(new, score_all(self._model(place), new, self._config.tokens_per_batch), strict=True):
                self._scores[(place, *item)] = score
        return [self._scores[(place, *item)] for item in items]

    def _place(self, preference: str) -> str:
        """The folder or hub id of the model that scores ``preference``."""
        if preference not in self._config.models:
            raise ConfigError(
                f"No reward model is given for the preference {preference!r}.",
                fix=nearest(preference, self._config.models),
                where="configuration key 'models'",
            )
        return self._config.models[preference]

    def _model(self, place: str) -> RewardModel:
        """The model of that place, loaded unless it is the one in memory."""
        if self._loaded is None or self._loaded.place != place:
            self._loaded = None  # the former model's memory is free before the next one is loaded
            self._loaded = load_reward_model(place, self._config)
        return self._loaded


def make_reward_model_reward(settings: Mapping[str, Any]) -> RewardModelReward:
    """The reward of reward models, from the fields of :class:`RewardModelConfig`.

    Raises:
        ConfigError: For an unknown or unusable setting.
    """
    return RewardModelReward(RewardModelConfig.parse(settings, *SETTINGS))


def load_reward_model(place: str, config: RewardModelConfig) -> RewardModel:
    """Load a reward model from a folder or the hub.

    Raises:
        ModelError: If the folder is incomplete, the head has more than one output, or weights are missing: transformers
            would fill a missing head with random numbers.
        ConfigError: If there is no such device.
    """
    source = locate(place)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    loaded = load_classifier(source, dtype, device)
    return RewardModel(
        place=place,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        positions=position_limit(loaded.model, loaded.tokenizer),
        pad_id=loaded.model.config.get_text_config().pad_token_id,
    )


def score_all(reward: RewardModel, items: Sequence[tuple[Text, str]], tokens_per_batch: int) -> list[Score]:
    """The reward of each (prompt, response), or why there is none; longest first, so that batches hold little padding.

    A tokenizer with a chat template gets the conversation with the response as its last turn; one without gets prompt
    and response as a pair of sentences, the form of the reward models that are no chat models.
    """
    encoded = [_encode(reward.tokenizer, prompt, response) for prompt, response in items]
    scores: list[Score] = [row if isinstance(row, str) else _unfit(row, reward) for row in encoded]
    lengths = np.array([0 if isinstance(row, str) else len(row["input_ids"]) for row in encoded], dtype=np.int64)
    fits = np.flatnonzero((lengths > 0) & (lengths <= (reward.positions or lengths.max(initial=0))))
    if reward.pad_id is None:
        groups: list[np.ndarray] = [fits[place : place + 1] for place in range(len(fits))]
    else:
        groups = [fits[group] for group in batches(lengths[fits], np.zeros(len(fits), dtype=bool), tokens_per_batch)]
    for group in track(groups, "rewards", len(groups), unit="batches"):
        values = _forward(reward, [row for row in (encoded[place] for place in group) if not isinstance(row, str)])
        for row, value in zip(group, values, strict=True):
            scores[row] = as_score(value)
    return scores


def _encode(tokenizer: Any, prompt: Text, response: str) -> Mapping[str, list[int]] | str:
    """The token ids, and what else the model takes per token; or why the chat template refuses the conversation."""
    encoder = TextEncoder(Renderer(tokenizer))
    if not tokenizer.chat_template:
        return _encode_sentences(encoder, plain_text(prompt), response)
    turns = (transcript_messages(prompt) if isinstance(prompt, str) else None) or prompt
    try:
        whole = encoder.renderer.whole(turns, response)
    except DataError as error:
        return f"of the reward model: {error.problem}"
    (ids,) = encoder.encode([whole.prompt], sealed=whole.sealed)
    return {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}


def _encode_sentences(encoder: TextEncoder, prompt: str, response: str) -> Mapping[str, list[int]]:
    """Prompt and response as a pair of sentences; what they spell of control tokens stays text."""
    tokenizer, controls = encoder.tokenizer, encoder.renderer.controls
    encoded: Mapping[str, list[int]] = tokenizer(prompt, response, verbose=False)
    if not (controls.spelled_in(prompt) or controls.spelled_in(response)):
        return encoded
    frame = frame_of(tokenizer, "encoder")
    first, second = controls.encode([controls.seal(controls.quote(text)) for text in (prompt, response)])
    start, stop = len(frame.before) + len(first) + len(frame.between), len(second) + len(frame.after)
    ids = [*frame.before, *first, *frame.between, *second, *frame.after]
    types = [0] * start + [frame.response_type or 0] * stop
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": types}


def _unfit(row: Mapping[str, list[int]], reward: RewardModel) -> str:
    if not row["input_ids"]:
        return "no token that the reward model could read"
    return f"{len(row['input_ids'])} tokens, and the reward model reads at most {reward.positions}"


@torch.inference_mode()
def _forward(reward: RewardModel, rows: Sequence[Mapping[str, list[int]]]) -> Iterable[float]:
    """The rewards of rows that are padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": reward.pad_id or 0}  # everything else is padded with zeros
    inputs = {
        name: torch.tensor([[*row[name], *[fills.get(name, 0)] * (longest - len(row[name]))] for row in rows])
        for name in reward.tokenizer.model_input_names
        if name in rows[0]
    }
    logits = reward.model(**{name: value.to(reward.model.device) for name, value in inputs.items()}).logits
    return logits[:, 0].float().tolist()
