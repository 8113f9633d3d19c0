"""Prompts to align on, to stop by and to judge on; none is in two of them.

The bundled world has public pools. Of other data the prompts of the training pairs are used, as the paper does, unless
``policy.candidates.prompt_file`` gives public ones: then no user's prompt leaves a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import DataError
from fedvpa.core.seeds import Label, entropy, numpy_generator
from fedvpa.data.schema import Text
from fedvpa.world.config import Pool
from fedvpa.world.prompts import prompts

VALIDATION_TENTHS = 1
"""Of ten prompts of a data set, so many choose the stopping step. Chosen by us."""


def public_prompts(stage: Stage1) -> tuple[list[Text], list[Text]]:
    """Prompts to align on, and prompts to stop by; users' test prompts are in neither.

    Raises:
        DataError: If the prompt file cannot be read, or there are too few prompts.
    """
    limits, seed = stage.policy.candidates, stage.seed
    if stage.world and limits.prompt_file is None:
        return world_prompts("train", limits.prompts, seed), world_prompts(
            "validation", limits.validation_prompts, seed
        )
    texts = read_prompts(limits.prompt_file) if limits.prompt_file else stage.pairs.training_prompts()
    held = [text for text in texts if entropy(0, "validation-prompt", repr(text)) % 10 < VALIDATION_TENTHS]
    aside = set(held)
    kept = [text for text in texts if text not in aside]
    if not kept or not held:
        raise DataError(f"{len(texts)} prompts are too few to align on and to stop by.", fix="Give more prompts.")
    return draw(kept, limits.prompts, seed, "train"), draw(held, limits.validation_prompts, seed, "validation")


def evaluation_prompts(stage: Stage1, count: int) -> list[Text]:
    """Prompts that no training has seen: of the world's test pool, or of users' test pairs.

    Raises:
        DataError: If there is none.
    """
    if stage.world:
        return world_prompts("test", count, stage.seed)
    used = set(stage.pairs.training_prompts())
    texts = [text for text in stage.pairs.test_prompts() if text not in used]
    if not texts:
        raise DataError("No test prompt is left that training has not seen.", fix="Split by prompt, or give more data.")
    return draw(texts, count, stage.seed, "test")


def world_prompts(pool: Pool, count: int, seed: int) -> list[Text]:
    """Some prompts of a pool of the bundled world."""
    return draw([prompt.text for prompt in prompts(pool)], count, seed, pool)


def draw(texts: Sequence[Text], count: int, seed: int, *path: Label) -> list[Text]:
    """Up to ``count`` of the texts, in a random order that (seed, path) names."""
    order = numpy_generator(seed, "policy-prompts", *path).permutation(len(texts))
    return [texts[row] for row in order[:count]]


def read_prompts(path: Path) -> list[Text]:
    """The distinct lines of a text file that hold something.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read ({error}).", fix="Give a text file, one prompt a line.", where=str(path)
        ) from error
    return list(dict.fromkeys(line for line in lines if line.strip()))
