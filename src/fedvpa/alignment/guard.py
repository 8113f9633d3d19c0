"""Has a policy kept its language? What a look at the validation prompts must stay within to be admissible.

A selector knows the responses that it was trained on. A policy that has left them, and says the same words again and
again, may well be preferred by it; the base policy, which knows the language, tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.policy.config import GuardConfig
from fedvpa.policy.rows import Ids


@dataclass(frozen=True, slots=True)
class Language:
    """The language of answers beside that of the base policy's own answers to the same prompts.

    Attributes:
        language: Mean log-probability of a token of the answers under the base, in nats.
        base_language: The same of the base's own answers.
        distinct: Distinct-2 of the answers.
        base_distinct: The same of the base's own.
        base_tokens: Mean length of the base's own, in tokens.
    """

    language: float
    base_language: float
    distinct: float
    base_distinct: float
    base_tokens: float


class BaseAnswers(Protocol):
    """Samples of the base policy, such as :class:`~fedvpa.alignment.candidates.Candidates`."""

    @property
    def responses(self) -> Sequence[Sequence[Ids]]:
        """For each prompt the tokens of its samples."""

    @property
    def reference(self) -> Sequence[Sequence[NDArray[Any]]]:
        """For each prompt the log-probabilities of its samples' tokens under the base, in nats."""


def divergences(own: Sequence[NDArray[np.float32]], said: Sequence[NDArray[np.float32]]) -> Float[Tensor, " p"]:
    """Differences log π − log π_ref of a policy's own answers, in nats; the mean estimates KL(π ‖ π_ref).

    Args:
        own: The log-probabilities of the tokens of each answer under the policy.
        said: The same under the base.
    """
    ours, theirs = (torch.tensor([float(part.sum()) for part in parts]) for parts in (own, said))
    return ours - theirs


def language_of(
    answers: Sequence[Ids], said: Sequence[NDArray[np.float32]], base: BaseAnswers, rows: Sequence[int]
) -> Language:
    """The language of some answers.

    Args:
        answers: One to each prompt.
        said: The log-probabilities of their tokens under the base.
        base: The base policy's samples of the same prompts.
        rows: Which prompts.
    """
    own = [answers[row] for row in rows]
    theirs = [base.responses[row][0] for row in rows]
    distinct, base_distinct = distinct_beside(own, theirs)
    every = [part for row in rows for part in base.reference[row]]
    return Language(
        per_token([said[row] for row in rows]),
        per_token(every),
        distinct,
        base_distinct,
        sum(map(len, every)) / max(len(every), 1),
    )


def per_token(parts: Sequence[NDArray[np.float32]]) -> float:
    """The mean over all tokens of all answers; 0 of none."""
    tokens = sum(map(len, parts))
    return float(sum(float(part.sum()) for part in parts) / max(tokens, 1))


def distinct_pairs(answers: Sequence[Ids]) -> float:
    """Distinct-2: how many pairs of neighbouring tokens differ, over how many there are (Li et al., arXiv 1510.03055).

    More tokens repeat more, so that only answers of like length can be compared. 0 where there is no pair.
    """
    pairs = [pair for ids in answers for pair in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True)]
    return len(set(pairs)) / max(len(pairs), 1)


def distinct_beside(own: Sequence[Ids], others: Sequence[Ids]) -> tuple[float, float]:
    """Distinct-2 of answers and of others to the same prompts, each cut as the other one."""
    both = [(one[: len(other)], other[: len(one)]) for one, other in zip(own, others, strict=True)]
    return distinct_pairs([one for one, _ in both]), distinct_pairs([other for _, other in both])


def refusals(limits: GuardConfig, kl: Mapping[str, float], language: Mapping[str, Language]) -> list[str]:
    """Why a look is not admissible, one clause for each limit that is passed; none if it is.

    Args:
        limits: How far a policy may go.
        kl: Prototype, or ``""`` for all prompts → KL of an answer, in nats.
        language: The same names → the language of the answers. All prompts come first; what they pass is not said of
            prototypes again.
    """
    found: dict[str, str] = {}
    for name, spoken in language.items():
        whose = f" at prototype {name}" if name else ""
        moved = kl[name] / max(spoken.base_tokens, 1.0)
        drop = spoken.base_language - spoken.language
        if moved > limits.max_kl:
            clause = f"KL of {moved:.2f} nats a token{whose} (policy.guard.max_kl={limits.max_kl:g})"
            found.setdefault("kl", clause)
        if drop > limits.max_drop:
            clause = f"words {drop:.2f} nats a token less likely to the base than its own{whose}"
            found.setdefault("drop", f"{clause} (policy.guard.max_drop={limits.max_drop:g})")
        if spoken.distinct < limits.min_distinct * spoken.base_distinct:
            clause = f"distinct-2 of {spoken.distinct / spoken.base_distinct:.2f} of the base's{whose}"
            found.setdefault("distinct", f"{clause} (policy.guard.min_distinct={limits.min_distinct:g})")
    return list(found.values())
