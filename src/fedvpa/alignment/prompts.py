"""Prompts to align on, to stop by and to judge on; none is in two of them.

The bundled world has public pools. Of other data the prompts of the training pairs are used, as the paper does, unless
``policy.candidates.prompt_file`` gives public ones: then no user's prompt leaves a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import DataError
from fedvpa.core.progress import say
from fedvpa.core.seeds import Label, entropy, numpy_generator
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.schema import Text
from fedvpa.policy.config import CandidateConfig
from fedvpa.world.config import Pool
from fedvpa.world.prompts import prompts

VALIDATION_TENTHS = 1
"""Of ten prompts of a data set, so many choose the stopping step; at least one. Chosen by us."""

FEW_PROMPTS, FEW_VALIDATION = 100, 20
"""Below so many prompts to align on, or to stop by, align says so. With 20, a win rate of one half has a standard error
of 0.11. Chosen by us."""


def public_prompts(stage: Stage1) -> tuple[list[Text], list[Text]]:
    """Prompts to align on, and prompts to stop by; none that policies are judged on is in either.

    Of public prompts those are left out that a user's held-out pairs have, and those whose hash holds them out, so that
    a run without its users' text still knows which prompts it must not train on.

    Raises:
        DataError: If the prompt file cannot be read, or there are too few prompts.
    """
    limits, seed = stage.policy.candidates, stage.seed
    if stage.world and limits.prompt_file is None:
        return world_prompts("train", limits.prompts, seed), world_prompts(
            "validation", limits.validation_prompts, seed
        )
    texts = _kept_public(stage, read_prompts(limits.prompt_file, strict=stage.strict)) if limits.prompt_file else None
    texts = _unjudged(stage, stage.pairs.training_prompts() if texts is None else texts)
    places = {text: entropy(0, "validation-prompt", repr(text)) for text in texts}
    held = [text for text in texts if places[text] % 10 < VALIDATION_TENTHS]
    if not held and len(texts) > 1:
        held = [min(texts, key=places.__getitem__)]
    aside = set(held)
    kept = [text for text in texts if text not in aside]
    if not kept or not held:
        raise DataError(
            f"{len(kept)} prompts to align on and {len(held)} to stop by are too few: both need one.",
            fix="Give more prompts: policy.candidates.prompt_file=FILE.",
        )
    check_unseen([*kept, *held], stage.holds_out)
    _say_few(len(kept), len(held), limits)
    return draw(kept, limits.prompts, seed, "train"), draw(held, limits.validation_prompts, seed, "validation")


def _say_few(align: int, stop: int, asked: CandidateConfig) -> None:
    """A line on stderr where prompts are so few that the policy learns little else, or that stopping is by chance."""
    if align < min(FEW_PROMPTS, asked.prompts) or stop < min(FEW_VALIDATION, asked.validation_prompts):
        say(
            f"WARNING: only {align} prompts to align on and {stop} to stop by (asked for: {asked.prompts} and "
            f"{asked.validation_prompts}). A policy of so few prompts may answer no others well. Give more: "
            "policy.candidates.prompt_file=FILE."
        )


def evaluation_prompts(stage: Stage1, count: int) -> list[Text]:
    """Prompts that no training of a policy has seen: of the world's test pool, or of users' held-out pairs.

    ``policy.judging.prompt_file`` gives others. Where the run knows no users' text, the public prompts that alignment
    leaves out are taken.

    Raises:
        DataError: If there is none.
    """
    if stage.policy.judging.prompt_file is not None:
        return draw(_to_judge(stage, stage.policy.judging.prompt_file), count, stage.seed, "test")
    if stage.world:
        return world_prompts("test", count, stage.seed)
    public = stage.policy.candidates.prompt_file
    if public and not stage.has_text:
        say(f"the run's own texts are not there, so policies are judged on prompts of {public} that none trains on")
        texts = [text for text in read_prompts(public, strict=stage.strict) if stage.holds_out(text)]
    else:
        trained = set(read_prompts(public, strict=stage.strict)) if public and stage.private else set()
        texts = [text for text in stage.pairs.test_prompts() if text not in trained]
    if not texts:
        raise DataError(
            "No prompt is left that no policy trains on.",
            fix="Give more prompts, or public ones: policy.candidates.prompt_file=FILE.",
        )
    return draw(texts, count, stage.seed, "test")


def check_unseen(training: Sequence[Text], holds_out: Callable[[Text], bool]) -> None:
    """Every alignment asks this: no prompt that policies are judged on is trained on.

    Args:
        training: The prompts to train on.
        holds_out: Whether a prompt is one to judge on.

    Raises:
        DataError: Naming the first one.
    """
    both = next((text for text in training if holds_out(text)), None)
    if both is not None:
        raise DataError(f"The prompt {str(both)[:60]!r} would train and judge.", fix="Report this: it is a bug.")


def _kept_public(stage: Stage1, texts: Sequence[Text]) -> list[Text]:
    """The public prompts that may train."""
    kept = [text for text in texts if not stage.holds_out(text)]
    if len(kept) < len(texts):
        say(f"{len(texts) - len(kept)} of {len(texts)} public prompts are held out for judging")
    return kept


def _unjudged(stage: Stage1, texts: Sequence[Text]) -> list[Text]:
    """Prompts to train on without those of ``policy.judging.prompt_file``."""
    judging = stage.policy.judging.prompt_file
    judged = set() if judging is None else set(read_prompts(judging, strict=stage.strict))
    return [text for text in texts if text not in judged]


def _to_judge(stage: Stage1, file: Path) -> list[Text]:
    """The prompts of a file that no training has seen, neither stage 1 nor stage 2.

    Raises:
        DataError: If there is none.
    """
    public = stage.policy.candidates.prompt_file
    trained = set(read_prompts(public, strict=stage.strict)) if public else set()
    trained |= set(stage.pairs.training_prompts()) if stage.has_text else set()
    texts = read_prompts(file, strict=stage.strict)
    kept = [text for text in texts if text not in trained]
    if len(kept) < len(texts):
        say(f"{len(texts) - len(kept)} of {len(texts)} prompts of {file} train, and do not judge")
    if not kept:
        raise DataError(
            f"its prompts all train ({len(texts)})." if texts else "holds no prompt.",
            fix="Give other prompts: policy.judging.prompt_file=FILE.",
            where=str(file),
        )
    return kept


def world_prompts(pool: Pool, count: int, seed: int) -> list[Text]:
    """Some prompts of a pool of the bundled world."""
    return draw([prompt.text for prompt in prompts(pool)], count, seed, pool)


def draw(texts: Sequence[Text], count: int, seed: int, *path: Label) -> list[Text]:
    """Up to ``count`` of the texts, in a random order that (seed, path) names."""
    order = numpy_generator(seed, "policy-prompts", *path).permutation(len(texts))
    return [texts[row] for row in order[:count]]
