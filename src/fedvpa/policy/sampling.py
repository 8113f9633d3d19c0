"""How responses are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import GREEDY_TEMPERATURE
from fedvpa.core.options import option


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        temperature: 0 for greedy decoding.
        top_p: Nucleus.
        max_new_tokens: Longest response.
        batch: Responses at once.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    batch: int = 64


def check_sampling(temperature: float, top_p: float, max_new_tokens: int | None = None) -> None:
    """Refuse numbers with which nothing can be drawn; arguments as of :class:`Sampling`.

    Raises:
        ConfigError: For the first of them: a temperature that logits cannot be divided by in float32, a nucleus without
            any share of the vocabulary, a response without any token.
    """
    try:
        GREEDY_TEMPERATURE(temperature)
    except ConfigError as error:
        raise ConfigError(error.problem, fix=error.fix, where=option("temperature")) from None
    if not 0 < top_p <= 1:
        raise ConfigError(
            f"{option('top_p', str(top_p))} keeps no share of the vocabulary.", fix="Give more than 0, and at most 1."
        )
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ConfigError(f"{option('max_new_tokens', str(max_new_tokens))} leaves no room.", fix="Give at least 1.")


SERVING = Sampling(temperature=0.7)
"""How users' prompts are answered. Chosen by us: what the judges compare, too."""
