"""Candidates and a reward → z-labelled preference pairs.

The same two responses may come back in different orders for different latents, and are kept then: that is what teaches
one policy to switch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents
from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.config import PreferenceConfig
from fedvpa.policy.examples import Examples, reference_of
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector

SMALLEST_SPREAD = 1e-8

LATENTS_AT_ONCE = 256

UNUSUAL = 0.02
"""The share of the base policy's own samples with a token less likely than :func:`language_floor`. Chosen by us: of a
policy's own samples in mid-training that takes nine in ten of those outside the bundled world's grammar, and one in a
hundred of the others."""


@dataclass(frozen=True, repr=False)
class PairMargins:
    """Margins of pairs of candidates.

    Attributes:
        first: Of each pair, its place among the candidates of a prompt, shape [pairs].
        second: The same of the other response; no pair is in twice.
        margins: r(first) − r(second) at each latent, in nats, shape [n, pairs].
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    margins: Float[Tensor, "n pairs"]

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class LabelledPairs:
    """Examples, and what became of all pairs.

    Attributes:
        examples: What is left, balanced over prototypes.
        counts: ``pairs`` in all, which is the sum of ``same text``, ``margin``, ``unusual``, ``not among the
            widest`` and ``balance``, what each filter took in this order, and ``kept``. And ``switched``, prompts with
            two responses that are kept in both orders.
        compared: The margins of all pairs, by which they were ordered.
        latents: By which they were ordered, prompt by prompt.
        kept: Latent and pair of each example, shape [n, 2].
    """

    examples: Examples
    counts: Mapping[str, int]
    compared: PairMargins
    latents: Latents
    kept: Int[Tensor, "n 2"]

    __repr__ = short_repr


MarginFunction = Callable[[Candidates, Latents], PairMargins]
"""What orders candidates: (candidates of P prompts, P·L latents, prompt by prompt) → margins."""


def every_pair(count: int) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """The places of both responses of each pair of ``count`` candidates of a prompt."""
    first, second = (torch.from_numpy(each) for each in np.triu_indices(count, 1))
    return first, second


