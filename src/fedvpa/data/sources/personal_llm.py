"""Source ``personal-llm``: simulated users, each a mixture of reward models, who compare eight answers to a prompt.

Zollo et al., "PersonalLLM: Tailoring LLMs to Individual Preferences", https://arxiv.org/abs/2409.20296; hub id
``namkoong-lab/PersonalLLM``. Licence: CC BY 4.0; prompts come from public sets, answers from models with terms of
their own.

- **A user** is simulated: its weights over the set's reward models are drawn from Dirichlet(alpha) (the paper, section
  3), and it prefers the answer with the larger weighted sum of scores, each score standardised over the answers of the
  set. **A group**: there is none; with a small alpha most users follow mainly one reward model.
- **Pairs**: ``pairs_per_user`` prompts for each user, and of each two of its answers, drawn evenly, as the authors'
  interaction data have it.
- **Hold out by** ``split``, the set's own, where ``train`` and ``test`` are read; else by ``prompt``.

Layout: ``prompt``, ``response_1`` … ``response_8`` and a number ``response_1_<reward model>`` for each answer and
reward model; one prompt a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.core.numbers import Concentration, Count, Seed
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.expand import Candidate, Layout, checked, column, expand, number
from fedvpa.data.messages import Skip
from fedvpa.data.schema import PairTable
from fedvpa.data.sources.base import PathKeys, Source
from fedvpa.data.sources.published import Place

PLACE = Place("namkoong-lab/PersonalLLM")
SAME, NO_SCORE = "the user's scores of both answers are equal", "an answer lacks the score of a reward model"

Floats = NDArray[np.float64]
Question = tuple[str, int, int, str]
_ASKED = "asked of users"
"""The key under which a row carries its questions."""


class PersonalLlmKeys(PathKeys):
    """Keys of the source ``personal-llm``.

    Attributes:
        users: How many users are simulated (``data.users``).
        pairs_per_user: Pairs of each (``data.pairs_per_user``).
        seed: Names the draw of users and of their pairs (``data.seed``); apart from a run's seed.
        alpha: The concentration of the users' weights, set as ``data.settings.alpha``. Default: 0.05, chosen by us in
            the range of the paper's 0.01 to 0.1: small is few reward models for each user.
    """

    users: Count = 20
    pairs_per_user: Count = 50
    seed: Seed = 0
    alpha: Concentration = 0.05


def read(config: PersonalLlmKeys) -> PairTable:
    """Draw the users, and read their pairs.

    Args:
        config: The keys of this source.

    Returns:
        The pairs of ``user-0``, ``user-1``, …, and the report of what was left out.

    Raises:
        DataError: If the files are missing, broken or in another layout.
    """
    what = PLACE.named(config)
    layout = Layout("PersonalLLM", ("prompt", "response_1", "response_2"), _pairs)
    files = [(shard, list(checked(shard, layout, what))) for shard in PLACE.shards(config)]
    rows = [row for _, own in files for _, row in own]
    if not (rows and _models(rows[0])):
        raise DataError(
            "has no column response_1_<reward model> with a number, so no user can be simulated.",
            fix="Give the files as they are published.",
            where=what,
        )
    asked = iter(_questions(config, _scores(rows)))
    shards = [
        replace(shard, rows=iter([(place, {**row, _ASKED: next(asked)}) for place, row in own])) for shard, own in files
    ]
    return expand(shards, replace(layout, splits=True), what=what, strict=config.strict)


def _models(row: Mapping[str, Any]) -> list[str]:
    """The reward models that scored a row, sorted."""
    named = ((re.fullmatch(r"response_1_(.+)", name), value) for name, value in row.items())
    return sorted(found[1] for found, value in named if found and isinstance(value, int | float))


def _scores(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """What each reward model gives each answer, standardised over all answers; nan where it is missing.

    Returns:
        [rows, answers, models].
    """
    models = _models(rows[0])
    answers = [place for place in range(1, len(rows[0]) + 1) if f"response_{place}" in rows[0]]
    given = [[[number(row.get(f"response_{place}_{model}")) for model in models] for place in answers] for row in rows]
    scores = np.array(given, dtype=np.float64)
    spread = np.nanstd(scores, axis=(0, 1))
    standard: Floats = (scores - np.nanmean(scores, axis=(0, 1))) / np.where(spread > 0, spread, 1.0)
    return standard


def _questions(config: PersonalLlmKeys, scores: Floats) -> list[list[Question]]:
    """What each row's users are asked: who, which answer is preferred, and which one not; as numbers from 1.

    The draw of a user depends on nobody else. Without a decision both answers stand in their order, after the reason.
    """
    questions: list[list[Question]] = [[] for _ in scores]
    for user in (f"user-{place}" for place in range(config.users)):
        draw = numpy_generator(config.seed, "personal-llm", user)
        weights = draw.dirichlet(np.full(scores.shape[-1], config.alpha))
        for row in draw.choice(len(scores), min(config.pairs_per_user, len(scores)), replace=False):
            one, other = draw.choice(scores.shape[1], 2, replace=False)
            gain = float(weights @ (scores[row, one] - scores[row, other]))
            better, worse = (one, other) if gain > 0 else (other, one)
            reason = NO_SCORE if np.isnan(gain) else SAME if gain == 0 else ""
            questions[row].append((user, int(better) + 1, int(worse) + 1, reason))
    return questions


def _pairs(row: Mapping[str, Any], where: str) -> Iterator[Candidate]:
    prompt = column(row, "prompt", str, where)
    for user, better, worse, reason in row[_ASKED]:
        texts = {"prompt": prompt, "chosen": row.get(f"response_{better}"), "rejected": row.get(f"response_{worse}")}
        yield Skip(reason) if reason else {**texts, "user_id": user}


SOURCE = Source(PersonalLlmKeys, read, PLACE.check, fills={"partition": {"kind": "natural"}})
