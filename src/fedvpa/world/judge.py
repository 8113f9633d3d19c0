"""The exact judge of the bundled world: what a text is worth to somebody, with nothing estimated.

Any text can be judged. Text outside the grammar is not repaired: it gets less than the worst text inside, and is
counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedvpa.world.grammar import Failure, Parsed, parse
from fedvpa.world.prompts import find_prompt
from fedvpa.world.utility import Utility


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a text is worth.

    Attributes:
        utility: In the units of the utility's weights; the worst there is for text outside the grammar.
        reading: The attributes, or why there are none.
    """

    utility: float
    reading: Parsed | Failure

    @property
    def parsed(self) -> bool:
        """Whether the text is inside the grammar."""
        return isinstance(self.reading, Parsed)


def judge(prompt: str, text: str, utility: Utility) -> Judgement:
    """What ``text`` is worth as an answer to ``prompt``.

    Args:
        prompt: A prompt of the world.
        text: Any text.
        utility: Whose taste decides.

    Raises:
        DataError: If the prompt is not one of the world's.
    """
    reading = parse(prompt, text)
    if isinstance(reading, Failure):
        return Judgement(utility.worst(find_prompt(prompt).intent.risky), reading)
    return Judgement(utility.value(reading.attributes, reading.intent.risky), reading)


def parsed_share(judgements: Sequence[Judgement]) -> float:
    """The share of texts inside the grammar.

    Raises:
        ValueError: For no judgements at all.
    """
    if not judgements:
        raise ValueError("There is no judgement to take a share of.")
    return sum(judgement.parsed for judgement in judgements) / len(judgements)


def failures(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Reason → how many texts were outside the grammar for it, most frequent first."""
    reasons = Counter(judgement.reading.reason for judgement in judgements if isinstance(judgement.reading, Failure))
    return dict(reasons.most_common())