def selector_margins(selector: Selector) -> MarginFunction:
    """All pairs of candidates, by a selector that reads their features."""

    def compare(candidates: Candidates, latents: Latents) -> PairMargins:
        scaled = selector.scale(candidates.features.numpy())
        first, second = every_pair(scaled.shape[1])
        per_prompt, count = len(latents.z) // len(candidates.prompts), len(latents.z)
        parts = []
        for start in range(0, count, LATENTS_AT_ONCE):
            rows = torch.arange(start, min(start + LATENTS_AT_ONCE, count))
            shown, ones = scaled[rows // per_prompt], torch.ones(len(rows), len(first))
            pairs = Pairs(shown[:, first], shown[:, second], ones, ones)
            parts.append(selector.margins(latents[rows].posterior, pairs))
        return PairMargins(first, second, torch.cat(parts))

    return compare


def label_pairs(
    candidates: Candidates,
    margins_of: MarginFunction,
    latents: Latents,
    config: PreferenceConfig,
    *,
    with_z: bool,
    pairs_per_latent: int | None = None,
    floor: float = -math.inf,
) -> LabelledPairs:
    """Order the candidates of each prompt, at each of the prompt's latents.

    Args:
        candidates: P prompts.
        margins_of: The reward.
        latents: P·L of them, prompt by prompt.
        config: Margin and counts.
        with_z: Whether the policy sees z.
        pairs_per_latent: Instead of the configured one: a method without a latent gets as many pairs from its one
            order of the candidates as the others get from several.
        floor: A response with a token to which the reference gives a smaller log-probability is never preferred.

    Raises:
        DataError: If no pair is left; says which filter took what.
    """
    keep = pairs_per_latent or config.pairs_per_latent
    per_prompt = len(latents.z) // len(candidates.prompts)
    compared = margins_of(candidates, latents)
    first, second, margins = compared.first, compared.second, compared.margins
    spread = margins.square().mean().sqrt().clamp(min=SMALLEST_SPREAD) / 2**0.5
    prompt = torch.arange(len(latents.z)) // per_prompt
    distinct = candidates.distinct[prompt][:, first] & candidates.distinct[prompt][:, second]
    wide = margins.abs() >= config.margin * spread
    usual = (candidates.least >= floor)[prompt]
    inside = torch.where(margins > 0, usual[:, first], usual[:, second])
    counts = {
        "pairs": margins.numel(),
        "same text": int((~distinct).sum()),
        "margin": int((distinct & ~wide).sum()),
        "unusual": int((distinct & wide & ~inside).sum()),
    }
    wide &= inside
    rows = []
    for latent in range(len(latents.z)):
        usable = torch.where(distinct[latent] & wide[latent])[0]
        widest = usable[margins[latent, usable].abs().argsort(descending=True, stable=True)].tolist()
        rows += [(latent, pair) for pair in _apart(widest, first.tolist(), second.tolist())[:keep]]
    counts["not among the widest"] = int((distinct & wide).sum()) - len(rows)
    rows, dropped = _balanced(rows, latents.prototype)
    counts |= {"balance": dropped, "kept": len(rows)}
    _check_left(counts, config.margin)
    return LabelledPairs(
        _examples(candidates, latents, margins, rows, first, second, per_prompt, with_z),
        counts | {"switched": _switched(rows, margins, per_prompt)},
        compared,
        latents,
        torch.tensor(rows),
    )


def language_floor(samples: Candidates) -> float:
    """The log-probability that the least likely token of all but a few of the base policy's own samples reaches.

    A policy that is sampled again in mid-training has words of its own by then, and a selector that reads features does
    not know them for nonsense: preferring them would teach more.
    """
    return float(samples.least.flatten().quantile(UNUSUAL))


def _check_left(counts: Mapping[str, int], margin: float) -> None:
    """Raise DataError if no pair is left; says which filter took what."""
    if counts["kept"]:
        return
    raise DataError(
        f"No preference pair is left of {counts['pairs']}: {counts['same text']} had the same text twice, "
        f"{counts['margin']} had a margin below {margin} standard deviations, {counts['unusual']} preferred what the "
        f"base policy would not say, {counts['not among the widest']} were not among the widest, {counts['balance']} "
        "were left out because another prototype has none.",
        fix="Lower policy.preferences.margin, or sample more candidates at a higher temperature.",
    )


def _apart(pairs: Sequence[int], first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Pairs in their order, without those of which a response was taken before."""
    taken: set[int] = set()
    kept = []
    for pair in pairs:
        if taken.isdisjoint((first[pair], second[pair])):
            kept.append(pair)
            taken |= {first[pair], second[pair]}
    return kept


def _balanced(rows: list[tuple[int, int]], prototype: Tensor) -> tuple[list[tuple[int, int]], int]:
    """As many pairs for every prototype as the one with the fewest has; which go is decided by order alone."""
    by_prototype: dict[int, list[tuple[int, int]]] = {int(name): [] for name in prototype.unique()}
    for row in rows:
        by_prototype[int(prototype[row[0]])].append(row)
    least = min(len(group) for group in by_prototype.values())
    kept = sorted(row for group in by_prototype.values() for row in group[:least]) if least else []
    return kept, len(rows) - len(kept)


def _examples(
    candidates: Candidates,
    latents: Latents,
    margins: Tensor,
    rows: list[tuple[int, int]],
    first: Tensor,
    second: Tensor,
    per_prompt: int,
    with_z: bool,
) -> Examples:
    latent = torch.tensor([row for row, _ in rows])
    pair = torch.tensor([pair for _, pair in rows])
    up = margins[latent, pair] > 0
    better, worse = torch.where(up, first[pair], second[pair]), torch.where(up, second[pair], first[pair])
    where = list(zip((latent // per_prompt).tolist(), better.tolist(), worse.tolist(), strict=True))
    told = [(candidates.reference[row][good], candidates.reference[row][bad]) for row, good, bad in where]
    return Examples(
        [candidates.prompts[row] for row, _, _ in where],
        [candidates.responses[row][good] for row, good, _ in where],
        [candidates.responses[row][bad] for row, _, bad in where],
        *reference_of(told),
        latents.z[latent] if with_z else None,
        latents.prototype[latent],
    )


def _switched(rows: list[tuple[int, int]], margins: Tensor, per_prompt: int) -> int:
    orders: dict[tuple[int, int], set[bool]] = {}
    for latent, pair in rows:
        orders.setdefault((latent // per_prompt, pair), set()).add(bool(margins[latent, pair] > 0))
    return len({prompt for (prompt, _), seen in orders.items() if len(seen) == 2})
