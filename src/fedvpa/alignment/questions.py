"""Which of the policy's own candidates users should label: those that preferences disagree on most come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents
from fedvpa.alignment.preferences import PairMargins, selector_margins
from fedvpa.alignment.setup import base_candidates, fresh_policy, latents_of
from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.schema import Text
from fedvpa.selector.posterior import single


@dataclass(frozen=True, slots=True)
class Question:
    """Two responses to a prompt, for somebody to choose from.

    Attributes:
        prompt: The prompt.
        first: One response. Which of the two comes first is drawn, so that the place says nothing.
        second: The other one.
        disagreement: By how many nats preferences differ on it; see :func:`disagreements`.
    """

    prompt: Text
    first: str
    second: str
    disagreement: float


def questions(stage: Stage1, texts: Sequence[Text]) -> list[Question]:
    """A question about each prompt that has two different responses, the one that preferences disagree on most.

    Args:
        stage: The first stage; its selector orders the base policy's samples.
        texts: The prompts.
    """
    policy = fresh_policy(stage)
    candidates = base_candidates(stage, policy, texts, "labelling")
    compared = selector_margins(stage.reward)(candidates, _typical(stage, len(texts)))
    width = disagreements(compared.margins.view(len(texts), -1, len(compared.first)))
    rng = numpy_generator(stage.seed, "questions")
    found = []
    for row, (text, group) in enumerate(zip(texts, candidates.responses, strict=True)):
        answers = [policy.tokenizer.text(ids) for ids in group]
        pair = _widest(width[row], compared, candidates, row, answers)
        swap = rng.random() < 0.5
        if pair is not None:
            first, second = (answers[int(side[pair])] for side in (compared.first, compared.second))
            found.append(Question(text, *((second, first) if swap else (first, second)), float(width[row, pair])))
    return sorted(found, key=lambda question: -question.disagreement)


def disagreements(margins: Float[Tensor, "p latents pairs"]) -> Float[Tensor, "p pairs"]:
    """How far latents disagree about a pair: the smaller of the widest margins in its two orders, in nats.

    It is positive where two latents order the pair in different ways. Of a single latent it is the margin's size.
    """
    if margins.shape[1] == 1:
        return margins[:, 0].abs()
    return torch.minimum(margins.amax(1), -margins.amin(1))


def _widest(
    width: Tensor, compared: PairMargins, candidates: Candidates, row: int, answers: Sequence[str]
) -> int | None:
    """The pair of a prompt to ask about; None if no two of its responses differ and say something."""
    usable = candidates.distinct[row] & torch.tensor([bool(answer.strip()) for answer in answers])
    for pair in width.argsort(descending=True, stable=True).tolist():
        first, second = int(compared.first[pair]), int(compared.second[pair])
        if usable[first] and usable[second] and answers[first] != answers[second]:
            return int(pair)
    return None


def _typical(stage: Stage1, prompts: int) -> Latents:
    """The latents that may disagree, for each prompt: the prototypes, or where there are none what users have."""
    if not stage.personal:
        return latents_of(stage, stage.policies[0], prompts, "labelling")
    known = stage.algorithm.has_prototypes or stage.seen.posterior is None
    z = stage.selector.prototypes if known else stage.seen.z
    z = z.repeat(prompts, 1)
    return Latents(single(z, torch.full_like(z, -4.0)), z, torch.zeros(len(z), dtype=torch.long))
