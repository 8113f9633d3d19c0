"""A language model that chooses between two responses: it reads both and says A or B.

The selector of FedBis and FedBiscuit (Wu et al., ICLR 2025, arXiv 2407.03038): the language model with a LoRA reads
:data:`TEMPLATE`, and the two logits of the tokens A and B at the last position are all that counts. Training shows
every pair in both orders; the margin of a pair is the mean over both, so that no preference for a letter enters it,
and swapping the responses changes its sign exactly.

    d(x; a, b) = logit(A) − logit(B) after TEMPLATE(x, a, b)        log-odds that the first of two responses is better
    margin(y⁺, y⁻) = ½·[d(x; y⁺, y⁻) − d(x; y⁻, y⁺)]
    loss(y⁺, y⁻) = −½·[log σ(d(x; y⁺, y⁻)) + log σ(−d(x; y⁻, y⁺))]   cross-entropy over the two tokens

The logits are those of the output layer's two rows, before a cap that some models put on all of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair
from fedvpa.models.encoding import cut_prompt
from fedvpa.models.stops import Stops
from fedvpa.models.tokens import Limits, TokenCounts
from fedvpa.objectives.bradley_terry import choice_log_likelihood
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids, PolicyTokenizer

TEMPLATE = "{prompt}\nA: {first}\nB: {second}\nWhich is better, A or B?"
"""What the model reads; an answer follows. The instruction is ours and short, since every pair repeats it."""

LETTERS = ((" A", " B"), ("A", "B"))
"""The two answers, in the order of trial: with the space that belongs behind the question, or bare."""

ROWS_AT_ONCE = 16
"""Rows of one forward pass without gradients: more only leave a processor's cache (measured: 64 is 20% slower)."""


@dataclass(frozen=True, repr=False)
class Choices:
    """Pairs as token rows, each in both orders.

    Attributes:
        preferred_first: The row of each pair in which A is the preferred (or simply the first) response.
        preferred_second: The row in which it is B.
        counts: What is left of the texts, and what was cut; of every pair once.
        equal: Pairs that were left out because both responses have the same tokens.
    """

    preferred_first: list[Ids]
    preferred_second: list[Ids]
    counts: TokenCounts
    equal: int = 0

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.preferred_first)

    def width(self) -> Int[np.ndarray, " n"]:
        """Tokens of each pair's row; both orders have as many."""
        return np.array([len(row) for row in self.preferred_first], dtype=np.int64)

    def head(self, count: int) -> Choices:
        """The first so many pairs; what was cut is of all."""
        return Choices(self.preferred_first[:count], self.preferred_second[:count], self.counts, self.equal)

    def differing(self) -> Choices:
        """Those whose two responses differ once they are cut."""
        both = zip(self.preferred_first, self.preferred_second, strict=True)
        kept = [(first, second) for first, second in both if not np.array_equal(first, second)]
        left = len(self) - len(kept)
        return Choices([first for first, _ in kept], [second for _, second in kept], self.counts, self.equal + left)

    def rows(self, pairs: Sequence[int]) -> list[Ids]:
        """The rows of some pairs: all with the preferred one first, then all with it second."""
        return [side[pair] for side in (self.preferred_first, self.preferred_second) for pair in pairs]


