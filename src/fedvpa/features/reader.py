"""A language model as extraction reads it: its limits, and from pairs to tokens and what is noted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair
from fedvpa.features.backbone import Backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.forward import check_causal, dimension, sharing_obstacle
from fedvpa.features.keys import Keys, pair_keys, token_keys
from fedvpa.features.records import PAIR, Facts, Reason, Records
from fedvpa.features.tokens import NOTE, Row, tokenise
from fedvpa.features.work import Work, plan
from fedvpa.models.encoding import TextEncoder
from fedvpa.models.rendering import Renderer
from fedvpa.models.tokens import Frame, Limits, frame_of


@dataclass(frozen=True, slots=True, repr=False)
class Read:
    """Pairs as a language model reads them.

    Attributes:
        rows: The tokens of each pair.
        records: What is noted of each; ``texts`` are numbers into ``keys``.
        reasons: Why pairs cannot be read, as the records number them.
        keys: Of the distinct responses, by their tokens.
        first: For each distinct response the place of the first pair that holds it.
    """

    rows: list[Row]
    records: Records
    reasons: list[Reason]
    keys: Keys
    first: Int[np.ndarray, " texts"]

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Reader:
    """How a language model reads pairs.

    Attributes:
        backbone: The model.
        encoder: Gives the tokens of texts.
        frame: Special tokens of the model.
        limits: Lengths to truncate to.
        facts: What it is to extraction.
    """

    backbone: Backbone
    encoder: TextEncoder
    frame: Frame
    limits: Limits
    facts: Facts

    __repr__ = short_repr

    @classmethod
    def of(cls, backbone: Backbone, config: FeatureConfig) -> Reader:
        """A model and what must be known about it.

        Raises:
            ModelError: If the model sees the future though it counts as decoder-only.
        """
        frame = frame_of(backbone.tokenizer, backbone.kind)
        if backbone.kind == "causal":
            check_causal(backbone)
        return cls(
            backbone=backbone,
            encoder=encoder_of(backbone, config, frame),
            frame=frame,
            limits=Limits(config.max_prompt_tokens, config.max_response_tokens, backbone.positions),
            facts=Facts(backbone.kind, dimension(backbone), sharing_obstacle(backbone), backbone.window),
        )

    def read(self, pairs: Sequence[Pair]) -> Read:
        """Tokenise pairs and find their distinct responses.

        Raises:
            ModelError: If a conversation meets a tokenizer without a usable chat template.
        """
        found = tokenise(pairs, self.encoder, frame=self.frame, kind=self.backbone.kind, limits=self.limits)
        keys, first, numbers = np.unique(token_keys(found.rows), return_index=True, return_inverse=True)
        reasons = [Reason(error.problem, error.fix) for error in found.refused.values()]
        distinct = list(dict.fromkeys(reasons))
        records = np.zeros(len(pairs), PAIR)
        records["key"] = pair_keys(pairs)
        records["texts"] = numbers.reshape(-1, 2)
        records["shares"] = [self.facts.shares(row.longest) for row in found.rows]
        for name in NOTE.names or ():
            records[name] = found.notes[name]
        for place, reason in zip(found.refused, reasons, strict=True):
            records["reason"][place] = 1 + distinct.index(reason)
        return Read(found.rows, records, distinct, keys, first // 2)

    def plan(self, read: Read, known: Int[np.ndarray, " texts"] | None = None) -> Work:
        """What is to be computed of pairs.

        Args:
            read: The pairs.
            known: Where the features of their distinct responses lie; −1 for those that are nowhere.
        """
        wanted = np.ones(len(read.keys), dtype=bool) if known is None else known < 0
        return plan(read.rows, read.records["texts"], wanted, self.facts, self.frame)


def encoder_of(backbone: Backbone, config: FeatureConfig, frame: Frame) -> TextEncoder:
    """What gives the tokens of texts for features."""
    renderer = Renderer(backbone.tokenizer, config.template, config.template_arguments)
    return TextEncoder(renderer, frame.before, joined=backbone.kind == "causal")
