"""The z-conditioned policy as training and evaluation ask it: log-probabilities and samples.

The reference policy is the same object without adapter and without z.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.processes import current
from fedvpa.core.progress import track
from fedvpa.core.seeds import Label
from fedvpa.models.batching import batches_for
from fedvpa.models.budget import token_budget
from fedvpa.models.quiet import quiet
from fedvpa.policy.decoding import draw_responses
from fedvpa.policy.drawing import sample_numbers, uniforms
from fedvpa.policy.generation import response_of
from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.rows import Batch, Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.sharing import sharing_room
from fedvpa.policy.trees import Trees, groups_of, trees


class PolicyModel(PolicyNetwork):
    """A base model with LoRA and, for methods with a latent, a conditioner: what can be asked of it.

    Its arguments are those of :class:`~fedvpa.policy.network.PolicyNetwork`.
    """

    def log_probs(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], z: Float[Tensor, "batch k"] | None
    ) -> Float[Tensor, " batch"]:
        """Log-probability of each response given its prompt and z, summed over tokens, in nats."""
        return self(self.layout.rows(prompts, responses).to(self.device), z).sum(1)

    @torch.no_grad()
    def token_log_probs(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], z: Float[Tensor, "batch k"] | None
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each response token given its prompt and z, in nats, without a gradient.

        As in feature extraction, rows of like length come together, as many as fit into the budget of tokens, a prompt
        with several responses is computed once where the model allows it, and processes that are together share the
        batches out.
        """
        budget = token_budget(self.tokens_per_batch, self.device.type)
        room = sharing_room(self) if len(prompts) > 1 else 0
        groups = groups_of(prompts, responses, z, min(room, budget), self.layout.slots)
        several = np.array([len(group.responses) > 1 for group in groups], dtype=bool)
        sizes = np.array([group.tokens for group in groups], dtype=np.int64)
        own: dict[int, NDArray[np.float32]] = {}
        training, team = self.training, current()
        self.eval()
        whole = team.share(batches_for(team.count, sizes, several, budget))
        for numbers in track(whole, "log-probabilities", len(whole), unit="batches"):
            parts = [groups[number].responses for number in numbers]
            asked, order = [prompts[part[0]] for part in parts], [row for part in parts for row in part]
            latents = None if z is None else z[[part[0] for part in parts]].to(self.device)
            rows: Batch | Trees
            if several[numbers[0]]:
                rows = trees(self.layout, asked, [[responses[row] for row in part] for part in parts])
            else:
                rows = self.layout.rows(asked, [responses[row] for row in order])
            values = self(rows.to(self.device), latents).float().cpu()
            for row, value, scored in zip(order, values, rows.scored(), strict=True):
                own[row] = value[scored].numpy()
        self.train(training)
        everybody = {row: tokens for part in team.gather(own) for row, tokens in part.items()}
        return [everybody[row] for row in range(len(prompts))]

    def reference_log_probs(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """:meth:`token_log_probs` of the reference policy."""
        with self.reference() as base:
            return base.token_log_probs(prompts, responses, None)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Ids],
        z: Float[Tensor, "batch k"] | None,
        sampling: Sampling,
        seed: int,
        *path: Label,
        kept: PartialSamples | None = None,
    ) -> list[Ids]:
        """One response per prompt, the token that ended it included if it came to one.

        What is drawn for a prompt is named by ``seed``, ``path``, the prompt and how many equal prompts stand before
        it. So batch, order and process move rounding only, and samples that were stopped go on as if they had never
        been.

        Args:
            prompts: Tokens, special ones in front included.
            z: A latent per prompt.
            sampling: How.
            seed: Names, with ``path``, the draws.
            *path: Labels.
            kept: Where samples are kept until all are there; what it holds is not sampled again.

        Raises:
            TrainingError: If the logits are not finite: the training has diverged.
        """
        training, team = self.training, current()
        found = team.told(kept.load() if kept and team.main else [])
        self.eval()
        samples = sample_numbers(prompts)
        size = min(sampling.batch, max(1, -(-(len(prompts) - len(found)) // team.count)))
        blocks = range(len(found), len(prompts), size)
        turns = [blocks[first : first + team.count] for first in range(0, len(blocks), team.count)]
        several = track(turns, "sampling", len(turns), unit="responses", weight=size * team.count)
        for starts in several if len(turns) > 1 else turns:
            own = []
            for start in team.share(starts):
                part = slice(start, start + size)
                numbers = uniforms(prompts[part], samples[part], sampling.max_new_tokens, seed, *path)
                own.append(self._sample(prompts[part], None if z is None else z[part], sampling, numbers))
            for block in team.put_together(own):
                found += block
            if kept and team.main:
                kept.save(found)
        self.train(training)
        return found

    def _sample(
        self, prompts: Sequence[Ids], z: Tensor | None, sampling: Sampling, numbers: NDArray[np.float64]
    ) -> list[Ids]:
        with quiet():
            drawn = draw_responses(self, prompts, None if z is None else z.to(self.device), sampling, numbers)
        texts = (self.tokenizer.stop_texts(prompt) for prompt in prompts)
        return [response_of(row, self.tokenizer, own) for row, own in zip(drawn, texts, strict=True)]

    @contextlib.contextmanager
    def reference(self) -> Iterator[PolicyModel]:
        """The reference policy: without adapter and without z, while inside."""
        with self._without_adapter():
            yield PolicyModel(self.model, None, self.tokenizer, self.source, self.tokens_per_batch).eval()
