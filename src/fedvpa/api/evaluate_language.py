"""``fedvpa evaluate RUN --language FILE``: what alignment cost the policy's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import DataError
from fedvpa.core.files import user_path
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.evaluation.perplexity import LanguageRow
    from fedvpa.policy.policy import Policy

HALF_WAY = "half-way"
"""What the z between two preferences is called."""


@dataclass(frozen=True)
class LanguageResult:
    """Perplexity of plain texts under a run's policies and their base policy.

    Attributes:
        run: The run directory.
        texts: How many different texts the file holds.
        tokens: How many tokens are scored, in every row the same.
        base_perplexity: Under the base policy.
        rows: One for each policy and z.
    """

    run: Path
    texts: int
    tokens: int
    base_perplexity: float
    rows: tuple[LanguageRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": str(self.run),
            "texts": self.texts,
            "tokens": self.tokens,
            "base_perplexity": self.base_perplexity,
            "language": [row.to_dict() for row in self.rows],
        }


def evaluate_language(
    run: str | PathLike[str], texts: str | PathLike[str], *, overrides: Sequence[str] = ()
) -> LanguageResult:
    """Perplexity of plain texts under the policy of a run, beside that under its base policy.

    A policy with z is looked at under three: its first two preferences and the one half-way between them. Where pairs
    name no groups these are the first two prototypes. A text is read as it is, without the chat template.

    Args:
        run: A run directory with both stages.
        texts: A file with one text a line; or JSON lines that hold strings, or objects with ``text``.
        overrides: Where the base model is now, such as ``policy.model=PATH``.

    Raises:
        DataError: If the file cannot be read or holds no text, or a text has fewer than two tokens.
        RunError: If the run holds no policy.
        ModelError: If the base model is not the one that the policy was trained on.
    """
    folder, file = RunFolder.open(run), user_path(texts)
    found = read_texts(file)
    import numpy as np

    from fedvpa.core.progress import track
    from fedvpa.evaluation.perplexity import LanguageRow, TextScores, perplexity_ratio
    from fedvpa.policy.plain_text import check_texts, text_log_probs, windows
    from fedvpa.runs.policies import open_aligned

    policies: Mapping[str, Policy] = open_aligned(folder, overrides).policies
    any_policy = next(iter(policies.values()))
    read = [windows(any_policy, text) for text in found]
    check_texts(read, str(file))
    tokens = np.array([sum(len(scored) for _, scored in own) for own in read])
    with any_policy.reference() as base:
        base_scores = TextScores(text_log_probs(base, read, None), tokens)
    asked = [(name, policy, preference, z) for name, policy in policies.items() for preference, z in latents(policy)]
    rows = []
    for name, policy, preference, z in track(asked, "perplexity", len(asked), unit="latents"):
        scores = TextScores(text_log_probs(policy, read, z), tokens)
        ratio, ends = perplexity_ratio(scores, base_scores)
        values = None if z is None else tuple(z.tolist())
        rows.append(LanguageRow(name, preference, values, scores.perplexity, ratio, ends))
    return LanguageResult(folder.path, len(found), int(tokens.sum()), base_scores.perplexity, tuple(rows))


def read_texts(path: Path) -> list[str]:
    """The different texts of a file.

    Raises:
        DataError: If the file cannot be read, holds none, or holds a conversation.
    """
    from fedvpa.data.prompt_files import read_prompts

    found = read_prompts(path, columns=("text",))
    for place, text in enumerate(found, start=1):
        if not isinstance(text, str):
            raise DataError(
                "is a conversation, and plain text is wanted.",
                fix='Give strings, or {"text": "…"}.',
                where=f"{path}, text {place}",
            )
    if not found:
        raise DataError("holds no text.", fix="Give one text a line.", where=str(path))
    return [text for text in found if isinstance(text, str)]


def latents(policy: Policy) -> list[tuple[str | None, Any]]:
    """The z at which a policy is looked at, each with its name; (None, None) alone for a policy without z."""
    import torch

    if policy.conditioner is None:
        return [(None, None)]
    named = {name: torch.tensor(z) for name, z in policy.preferences.items()}
    if len(named) < 2:
        named |= {f"prototype {number}": torch.tensor(z) for number, z in enumerate(policy.prototypes)}
    ends = list(named.items())[:2]
    if len(ends) < 2:
        return list(ends)
    middle = (HALF_WAY, (ends[0][1] + ends[1][1]) / 2)
    return [ends[0], middle, ends[1]]
