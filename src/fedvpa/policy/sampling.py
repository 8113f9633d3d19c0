"""How responses are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        temperature: 0 for greedy decoding.
        top_p: Nucleus.
        max_new_tokens: Longest response.
        batch: Prompts at once.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    batch: int = 64


SERVING = Sampling(temperature=0.7)
"""How users' prompts are answered. Chosen by us: what the judges compare, too."""