@dataclass(frozen=True, repr=False)
class Template:
    """:data:`TEMPLATE` and the two answers in the tokens of one model.

    Attributes:
        tokenizer: The model's tokenizer.
        parts: The tokens between prompt and first response, between the responses, and behind them.
        answers: The tokens of A and B.
        limits: Longest prompt and response, and the model's positions.
    """

    tokenizer: PolicyTokenizer
    parts: tuple[Ids, Ids, Ids]
    answers: tuple[int, int]
    limits: Limits

    __repr__ = short_repr

    @classmethod
    def of(cls, tokenizer: PolicyTokenizer, limits: Limits) -> Template:
        """The template for a tokenizer.

        Raises:
            ModelError: If A and B are not two tokens of it.
            ConfigError: If the template alone fills the model's positions.
        """
        first, second, third = (tokenizer.encode(text) for text in re.split(r"\{\w+\}", TEMPLATE)[1:])
        template = cls(tokenizer, (first, second, third), _answer_tokens(tokenizer), limits)
        if limits.positions is not None and template.room < 3:
            raise ConfigError(
                f"The question for a choice fills the model's {limits.positions} positions alone.",
                fix="Use a language model with more positions.",
            )
        return template

    @property
    def room(self) -> int:
        """Tokens that prompt (with BOS) and responses may have together; a large number where the model sets none."""
        fixed = sum(map(len, self.parts))
        return 2**31 if self.limits.positions is None else self.limits.positions - fixed

    def of_pairs(self, pairs: Sequence[Pair]) -> Choices:
        """Labelled pairs of a data set, without those of equal responses; the chosen response is the preferred one."""
        found = list(self.tokenizer.encoder.pairs(pairs))
        prompts = [np.concatenate([np.asarray(ids.prompt.head, np.int32), ids.prompt.ids]) for ids in found]
        return self.of_tokens(prompts, [ids.chosen for ids in found], [ids.rejected for ids in found]).differing()

    def of_tokens(self, prompts: Sequence[Ids], preferred: Sequence[Ids], others: Sequence[Ids]) -> Choices:
        """Pairs of responses in the model's tokens; what follows the end of a response's text is left out.

        Responses are cut on the right, to the limit and to half of the room; then the prompt on the left.
        """
        preferred_first, preferred_second, counts, layout = [], [], TokenCounts(), self.tokenizer.layout(0)
        for prompt, preferred_response, other in zip(prompts, preferred, others, strict=True):
            whole = [_without_end(response, self.tokenizer.stops) for response in (preferred_response, other)]
            kept = [response[: min(self.limits.response, (self.room - 1) // 2)] for response in whole]
            space = min(self.limits.prompt, self.room - sum(map(len, kept)))
            head = layout.head(prompt)
            kept_prompt = cut_prompt(prompt[head:], space - head)
            opened = np.concatenate([prompt[:head], kept_prompt])
            preferred_first.append(self._row(opened, kept[0], kept[1]))
            preferred_second.append(self._row(opened, kept[1], kept[0]))
            counts += TokenCounts(
                prompt_tokens=len(kept_prompt),
                response_tokens=sum(map(len, kept)),
                prompts_truncated=int(len(opened) < len(prompt)),
                responses_truncated=sum(len(cut) < len(full) for cut, full in zip(kept, whole, strict=True)),
            )
        return Choices(preferred_first, preferred_second, counts)

    def _row(self, prompt: Ids, first: Ids, second: Ids) -> Ids:
        return np.concatenate([prompt, self.parts[0], first, self.parts[1], second, self.parts[2]])


def log_odds(policy: Policy, template: Template, rows: Sequence[Ids]) -> Float[Tensor, " rows"]:
    """The d of each row: logit of A minus logit of B behind its last token, in nats.

    Padding lies on the right, where a causal model does not see it.
    """
    batch = policy.layout.rows(rows, [np.zeros(0, np.int32)] * len(rows)).to(policy.device)
    causal = policy.model.get_base_model()
    states = causal.base_model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
    last = states[torch.arange(len(rows), device=states.device), batch.attention.sum(1) - 1]
    output = causal.get_output_embeddings()
    answers = torch.tensor(template.answers, device=states.device)
    bias = None if output.bias is None else output.bias[answers].float()
    logits = linear(last.float(), output.weight[answers].float(), bias)
    return logits[:, 0] - logits[:, 1]


def losses(policy: Policy, template: Template, choices: Choices, pairs: Sequence[int]) -> Float[Tensor, " pairs"]:
    """Cross-entropy over the two answers for some pairs, the mean of both orders, in nats; with gradients."""
    first, second = log_odds(policy, template, choices.rows(pairs)).split(len(pairs))
    return -(choice_log_likelihood(first) + choice_log_likelihood(-second)) / 2


@torch.no_grad()
def both_log_odds(policy: Policy, template: Template, choices: Choices) -> Float[Tensor, "2 pairs"]:
    """Both d of all pairs, with the preferred response first and with it second. Rows of like length together."""
    training = policy.training
    policy.eval()
    order = np.argsort(choices.width(), kind="stable")
    log_odds_of_all = torch.zeros(2, len(choices))
    for start in range(0, len(order), ROWS_AT_ONCE // 2):
        pairs = order[start : start + ROWS_AT_ONCE // 2]
        odds = log_odds(policy, template, choices.rows(pairs.tolist())).cpu()
        log_odds_of_all[:, torch.from_numpy(pairs)] = odds.view(2, -1)
    policy.train(training)
    return log_odds_of_all


def margins(odds: Float[Tensor, "2 pairs"]) -> Float[Tensor, " pairs"]:
    """The margin of each pair from :func:`both_log_odds`; positive where the preferred response wins, in nats."""
    return (odds[0] - odds[1]) / 2


def mean_loss(odds: Float[Tensor, "2 pairs"], empty: float) -> float:
    """The mean loss of pairs from :func:`both_log_odds`; ``empty`` where there is none."""
    loss = -(choice_log_likelihood(odds[0]) + choice_log_likelihood(-odds[1])) / 2
    return float(loss.mean()) if loss.numel() else empty


def _without_end(ids: Ids, stops: Stops) -> Ids:
    """A response up to its first token that ends one, which is left out."""
    ends = np.isin(ids, stops.tokens).nonzero()[0]
    return ids[: ends[0]] if len(ends) else ids


def _answer_tokens(tokenizer: PolicyTokenizer) -> tuple[int, int]:
    """The tokens of A and B: the first of :data:`LETTERS` that the tokenizer has as two different single tokens."""
    tried = []
    for letters in LETTERS:
        first, second = (tokenizer.encode(letter).tolist() for letter in letters)
        if len(first) == len(second) == 1 and first != second:
            return first[0], second[0]
        tried.append(f"{letters[0]!r} → {first}, {letters[1]!r} → {second}")
    raise ModelError(
        f"The tokenizer has no two single tokens for the answers A and B: {'; '.join(tried)}.",
        fix="Use a language model whose tokenizer knows the letters.",
    )
