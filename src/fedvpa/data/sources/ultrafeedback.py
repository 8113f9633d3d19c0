"""Sources ``ultrafeedback``, ``uf-p-2`` and ``uf-p-4``: groups that each care for one aspect of an answer.

Cui et al., "UltraFeedback", https://arxiv.org/abs/2310.01377; hub id ``openbmb/UltraFeedback``. Licence: MIT; answers
and ratings come from language models with terms of their own, GPT-4's among them.

- **A user**: there is none, so pairs are dealt to clients (``partition.kind=group``). **A group** is an aspect:
  instruction following, honesty, truthfulness or helpfulness, as GPT-4 rated them.
- **Pairs**: two of a prompt's four answers, the same two for all aspects; for each aspect the one that it rates
  higher. Where an aspect rates both alike, or one not at all (``N/A``), it has no pair.
- **Hold out by** ``prompt``: all aspects judge the same prompts.

``uf-p-2`` and ``uf-p-4`` are UltraFeedback-P of "Personalizing RLHF with Variational Preference Learning" (Poddar et
al., https://arxiv.org/abs/2408.10075, section 6) in our reading: helpfulness and honesty, or all four aspects, and
answers on which the aspects disagree. VPL takes the two answers from a cleaned, binarised copy of the set and we draw
them, so figures are near to, and not those of, its table.

Layout: ``instruction`` and ``completions``, each with a ``response`` and ``annotations`` of the aspects with a
``Rating`` from 1 to 5; one prompt a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fedvpa.core.numbers import Seed
from fedvpa.core.seeds import entropy
from fedvpa.data.expand import Candidate, Layout, column, expand, number, objects
from fedvpa.data.messages import Skip
from fedvpa.data.schema import PairTable
from fedvpa.data.sources.base import Source, listed
from fedvpa.data.sources.published import Place, PublishedKeys

PLACE = Place("openbmb/UltraFeedback")
Aspect = Literal["instruction_following", "honesty", "truthfulness", "helpfulness"]
SAME_RATING, NO_RATING = "an aspect rates both answers alike", "an aspect rates an answer not at all"
AGREED = "the aspects agree on all answers of the prompt (data.settings.disagreeing)"
FEW = "the prompt has fewer than two answers"

Answers = tuple[Mapping[str, Any], Mapping[str, Any]]


class UltraFeedbackKeys(PublishedKeys):
    """Keys of the source ``ultrafeedback``, set as ``data.settings.disagreeing=true``.

    Attributes:
        aspects: The groups, as a list or between commas.
        disagreeing: Read only answers of which one aspect prefers the first and another one the second.
        seed: Which two of a prompt's answers are the pair. Set as ``data.seed``.
    """

    aspects: Annotated[tuple[Aspect, ...], BeforeValidator(listed), Field(min_length=1)] = (
        "instruction_following",
        "honesty",
        "truthfulness",
        "helpfulness",
    )
    disagreeing: bool = False
    seed: Seed = 0


class TwoKeys(UltraFeedbackKeys):
    """Keys of the source ``uf-p-2``."""

    aspects: Annotated[tuple[Aspect, ...], BeforeValidator(listed), Field(min_length=1)] = ("helpfulness", "honesty")
    disagreeing: bool = True


class FourKeys(UltraFeedbackKeys):
    """Keys of the source ``uf-p-4``."""

    disagreeing: bool = True


def read(config: UltraFeedbackKeys) -> PairTable:
    """Read the prompts.

    Args:
        config: The keys of this source.

    Returns:
        The pairs, with the aspect as group, and the report of what was left out.

    Raises:
        DataError: If the files are missing, broken or in another layout.
    """
    layout = Layout("UltraFeedback", ("instruction", "completions"), partial(_pairs, config))
    return expand(PLACE.shards(config), layout, what=PLACE.named(config), strict=config.strict, share=config.share)


def _pairs(keys: UltraFeedbackKeys, row: Mapping[str, Any], where: str) -> Iterator[Candidate]:
    prompt, answers = column(row, "instruction", str, where), objects(row, "completions", where)
    possible = [
        (one, other)
        for one, other in combinations(answers, 2)
        if not keys.disagreeing or len({_sign(one, other, aspect) for aspect in keys.aspects} & {1, -1}) == 2
    ]
    if not possible:
        yield Skip(AGREED if len(answers) > 1 else FEW)
        return
    first, second = min(
        possible, key=lambda pair: entropy(keys.seed, "answers", prompt, *(str(one.get("response")) for one in pair))
    )
    for aspect in keys.aspects:
        sign = _sign(first, second, aspect)
        if not sign:
            yield Skip(NO_RATING if sign is None else SAME_RATING)
            continue
        better, worse = (first, second) if sign > 0 else (second, first)
        yield {"prompt": prompt, "chosen": better.get("response"), "rejected": worse.get("response"), "group": aspect}


def _sign(one: Mapping[str, Any], other: Mapping[str, Any], aspect: str) -> int | None:
    """1 if the aspect prefers the first answer, −1 for the second, 0 for neither; None if one has no rating."""
    first, second = (_rating(answer, aspect) for answer in (one, other))
    return None if first is None or second is None else (first > second) - (first < second)


def _rating(answer: Mapping[str, Any], aspect: str) -> float | None:
    found = answer.get("annotations")
    told = found.get(aspect) if isinstance(found, Mapping) else None
    return number(told.get("Rating")) if isinstance(told, Mapping) else None


FILLS: Mapping[str, Any] = {"partition": {"kind": "group"}}
SOURCE = Source(UltraFeedbackKeys, read, PLACE.check, fills=FILLS)
TWO = Source(TwoKeys, read, PLACE.check, fills=FILLS)
FOUR = Source(FourKeys, read, PLACE.check, fills=FILLS)
