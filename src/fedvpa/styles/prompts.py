"""Which prompts make pairs, which align a policy, and which judge it: none is in two of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import entropy
from fedvpa.styles.config import SimulationConfig
from fedvpa.styles.pairs import most_pairs

LEAST = 10
"""Fewest prompts. Chosen by us: six make pairs, so that some can be held out, three align, one judges."""

PAIR_TENTHS, ALIGN_OF_REST = 6, 0.75
"""Of ten prompts six make pairs unless it is said how many; of the rest three in four align. Chosen by us."""

Prompt = TypeVar("Prompt")


@dataclass(frozen=True)
class PromptParts(Generic[Prompt]):
    """Prompts by what they are for.

    Attributes:
        pairs: Those that are sampled and labelled.
        align: For ``policy.candidates.prompt_file``.
        judge: For ``policy.judging.prompt_file``.
    """

    pairs: list[Prompt]
    align: list[Prompt]
    judge: list[Prompt]


def split_prompts(prompts: Sequence[Prompt], config: SimulationConfig, where: str) -> PromptParts[Prompt]:
    """Prompts in an order that their texts and the seed decide, cut into three parts.

    Args:
        prompts: All different.
        config: ``pair_prompts``, ``pairs``, ``samples`` and ``seed`` are read.
        where: The file, for messages.

    Raises:
        DataError: If there are too few, of if they do not allow so many pairs of a user.
    """
    if len(prompts) < LEAST:
        word = "prompt" if len(prompts) == 1 else "prompts"
        raise DataError(
            f"holds {len(prompts)} different {word}, and pairs, alignment and judging need prompts of their own.",
            fix=f"Give {LEAST} or more; hundreds are better.",
            where=where,
        )
    count = config.pair_prompts if config.pair_prompts is not None else len(prompts) * PAIR_TENTHS // 10
    if count > len(prompts) - 2:
        raise DataError(
            f"holds {len(prompts)} different prompts, and {count} are to make pairs; alignment and judging need more.",
            fix=f"Make pairs of {len(prompts) - 2} at most.",
            where=where,
        )
    most = most_pairs(count, config.samples)
    if config.pairs > most:
        each = most_pairs(1, config.samples)
        raise DataError(
            f"holds {len(prompts)} different prompts, {count} of which make pairs. With {config.samples} samples "
            f"of each a user can label {most} different pairs, and is to label {config.pairs}.",
            fix=f"Pairs need {-(-config.pairs // each)} prompts with so many samples: give more prompts, ask for more "
            "samples, or for fewer pairs.",
            where=where,
        )
    ordered = sorted(prompts, key=lambda prompt: entropy(config.seed, "styles", "part", repr(prompt)))
    aligning = count + max(1, round((len(prompts) - count) * ALIGN_OF_REST) - (len(prompts) - count < 3))
    return PromptParts(ordered[:count], ordered[count:aligning], ordered[aligning:])
