"""Which waiting requests may join the running ones: as many as there are rows, and as their tokens fit into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch

from fedvpa.core.errors import ConfigError
from fedvpa.models.agreement import probe_tokens
from fedvpa.models.budget import token_budget
from fedvpa.models.memory import free_memory
from fedvpa.policy.policy import Policy
from fedvpa.policy.prefill import prefilled
from fedvpa.serving.row import Row

SHARE = 0.25
"""Of the memory that is free at the start, for keys and values. Buffers grow by doubling and are copied when they do, a
layer at a time, so they may come to twice as much. Chosen by us."""

UNLIMITED = 2**62
"""Tokens of a cache that is not ours."""


class Admission:
    """Lets waiting rows in, the first come first: nobody who needs less memory overtakes.

    Args:
        max_rows: Rows at once.
        cache_tokens: Tokens for which keys and values may be held, padding included: rows × longest row.
        prefill_tokens: Tokens of prompts that are computed between two steps of the running rows; a longer prompt is
            computed alone.
    """

    def __init__(self, max_rows: int, cache_tokens: int, prefill_tokens: int) -> None:
        self.max_rows, self.cache_tokens, self.prefill_tokens = max_rows, cache_tokens, prefill_tokens

    def check(self, row: Row) -> None:
        """Refuse what would not fit alone.

        Raises:
            ConfigError: If prompt and answer are longer than all memory for keys and values.
        """
        if row.longest > self.cache_tokens:
            raise ConfigError(
                f"A prompt of {row.prompt_tokens} tokens and an answer of {row.request.sampling.max_new_tokens} need "
                f"more memory than this server has for keys and values: {self.cache_tokens} tokens.",
                fix="Ask for a shorter answer, or give a shorter prompt.",
            )

    def admit(self, waiting: deque[Row], running: Iterable[Row]) -> list[Row]:
        """Take from the front of ``waiting`` what may join now."""
        inside, found, tokens = list(running), list[Row](), 0
        while waiting and len(inside) < self.max_rows:
            row = waiting[0]
            longest = max(other.longest for other in [*inside, row])
            if (len(inside) + 1) * longest > self.cache_tokens and inside:
                break
            if found and tokens + row.prompt_tokens > self.prefill_tokens:
                break
            tokens += row.prompt_tokens
            inside.append(row)
            found.append(waiting.popleft())
        return found


def admission_of(policy: Policy, max_rows: int, cache_tokens: int | None) -> Admission:
    """The admission of a policy's engine.

    Args:
        policy: Whose keys and values.
        max_rows: See :class:`Admission`.
        cache_tokens: See :class:`Admission`; None for as many as :data:`SHARE` of the free memory holds.
    """
    if cache_tokens is None:
        cache_tokens = max(1, int(SHARE * free_memory(policy.device)) // _bytes_per_token(policy))
    return Admission(max_rows, cache_tokens, token_budget(policy.tokens_per_batch, policy.device.type))


@torch.no_grad()
def _bytes_per_token(policy: Policy) -> int:
    tokens = probe_tokens(policy.model.get_base_model(), 1)
    with policy.reference() as base:
        layers = prefilled(base, [tokens], None).layers
    return sum(part.numel() * part.element_size() for layer in layers for part in layer.states)
