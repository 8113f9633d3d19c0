"""The vote of FedBiscuit's selectors (arXiv 2407.03038) as what orders candidates, in place of a selector at a z."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.client.voters import Voters
from fedvpa.algorithms.fedbiscuit_lora import NAME
from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents
from fedvpa.alignment.preferences import PairMargins
from fedvpa.alignment.setup import Labeller
from fedvpa.alignment.stopping import ValidationMargins
from fedvpa.core.errors import DataError
from fedvpa.policy.rows import Ids, say_cuts


def voting_labeller(voters: Voters) -> Labeller:
    """What labels pairs and validates by the vote."""
    return Labeller(
        lambda candidates, latents: vote_on_candidates(voters, candidates, latents),
        lambda base: vote_over_base(voters, base),
    )


def vote_on_candidates(voters: Voters, candidates: Candidates, latents: Latents) -> PairMargins:
    """The vote on disjoint pairs of neighbours among a prompt's candidates; latents are not read.

    Raises:
        DataError: If there are several latents for a prompt.
    """
    prompts, samples = candidates.distinct.shape
    if len(latents.z) != prompts:
        raise DataError(f"{NAME} has one order of the candidates of {prompts} prompts, not {len(latents.z)}.")
    first = torch.arange(0, samples - 1, 2)
    responses = candidates.responses
    choices = voters.template.of_tokens(
        [prompt for prompt in candidates.prompts for _ in first],
        [group[place] for group in responses for place in first.tolist()],
        [group[place + 1] for group in responses for place in first.tolist()],
    )
    say_cuts(choices.counts, "pairs of candidates")
    return PairMargins(first, first + 1, voters.margins(choices).view(prompts, len(first)))


def vote_over_base(voters: Voters, base: Candidates) -> ValidationMargins:
    """Margins of one response to each prompt over the first samples of the base policy."""
    theirs = [group[: voters.base_samples] for group in base.responses]

    def margins(responses: list[Ids]) -> Float[Tensor, "p samples"]:
        choices = voters.template.of_tokens(
            [prompt for prompt, group in zip(base.prompts, theirs, strict=True) for _ in group],
            [own for own, group in zip(responses, theirs, strict=True) for _ in group],
            [other for group in theirs for other in group],
        )
        return voters.margins(choices).view(len(responses), -1)

    return margins
