"""A base language model, a LoRA, and what lets z in: the one forward path of training, generation and evaluation.

Token rows → embeddings → z enters → the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedvpa.core.errors import ConfigError
from fedvpa.models.locate import ModelSource
from fedvpa.models.tree import tree_mask
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.rows import IGNORED, Batch, Layout, PolicyTokenizer
from fedvpa.policy.scoring import scores_of
from fedvpa.policy.trees import Trees


class PolicyNetwork(nn.Module):
    """A base model with LoRA and, for methods with a latent, a conditioner.

    Args:
        model: A PEFT model whose base has TRL's fused LM head.
        conditioner: None for one policy without z.
        tokenizer: Its tokenizer.
        source: Where the base came from.
        tokens_per_batch: Upper bound of padded tokens where log-probabilities are computed; None for the default of
            the device.
    """

    def __init__(
        self,
        model: Any,
        conditioner: Conditioner | None,
        tokenizer: PolicyTokenizer,
        source: ModelSource,
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens_per_batch = tokens_per_batch
        self.model, self.conditioner = model, conditioner
        self.tokenizer, self.source = tokenizer, source

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return torch.device(self.model.device)

    @property
    def layout(self) -> Layout:
        """Of its token rows."""
        return self.tokenizer.layout(self.conditioner.slots if self.conditioner else 0)

    def trained(self) -> dict[str, Tensor]:
        """The weights that stage 2 moves, by name: LoRA and conditioner."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def embed(self, rows: Batch | Trees, z: Float[Tensor, "batch k"] | None) -> Float[Tensor, "batch time hidden"]:
        """Input embeddings with z in them; an additive z is in them inside :meth:`listening` only."""
        embeddings = self.model.get_input_embeddings()(rows.ids)
        if self.conditioner is None or z is None or not self.conditioner.tokens:
            return embeddings
        return self.conditioner.prefix(embeddings, rows.first, rows.prompt, z)

    @contextlib.contextmanager
    def listening(self, z: Float[Tensor, "batch k"] | None) -> Iterator[None]:
        """While inside, the policy follows z: the one door through which training and generation let z in.

        Raises:
            ConfigError: If z is missing, unasked for or of the wrong size.
        """
        if self.conditioner is None:
            if z is not None:
                raise ConfigError("This policy takes no z.", fix="Only policies of methods with a latent do.")
            yield
            return
        if z is None or z.shape[-1] != self.conditioner.latent:
            given = "none is given" if z is None else f"{z.shape[-1]} are given"
            raise ConfigError(f"This policy takes a z of {self.conditioner.latent} numbers, and {given}.")
        training = self.training and torch.is_grad_enabled()
        with self.conditioner.heard(self.model.get_input_embeddings(), z, training=training):
            yield

    def forward(
        self, rows: Batch | Trees, z: Float[Tensor, "batch k"] | None
    ) -> Float[Tensor, "batch following"] | Float[Tensor, "responses longest"]:
        """Log-probability of each response token given all before it and z, in nats; 0 where no token is scored.

        The first token of a row follows nothing, so column t of a batch belongs to ``rows.labels[:, t + 1]``. Of trees,
        each response is a row, and column t belongs to its token t.
        """
        with self.listening(z):
            embeddings = self.embed(rows, z)
            inputs: dict[str, Tensor] = {"inputs_embeds": embeddings}
            if isinstance(rows, Trees):
                inputs |= {
                    "attention_mask": tree_mask(rows.branch, embeddings.dtype),
                    "position_ids": rows.positions,
                }
                return rows.spread(scores_of(self.model, inputs, rows.source, rows.labels))
            inputs["attention_mask"] = rows.attention
            following = rows.labels[:, 1:]
            scored = following != IGNORED
            scores = scores_of(self.model, inputs, scored.nonzero().t(), following[scored])
            return scores.new_zeros(scored.shape).masked_scatter(scored, scores)

    @contextlib.contextmanager
    def reference(self) -> Iterator[PolicyNetwork]:
        """The reference policy: without adapter and without z, while inside."""
        with self._without_adapter():
            yield PolicyNetwork(self.model, None, self.tokenizer, self.source, self.tokens_per_batch).eval()

    @contextlib.contextmanager
    def _without_adapter(self) -> Iterator[None]:
        training, fixed = self.training, [leaf for leaf in self.model.parameters() if not leaf.requires_grad]
        self.eval()
        try:
            with self.model.disable_adapter():
                yield
        finally:
            for leaf in fixed:  # PEFT lets the whole adapter train again, also what somebody holds fixed for now
                leaf.requires_grad_(False)
            self.train(training)
