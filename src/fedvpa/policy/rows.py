"""Prompts and responses as token rows, with room in each row for what z puts before the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.errors import DataError, ModelError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, Text
from fedvpa.models.encoding import PromptIds, TextEncoder, cut_prompt
from fedvpa.models.rendering import Renderer
from fedvpa.models.stops import Stops, stops_of
from fedvpa.models.template_config import TemplateKind
from fedvpa.models.tokens import TokenCounts, frame_of

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
IGNORED = -100
"""The label of a token that is not scored, as transformers and TRL have it."""


def alike(prompts: Sequence[Ids], z: Tensor | None) -> list[bytes]:
    """A key for each prompt that equal prompts under equal z have, and no others.

    Args:
        prompts: Tokens.
        z: A latent per prompt, or none for all.
    """
    latents = [b""] * len(prompts) if z is None else [row.tobytes() for row in z.detach().float().cpu().numpy()]
    return [np.asarray(prompt, np.int32).tobytes() + own for prompt, own in zip(prompts, latents, strict=True)]


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Token rows of one shape.

    Attributes:
        ids: Token ids; at the slots and at padding, the padding token.
        attention: 1 where a row has a token or a slot.
        labels: Token ids of the responses, ``IGNORED`` elsewhere.
        sure: Whether a token of a response is one that the reference policy was sure of; False elsewhere.
        first: The place behind the special tokens in front of each prompt, where its slots are.
    """

    ids: Int[Tensor, "batch time"]
    attention: Int[Tensor, "batch time"]
    labels: Int[Tensor, "batch time"]
    sure: Bool[Tensor, "batch time"]
    first: Int[Tensor, " batch"]

    __repr__ = short_repr

    @property
    def prompt(self) -> Bool[Tensor, "batch time"]:
        """Which tokens are of a prompt, special ones and slots included."""
        return (self.attention == 1) & (self.labels == IGNORED)

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        return Batch(*(part.to(device) for part in (self.ids, self.attention, self.labels, self.sure, self.first)))

    def scored(self) -> Bool[Tensor, "batch following"]:
        """Which of the log-probabilities of :meth:`PolicyModel.forward` belong to tokens."""
        return self.labels[:, 1:] != IGNORED

    def marked(self) -> Bool[Tensor, "batch following"]:
        """Which of them belong to tokens that the reference was sure of."""
        return self.sure[:, 1:]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a row: [bos] slots prompt response.

    Attributes:
        heads: Special tokens that a prompt may begin with (BOS), the longest first; the slots stand behind them.
        slots: Virtual tokens between them and the rest of the prompt.
        pad: The padding token.
    """

    heads: tuple[tuple[int, ...], ...]
    slots: int
    pad: int

    def head(self, prompt: Ids) -> int:
        """How many tokens of a prompt are special ones in front."""
        return next((len(head) for head in self.heads if tuple(prompt[: len(head)].tolist()) == head), 0)

    def rows(
        self, prompts: Sequence[Ids], responses: Sequence[Ids] | None = None, sure: Sequence[Flags] | None = None
    ) -> Batch:
        """One row per prompt: padded on the right with responses (to score), on the left without (to generate)."""
        empty = np.zeros(0, np.int32)
        tails = [empty] * len(prompts) if responses is None else list(responses)
        width = max(len(prompt) + len(tail) for prompt, tail in zip(prompts, tails, strict=True))
        width += self.slots
        ids = np.full((len(prompts), width), self.pad, dtype=np.int64)
        attention, labels = np.zeros_like(ids), np.full_like(ids, IGNORED)
        first, marked = np.zeros(len(prompts), dtype=np.int64), np.zeros(ids.shape, dtype=bool)
        gap = np.full(self.slots, self.pad, np.int32)
        for place, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
            head = self.head(prompt)
            row = np.concatenate([prompt[:head], gap, prompt[head:], tail])
            start = width - len(row) if responses is None else 0
            stop = start + len(row)
            ids[place, start:stop], attention[place, start:stop] = row, 1
            labels[place, stop - len(tail) : stop] = tail
            if sure is not None:
                marked[place, stop - len(tail) : stop] = sure[place]
            first[place] = start + head
        return Batch(*(torch.from_numpy(part) for part in (ids, attention, labels, marked, first)))


@dataclass(frozen=True, repr=False)
class PolicyTokenizer:
    """Texts ↔ tokens of one policy.

    Attributes:
        encoder: Gives the tokens of texts.
        stops: What ends a response.
        max_prompt_tokens: Longer prompts lose tokens on the left, behind the special ones in front.
        max_tokens: Special tokens, prompt and response together: responses of a data set that do not fit lose tokens on
            the right. None for no limit.
    """

    encoder: TextEncoder
    stops: Stops
    max_prompt_tokens: int
    max_tokens: int | None = None

    __repr__ = short_repr

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        max_prompt_tokens: int,
        max_tokens: int | None = None,
        *,
        template: TemplateKind = "plain",
        arguments: Mapping[str, Any] | None = None,
        configurations: Sequence[Any] = (),
    ) -> PolicyTokenizer:
        """Read the special tokens off a tokenizer.

        Args:
            tokenizer: A fast Hugging Face tokenizer.
            max_prompt_tokens: See above.
            max_tokens: See above.
            template: How strings are read.
            arguments: Of the chat template.
            configurations: The model's configurations, which may name further tokens that end a response.

        Raises:
            ModelError: If it has no end-of-text token: a policy could not learn to stop.
        """
        if tokenizer.eos_token_id is None:
            raise ModelError("The policy's tokenizer has no end-of-text token, so no response could end.")
        renderer = Renderer(tokenizer, template, arguments or {})
        encoder = TextEncoder(renderer, frame_of(tokenizer, "causal").before)
        stops = stops_of(renderer.controls, renderer.template.frame(), *configurations)
        return cls(encoder, stops, max_prompt_tokens, max_tokens)

    @property
    def base(self) -> Any:
        """The Hugging Face tokenizer."""
        return self.encoder.tokenizer

    @property
    def before(self) -> tuple[int, ...]:
        """The special tokens in front of a string."""
        return self.encoder.before

    @property
    def eos(self) -> int:
        """The token that ends the response of a data set of strings."""
        return int(self.base.eos_token_id)

    @property
    def pad(self) -> int:
        """The padding token; masked, so its value does not matter."""
        pad = self.base.pad_token_id
        return self.eos if pad is None else int(pad)

    @property
    def conversational(self) -> bool:
        """Whether a string stands for one message of the user."""
        return self.encoder.renderer.kind == "chat"

    def identity(self) -> dict[str, Any]:
        """Everything that decides the tokens of a prompt and where a response ends, for keys of caches."""
        return {
            "template": self.encoder.renderer.kind,
            "arguments": dict(self.encoder.renderer.arguments),
            "rendering": self.encoder.fingerprint,
            "stops": [list(self.stops.tokens), [list(pair) for pair in self.stops.texts]],
        }

    def layout(self, slots: int) -> Layout:
        """Rows with so many slots."""
        bos = self.base.bos_token_id
        heads = {self.before, *(() if bos is None else ((int(bos),),))} - {()}
        return Layout(tuple(sorted(heads, key=lambda head: (-len(head), head))), slots, self.pad)

    def prompts(self, texts: Sequence[Text]) -> list[Ids]:
        """The tokens of prompts, special ones in front included: strings as they are, conversations by the template.

        Prompts that are cut are said.

        Raises:
            DataError: If a prompt has no token, and the tokenizer puts none in front; or the chat template refuses it.
        """
        found = [self.encoder.prompt(text) for text in texts]
        cut = sum(len(prompt.ids) > self.max_prompt_tokens for prompt in found)
        say_cuts(TokenCounts(prompts_truncated=cut), f"{len(texts)} prompts")
        return [self._whole(prompt, text) for prompt, text in zip(found, texts, strict=True)]

    def pairs(self, pairs: Sequence[Pair]) -> tuple[list[tuple[Ids, Ids, Ids]], TokenCounts]:
        """The tokens of prompt, chosen and rejected response of each pair, and what was kept and cut.

        Each response ends with end-of-text or end-of-turn, unless it is cut. Raises as :meth:`prompts`.
        """
        found, counts = [], TokenCounts()
        for pair, ids in zip(pairs, self.encoder.pairs(pairs), strict=True):
            prompt = self._whole(ids.prompt, pair.prompt)
            room = None if self.max_tokens is None else self.max_tokens - len(prompt)
            full = [response if ids.conversation else self._ended(response) for response in (ids.chosen, ids.rejected)]
            chosen, rejected = (response[:room] for response in full)
            found.append((prompt, chosen, rejected))
            kept = len(prompt) - len(ids.prompt.head)
            counts += TokenCounts(
                prompt_tokens=kept,
                response_tokens=len(chosen) + len(rejected),
                prompts_truncated=int(kept < len(ids.prompt.ids)),
                responses_truncated=(len(chosen) < len(full[0])) + (len(rejected) < len(full[1])),
            )
        return found, counts

    def text(self, ids: Sequence[int] | Ids) -> str:
        """What tokens say, special ones and those that end a response left out."""
        said = [int(token) for token in ids if int(token) not in self.stops.tokens]
        return str(self.base.decode(said, skip_special_tokens=True))

    def stop_texts(self, prompt: Ids) -> tuple[str, ...]:
        """The texts that end a response to a prompt, besides the tokens that do."""
        return self.stops.texts_for(str(self.base.decode(prompt.tolist())))

    def encode(self, text: str) -> Ids:
        """The tokens of a text as it is, without the special ones in front."""
        return self.encoder.encode([text])[0]

    def _ended(self, response: Ids) -> Ids:
        """A response of a data set of strings, with its end."""
        if len(response) and int(response[-1]) in self.stops.tokens:
            return response
        return np.append(response, np.int32(self.eos))

    def _whole(self, prompt: PromptIds, text: Text) -> Ids:
        if not len(prompt.ids) and not prompt.head:
            raise DataError(
                f"The prompt {text!r} has no tokens, and this policy's tokenizer puts none in front: a response would "
                "follow nothing.",
                fix="Give a prompt with text.",
            )
        kept = cut_prompt(prompt.ids, self.max_prompt_tokens)
        return np.concatenate([np.asarray(prompt.head, np.int32), kept])


def equal_rows(tokens: Sequence[tuple[Ids, Ids, Ids]]) -> list[int]:
    """Which pairs, from :meth:`PolicyTokenizer.pairs`, have two equal responses: there is nothing in them to learn."""
    return [row for row, (_, chosen, rejected) in enumerate(tokens) if np.array_equal(chosen, rejected)]


def say_cuts(counts: TokenCounts, whose: str) -> None:
    """One line on stderr if texts lost tokens."""
    if counts.prompts_truncated or counts.responses_truncated:
        say(f"{whose}, cut to fit: {counts.prompts_truncated} prompts, {counts.responses_truncated} responses")
