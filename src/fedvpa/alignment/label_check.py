"""Are the labels of stage 2 right? Measured before the first step: a policy learns no better order than it is shown.

Where the judge of the run is exact, the order of the candidates is compared with the utility of whoever each latent
stands for. Elsewhere the selector is tried on the pairs that users hold out, each at its own user's z: text of another
kind than the candidates, perhaps, which is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import ON_PROTOTYPE, Latents
from fedvpa.alignment.preferences import LabelledPairs
from fedvpa.alignment.stage1 import Users
from fedvpa.core.errors import AlignmentError
from fedvpa.policy.config import PreferenceConfig

ERRORS = 2.0
"""Standard errors by which an accuracy must lie above one half: one chance in forty for labels that are luck."""

HELP = (
    "What helps: more labelled pairs of each user, about the policy's own candidates (fedvpa export candidates); "
    "other layers (features.layer=auto); wider pairs (policy.candidates.samples, policy.preferences.margin). "
    "policy.preferences.check=warn goes on regardless."
)

Preference = str | None
"""The name under which a judge knows what a latent stands for; None for a latent that stands for nobody."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often an order is right.

    Attributes:
        right: The share of pairs in the right order; a margin of zero is half right.
        error: Its standard error over prompts, whose pairs go together.
        pairs: How many.
    """

    right: float
    error: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.right:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class LabelCheck:
    """What the check found.

    Attributes:
        by: What knows the right order: the name of an exact reward, or ``held-out pairs``; empty if nothing does.
        trained: On the pairs to train on; of held-out pairs on all of them. None if nothing could be compared.
        all: On all pairs of candidates; None for held-out pairs.
        by_prototype: Prototype → on its pairs to train on.
        by_group: Preference → on the pairs to train on of latents that stand for it.
        unmatched: Pairs to train on whose latent stands for no one preference: between prototypes, or on one that no
            client is at. They are not compared.
        note: What the reader should know of it; may be empty.
        binding: Whether a failure means anything: a policy without a latent has no one preference to follow.
    """

    by: str
    trained: Accuracy | None = None
    all: Accuracy | None = None
    by_prototype: Mapping[str, Accuracy] = field(default_factory=dict)
    by_group: Mapping[str, Accuracy] = field(default_factory=dict)
    unmatched: int = 0
    note: str = ""
    binding: bool = True

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def line(self) -> str:
        """All of it in one line."""
        if self.trained is None:
            return f"labels: not checked: {self.note}"
        if self.all is None:
            found = f"the selector orders {self.trained} of {self.trained.pairs:,} {self.by} as their users did"
        else:
            found = (
                f"{self.trained} of {self.trained.pairs:,} pairs to train on are in the order of {self.by}, and "
                f"{self.all} of all pairs"
            )
        parts = [f"{name} {one}" for name, one in self.by_group.items()]
        parts += [f"prototype {name} {one}" for name, one in self.by_prototype.items() if len(self.by_prototype) > 1]
        parts += [f"{self.unmatched:,} pairs stand for no one preference"] * bool(self.unmatched)
        parts += [self.note] * bool(self.note)
        return "labels: " + "; ".join([found, *parts])

    def failure(self, config: PreferenceConfig) -> str:
        """What is wrong with the labels, in one sentence; empty if nothing is."""
        found = self.trained
        if found is None or not self.binding:
            return ""
        what = f"Of the pairs to train on {found}" if self.all is not None else f"Of the {self.by} {found}"
        if config.min_accuracy is not None:
            wanted = f"{config.min_accuracy:g} are asked for (policy.preferences.min_accuracy)"
            return "" if found.right >= config.min_accuracy else f"{what} are in the right order, and {wanted}."
        if found.right - ERRORS * found.error > 0.5:
            return ""
        return f"{what} are in the right order ({found.pairs:,} pairs), which cannot be told from luck."


def accuracy(right: Float[Tensor, " n"], unit: Int[Tensor, " n"]) -> Accuracy | None:
    """The mean of ``right`` and its standard error over units, within which pairs go together.

    The mean is a ratio of two sums over C units, Σ r_c / Σ n_c; the error is that of a ratio estimator (Cochran:
    Sampling Techniques, section 6.5): √(C/(C−1) · Σ (r_c − a·n_c)²) / Σ n_c. From one unit nothing can be told, and the
    error is one half. None for no pair.
    """
    if not len(right):
        return None
    units, place = unit.unique(return_inverse=True)
    sums, counts = (
        torch.zeros(len(units), dtype=torch.double).index_add(0, place, values.double())
        for values in (right, torch.ones_like(right))
    )
    mean = float(sums.sum() / counts.sum())
    if len(units) == 1:
        return Accuracy(mean, 0.5, len(right))
    spread = float((sums - mean * counts).square().sum()) * len(units) / (len(units) - 1)
    return Accuracy(mean, math.sqrt(spread) / len(right), len(right))


def preferences_of(latents: Latents, users: Users, tastes: Mapping[str, str]) -> list[Preference]:
    """What each latent stands for: of a user's z that user's preference; of a prototype that of the clients there.

    Of a prototype it is the preference of more than half of the clients whose posterior lies there, as their heaviest
    component says; None where there is none, and for what lies between prototypes.

    Args:
        latents: The latents.
        users: The seen users.
        tastes: User → preference, where groups do not decide.
    """
    own = [tastes.get(name, group) for name, group in zip(users.ids, users.groups, strict=True)]
    nearest = [] if users.posterior is None else users.posterior.weights.argmax(-1).tolist()
    numbers = set(latents.prototype.tolist())
    there = {
        number: _most([who for who, place in zip(own, nearest, strict=False) if place == number]) for number in numbers
    }
    found: list[Preference] = []
    for user, prototype in zip(latents.user.tolist(), latents.prototype.tolist(), strict=True):
        found.append(own[user] if user >= 0 else there[prototype] if user == ON_PROTOTYPE else None)
    return found


def _most(names: Sequence[Preference]) -> Preference:
    """The name of more than half; None if there is none."""
    best = max(set(names), key=names.count, default=None)
    return best if 2 * names.count(best) > len(names) else None


def check_candidates(
    by: str,
    labelled: LabelledPairs,
    candidates: Candidates,
    stands_for: Sequence[Preference],
    utilities: Mapping[str, Float[Tensor, "p samples"]],
) -> LabelCheck:
    """Compare the order of pairs with exact utilities. Pairs of one text, or of equal utility, are not compared.

    Args:
        by: What gave the utilities.
        labelled: The pairs of all latents, and those to train on.
        candidates: Of P prompts.
        stands_for: What each of the latents stands for, prompt by prompt.
        utilities: Preference → what each candidate is worth.
    """
    shown, (count, pairs) = labelled.compared, labelled.compared.margins.shape
    prompt = torch.arange(count) // (count // len(candidates.prompts))
    distinct = candidates.distinct[:, shown.first] & candidates.distinct[:, shown.second]
    gaps = {name: values[:, shown.first] - values[:, shown.second] for name, values in utilities.items()}
    gaps = {name: gap.round(decimals=9) for name, gap in gaps.items()}  # sums in another order are a tie
    nothing = torch.zeros(pairs, dtype=torch.double)
    true = [nothing if name is None else gaps[name][prompt[row]] for row, name in enumerate(stands_for)]
    gap = torch.stack(true) * distinct[prompt]
    right = 0.5 + 0.5 * gap.sign() * shown.margins.sign()
    latent, pair = labelled.kept.unbind(1)
    known = gap[latent, pair] != 0
    latent, pair = latent[known], pair[known]
    numbers = [str(number) for number in labelled.latents.prototype.tolist()]

    def part(names: Sequence[Preference], name: Preference) -> Accuracy | None:
        own = torch.tensor([names[row] == name for row in latent.tolist()], dtype=torch.bool)
        return accuracy(right[latent[own], pair[own]], prompt[latent[own]])

    compared = gap != 0
    return LabelCheck(
        by,
        accuracy(right[latent, pair], prompt[latent]),
        accuracy(right[compared], prompt.unsqueeze(1).expand_as(gap)[compared]),
        {name: found for name in sorted(set(numbers)) if (found := part(numbers, name))},
        {name: found for name in utilities if (found := part(stands_for, name))},
        unmatched=sum(stands_for[row] is None for row in labelled.kept[:, 0].tolist()),
    )


def check_passed(found: LabelCheck, config: PreferenceConfig, policy: str) -> str:
    """What a policy is warned of; empty if its labels pass.

    Args:
        found: By the check.
        config: What must be reached, and what to do if it is not.
        policy: Its name, for the message.

    Raises:
        AlignmentError: If it is not reached, and training is to stop.
    """
    failure = found.failure(config)
    if failure and config.check == "stop":
        raise AlignmentError(f"{policy}: the labels fail the check before the first step. {failure}", fix=HELP)
    return failure
