"""Prompts to align on, to stop by and to judge on; none is in two of them."""

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
"""Of ten prompts of a data set, so many choose the stopping step."""


def public_prompts(stage: Stage1) -> tuple[list[Text], list[Text]]:
    """Prompts to align on, and prompts to stop by; users' test prompts are in neither.

    The bundled world has public pools. Of other data the prompts of the training pairs are used, as the paper does,
    unless ``policy.candidates.prompt_file`` gives public ones: then no user's prompt leaves a device.
    """
    config, limits = stage.config, stage.config.policy.candidates
    if config.data.source == "world" and limits.prompt_file is None:
        return _pool("train", limits.prompts, config.seed), _pool("validation", limits.validation_prompts, config.seed)
    texts = _read_prompts(limits.prompt_file) if limits.prompt_file else _training_prompts(stage)
    held = [text for text in texts if entropy(0, "validation-prompt", repr(text)) % 10 < VALIDATION_TENTHS]
    aside = set(held)
    kept = [text for text in texts if text not in aside]
    if not kept or not held:
        raise DataError(f"{len(texts)} prompts are too few to align on and to stop by.", fix="Give more prompts.")
    return _draw(kept, limits.prompts, config.seed, "train"), _draw(
        held, limits.validation_prompts, config.seed, "validation"
    )


def evaluation_prompts(stage: Stage1, count: int) -> list[Text]:
    """Prompts that no training has seen: of the world's test pool, or of users' test pairs."""
    if stage.config.data.source == "world":
        return _pool("test", count, stage.config.seed)
    partition, table = stage.prepared.federation.partition, stage.prepared.table
    used = set(_training_prompts(stage))
    rows = sorted({int(row) for client in partition.clients for row in client.test})
    texts = list(dict.fromkeys(table.pairs[row].prompt for row in rows if table.pairs[row].prompt not in used))
    if not texts:
        raise DataError("No test prompt is left that training has not seen.", fix="Split by prompt, or give more data.")
    return _draw(texts, count, stage.config.seed, "test")


def _pool(pool: Pool, count: int, seed: int) -> list[Text]:
    return _draw([prompt.text for prompt in prompts(pool)], count, seed, pool)


def _draw(texts: Sequence[Text], count: int, seed: int, *path: Label) -> list[Text]:
    order = numpy_generator(seed, "policy-prompts", *path).permutation(len(texts))
    return [texts[row] for row in order[:count]]


def _training_prompts(stage: Stage1) -> list[Text]:
    partition, table = stage.prepared.federation.partition, stage.prepared.table
    held = {table.pairs[int(row)].prompt for client in partition.clients for row in client.test}
    rows = sorted({int(row) for client in partition.seen for row in client.train})
    return list(dict.fromkeys(table.pairs[row].prompt for row in rows if table.pairs[row].prompt not in held))


def _read_prompts(path: Path) -> list[Text]:
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read ({error}).", fix="Give a text file, one prompt a line.", where=str(path)
        ) from error
    return list(dict.fromkeys(line for line in lines if line.strip()))
