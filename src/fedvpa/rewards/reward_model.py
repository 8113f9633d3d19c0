"""A sequence-classification reward model of transformers: the reward of a response to a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from transformers import AutoConfig, AutoModelForSequenceClassification

from fedvpa.core.config import Config
from fedvpa.core.errors import ModelError
from fedvpa.core.progress import track
from fedvpa.models.architecture import position_limit
from fedvpa.models.batching import batches
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import explained, load_tokenizer, quiet
from fedvpa.models.locate import locate

Score = float | str
"""A reward, or why there is none."""


class RewardModelConfig(Config):
    """Which model scores which preference.

    Attributes:
        models: Preference → local folder or hub id of a model with a head of a single output.
        tokens_per_batch: Upper bound of rows × longest row; 4,096 chosen by us: eight full responses of 512 tokens.
        dtype: Precision of the forward pass; ``auto`` is bfloat16 on a GPU and float32 elsewhere.
        device: ``auto`` (a GPU if there is one), or any torch device.
    """

    models: Mapping[str, str] = Field(min_length=1)
    tokens_per_batch: int = Field(default=4096, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True)
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
    with quiet(), explained(source):
        settings = AutoConfig.from_pretrained(source.folder)
        if settings.num_labels != 1:
            raise ModelError(
                f"The model has a head of {settings.num_labels} outputs; a reward is a single one.",
                fix="Give a sequence-classification model with num_labels = 1.",
            )
        tokenizer = load_tokenizer(source.folder)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source.folder, config=settings, dtype=dtype, output_loading_info=True
        )
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"The weights lack {len(missing)} tensors of a reward model, the first being {missing[0]!r}.",
            fix="Give a trained reward model, not a language model without a reward head.",
            where=place,
        )
    return RewardModel(
        place=place,
        model=model.to(device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        positions=position_limit(model, tokenizer),
        pad_id=model.config.get_text_config().pad_token_id,
    )


def score_all(reward: RewardModel, items: Sequence[tuple[str, str]], tokens_per_batch: int) -> list[Score]:
    """The reward of each (prompt, response), or why there is none; longest first, so that batches hold little padding.

    A tokenizer with a chat template gets a conversation of two turns; one without gets prompt and response as a pair
    of sentences, the form of the reward models that are no chat models.
    """
    encoded = [_encode(reward.tokenizer, prompt, response) for prompt, response in items]
    lengths = np.array([len(row["input_ids"]) for row in encoded])
    scores: list[Score] = [
        f"{length} tokens, and the reward model reads at most {reward.positions}" for length in lengths
    ]
    fits = np.flatnonzero(lengths <= (reward.positions or lengths.max()))
    if reward.pad_id is None:
        groups: list[np.ndarray] = [fits[place : place + 1] for place in range(len(fits))]
    else:
        groups = [fits[group] for group in batches(lengths[fits], np.zeros(len(fits), dtype=bool), tokens_per_batch)]
    for group in track(groups, "rewards", len(groups), unit="batches"):
        values = _forward(reward, [encoded[row] for row in group])
        for row, value in zip(group, values, strict=True):
            scores[row] = value if math.isfinite(value) else f"the reward is {value}"
    return scores


def _encode(tokenizer: Any, prompt: str, response: str) -> Mapping[str, list[int]]:
    """The token ids, and what else the model takes per token."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tokenizer(text, add_special_tokens=False, verbose=False)
    return tokenizer(prompt, response, verbose=False)


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
