"""A reward model trained on pairs that no method saw: a linear reward of a frozen language model's features.

It stands in for people, or for a large language model as a judge, where neither can be asked. What it says is worth as
much as its accuracy on held-out pairs, which is kept with it. It should read another language model than the selectors
that it judges, since two readers of the same features make the same mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from fedvpa.core.errors import ConfigError, ModelError, nearest
from fedvpa.data.reserve import pair_identity
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.text import plain_text, transcript_messages
from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.features.config import FeatureConfig, SurfaceName
from fedvpa.features.responses import features_of
from fedvpa.models.locate import locate_for
from fedvpa.rewards.base import SETTINGS, HeldOutAccuracy, Score
from fedvpa.rewards.held_out_config import HeldOutConfig
from fedvpa.rewards.held_out_files import SavedJudge, load_judge

SURFACE: tuple[SurfaceName, ...] = ("log_length", "sentences", "questions", "list_items")
"""What is counted in a response's text beside the language model's features."""

NOTHING = "no token that the judge could read"
"""Why an empty response has no reward."""

ENCODER_KEY = ".".join((*SETTINGS, "encoder"))


class HeldOutReward:
    """The rewards of a judge's folder. Each response is read once and its features are kept in memory.

    Args:
        saved: What the folder holds.
        features: How texts are read: ``saved.features`` with the place where the language model is now.
    """

    def __init__(self, saved: SavedJudge, features: FeatureConfig) -> None:
        self._saved, self._features = saved, features
        self._known: dict[tuple[str, str], Float[torch.Tensor, " d"] | None] = {}
        self._backbone: Backbone | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process, which loads the model itself."""
        return {**self.__dict__, "_backbone": None}

    @property
    def name(self) -> str:
        """``held-out``."""
        return "held-out"

    @property
    def accuracy(self) -> Mapping[str, HeldOutAccuracy]:
        """Preference → how often its reward orders pairs right that it was not trained on."""
        return self._saved.accuracy

    @property
    def pairs(self) -> frozenset[int]:
        """Hashes of the pairs that it was trained on."""
        return self._saved.pairs

    @property
    def content(self) -> str:
        """Names the language model that it reads."""
        return self._saved.content

    def score(self, items: Sequence[tuple[Text, str]], preference: str) -> list[Score]:
        """The reward of each (prompt, response), or why there is none. A long text is cut as in training.

        Raises:
            ConfigError: If the judge was not trained on pairs of this preference.
            ModelError: If the language model is not the one that it was trained with.
        """
        if preference not in self._saved.weights:
            raise ConfigError(
                f"The judge has no reward for the preference {preference!r}.",
                fix=nearest(preference, self._saved.weights),
                where="configuration key 'policy.judging.settings.path'",
            )
        texts = [(prompt_text(prompt), response.strip()) for prompt, response in items]
        self._read([item for item in dict.fromkeys(texts) if item not in self._known])
        weights = self._saved.weights[preference].double()
        found = [self._known[item] for item in texts]
        return [NOTHING if one is None else float(one.double() @ weights) for one in found]

    def _read(self, new: Sequence[tuple[str, str]]) -> None:
        """Keep the features of (prompt, response); None of a response in which the language model reads nothing."""
        if not new:
            return
        backbone = self._model()
        tokens = backbone.tokenizer([response for _, response in new], add_special_tokens=False)["input_ids"]
        readable = [item for item, own in zip(new, tokens, strict=True) if len(own)]
        self._known |= dict.fromkeys(new)
        if readable:
            prompts, responses = zip(*readable, strict=True)
            found = features_of(prompts, responses, backbone, self._features)
            self._known |= dict(zip(readable, found, strict=True))

    def _model(self) -> Backbone:
        if self._backbone is None:
            source = locate_for(ENCODER_KEY, self._features.named_model())
            if source.content() != self._saved.content:
                raise ModelError(
                    "is not the language model that the judge was trained with.",
                    fix=f"Say where that is: {ENCODER_KEY}=PATH.",
                    where=self._features.model,
                )
            self._backbone = load_backbone(self._features, source)
        return self._backbone


def make_held_out_reward(settings: Mapping[str, Any]) -> HeldOutReward:
    """The reward of a judge's folder, from the fields of :class:`HeldOutConfig`.

    Raises:
        ConfigError: For an unknown or unusable setting, or a folder without a judge.
        RunError: If the judge is damaged.
    """
    config = HeldOutConfig.parse(settings, *SETTINGS)
    saved = load_judge(Path(config.path).expanduser())
    here = {"model": config.encoder or saved.features.model, "device": config.device}
    return HeldOutReward(saved, saved.features.model_copy(update=here))


def prompt_text(prompt: Text) -> str:
    """A prompt as the judge reads it: the same for a conversation in messages and for one in a transcript."""
    turns = (transcript_messages(prompt) if isinstance(prompt, str) else None) or prompt
    return plain_text(turns).strip()


def as_read(table: PairTable) -> PairTable:
    """Pairs as the judge reads them: plain texts, without white space at their ends."""

    def plain(pair: Pair) -> Pair:
        chosen, rejected = plain_text(pair.chosen).strip(), plain_text(pair.rejected).strip()
        return replace(pair, prompt=prompt_text(pair.prompt), chosen=chosen, rejected=rejected)

    return PairTable(tuple(map(plain, table.pairs)), table.report)


def seen_pairs(known: frozenset[int], pairs: Iterable[Pair]) -> int:
    """How many different pairs of ``known`` are among ``pairs``, whoever labelled them and however."""
    return len(known & {pair_identity(pair) for pair in pairs})
