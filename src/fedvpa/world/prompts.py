"""The prompts of the bundled world: intents, templates, and pools of prompts that never mix.

A prompt is one intent in one template. Which pool it belongs to depends on its text only, so that nothing that is
added to a run can move a prompt from evaluation into training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import get_args

from fedvpa.core.errors import ConfigError, DataError, nearest
from fedvpa.core.seeds import entropy
from fedvpa.world.config import Pool
from fedvpa.world.lexicon import TEMPLATES, TOPICS

_POOL_SEED = 0
# Out of 10. Chosen by us: the test pool has to hold well over the 500 prompts that an evaluation asks for.
_TRAIN_TENTHS, _VALIDATION_TENTHS = 7, 1


@dataclass(frozen=True, slots=True)
class Intent:
    """What somebody asks about.

    Attributes:
        goal: A verb phrase, unique in the world.
        topic: The name of its topic.
        risky: Whether helping may do harm.
        details: The on-topic nouns, shared by the intents of a topic and by nobody else.
    """

    goal: str
    topic: str
    risky: bool
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One intent in one template.

    Attributes:
        text: The prompt as a user writes it.
        intent: What it asks about.
        pool: The pool it belongs to.
    """

    text: str
    intent: Intent
    pool: Pool


@cache
def intents() -> tuple[Intent, ...]:
    """All intents: 120 benign ones, then 120 risky ones."""
    return tuple(Intent(goal, topic.name, topic.risky, topic.details) for topic in TOPICS for goal in topic.goals)


@cache
def prompts(pool: Pool | None = None) -> tuple[Prompt, ...]:
    """The prompts of one pool in a fixed order, or all of them.

    The pools are disjoint as texts; every intent occurs in the training pool, in other templates.

    Args:
        pool: ``train`` (about 70%), ``validation`` (10%) or ``test`` (20%); None for all.

    Raises:
        ConfigError: For an unknown pool.
    """
    if pool is None:
        texts = ((template.format(goal=intent.goal), intent) for intent in intents() for template in TEMPLATES)
        return tuple(Prompt(text, intent, _pool(text)) for text, intent in texts)
    if pool not in get_args(Pool):
        raise ConfigError(f"There is no prompt pool {pool!r}.", fix=nearest(pool, get_args(Pool)))
    return tuple(prompt for prompt in prompts() if prompt.pool == pool)


def find_prompt(text: str) -> Prompt:
    """The prompt with this text.

    Raises:
        DataError: If the world has no such prompt: its judge only knows answers to its own questions.
    """
    prompt = _by_text().get(text)
    if prompt is None:
        raise DataError(
            f"The bundled world has no prompt {text!r}, so no answer to it can be judged.",
            fix=f"Use one of fedvpa.world.prompts.prompts(), for example {prompts()[0].text!r}.",
        )
    return prompt


@cache
def _by_text() -> dict[str, Prompt]:
    return {prompt.text: prompt for prompt in prompts()}


def _pool(text: str) -> Pool:
    tenth = entropy(_POOL_SEED, "world-pool", text) % 10
    if tenth < _TRAIN_TENTHS:
        return "train"
    return "validation" if tenth < _TRAIN_TENTHS + _VALIDATION_TENTHS else "test"
