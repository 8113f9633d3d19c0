"""Answers side by side: the base policy's beside those of policies or of latents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedvpa.core.errors import DataError
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.summaries import JsonResult

BASE = "base"
"""The label of the base policy's answers."""


@dataclass(frozen=True, slots=True)
class LabelledAnswer(JsonResult):
    """One answer of a side-by-side sample.

    Attributes:
        label: Who answered, such as ``base`` or ``z at 25%``.
        text: The answer.
        utilities: Preference → what the answer is worth; empty where the judge knows no utilities.
    """

    label: str
    text: str
    utilities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SideBySide(JsonResult):
    """Several answers to one prompt.

    Attributes:
        prompt: The prompt.
        answers: The base policy's answer first.
    """

    prompt: str
    answers: tuple[LabelledAnswer, ...]


def side_by_side(outcomes_by_label: Mapping[str, Iterable[Outcome]], prompts: Iterable[str]) -> tuple[SideBySide, ...]:
    """The base policy's answer to each prompt beside those of policies or latents.

    Args:
        outcomes_by_label: Name of a policy or of a latent → its outcomes; where it answered a prompt in several seeds
            or for several users, the first of them in order of seed and user is shown. The base policy's answer is
            that of the first label's outcome.
        prompts: Which prompts to show.

    Raises:
        DataError: If a prompt was not answered under every label.
    """
    by_prompt = {label: _by_prompt(outcomes) for label, outcomes in outcomes_by_label.items()}
    return tuple(_sample(prompt, by_prompt) for prompt in prompts)


def _by_prompt(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of the first seed and user that answered each prompt, by preference."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.seed, outcome.user_id, outcome.preference)):
        same = found[outcome.prompt]
        if not same or (same[0].seed, same[0].user_id) == (outcome.seed, outcome.user_id):
            same.append(outcome)
    return found


def _sample(prompt: str, by_prompt: Mapping[str, Mapping[str, Sequence[Outcome]]]) -> SideBySide:
    answers: list[LabelledAnswer] = []
    for label, answered in by_prompt.items():
        if prompt not in answered:
            raise DataError(f"{prompt!r} has no answer of {label!r}.", fix="Show prompts that all answered.")
        found = answered[prompt]
        if not answers:
            utilities = {o.preference: o.base_utility for o in found if o.base_utility is not None}
            answers.append(LabelledAnswer(BASE, found[0].base_response, utilities))
        utilities = {o.preference: o.utility for o in found if o.utility is not None}
        answers.append(LabelledAnswer(label, found[0].response, utilities))
    return SideBySide(prompt, tuple(answers))
