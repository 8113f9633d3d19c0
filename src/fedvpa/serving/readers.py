"""How a policy reads rows of several users and of the base model: all of them in one batch, or apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.progress import say
from fedvpa.models.agreement import AGREEMENT, REJECTIONS, probe_tokens, relative_difference
from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.policy import Policy
from fedvpa.policy.prefill import next_logits, positions_in
from fedvpa.serving.adapter import RowwiseAdapter, obstacle

Signals = Float[Tensor, "rows width"]
"""What rows hear of their z, computed once for each request."""


class Reader(Protocol):
    """What a batch of rows asks of a policy."""

    def lane(self, base: bool) -> int:
        """Rows of one lane are computed together."""

    def prefilling(self, base: bool) -> contextlib.AbstractContextManager[PolicyNetwork]:
        """The network that reads prompts, for the policy or for the base model."""

    def signals(self, base: bool, z: Float[Tensor, "rows k"] | None, rows: int) -> Signals:
        """What these rows hear from now on."""

    def stepping(self, base: bool, signals: Signals) -> contextlib.AbstractContextManager[PolicyNetwork]:
        """The network that computes one more token; ``base`` if all rows are the base model's."""

    def close(self) -> None:
        """Leave the policy as it was."""


def reader_of(policy: Policy) -> Reader:
    """Rows together where the policy allows it, which is tried with a few tokens; that it does not is said."""
    found = obstacle(policy.model)
    if not found:
        expected = _trial(policy, ApartReader(policy), apart=True)
        reader = TogetherReader(policy)
        try:
            difference = relative_difference(_trial(policy, reader, apart=False), expected)
            # Written so that NaN counts as disagreement.
            if difference <= AGREEMENT[policy.model.get_base_model().dtype]:
                return reader
            found = f"together the logits differ (by {difference:.1e} of their norm)"
        except REJECTIONS as error:
            found = f"its layers do not keep rows apart ({type(error).__name__})"
        reader.close()
    say(f"{policy.source.name}: rows of the base model are computed apart from the policy's, since {found}")
    return ApartReader(policy)


class TogetherReader:
    """Every row has gates of its own on the LoRA; those of a row of the base model are zero.

    Args:
        policy: Nobody else may use it until :meth:`close`.
    """

    def __init__(self, policy: Policy) -> None:
        self._adapter = RowwiseAdapter(policy.model)
        self._networks = [_RowwiseNetwork(policy, self._adapter, base).eval() for base in (False, True)]

    def lane(self, base: bool) -> int:
        """One for all."""
        return 0

    @contextlib.contextmanager
    def prefilling(self, base: bool) -> Iterator[PolicyNetwork]:
        """See :class:`Reader`."""
        yield self._networks[base]

    def signals(self, base: bool, z: Tensor | None, rows: int) -> Signals:
        """See :class:`Reader`."""
        found = self._networks[False].signals(z, rows)
        return torch.zeros_like(found) if base else found

    @contextlib.contextmanager
    def stepping(self, base: bool, signals: Signals) -> Iterator[PolicyNetwork]:
        """See :class:`Reader`."""
        network = self._networks[False]
        with network.hearing(None if base else signals):
            yield network

    def close(self) -> None:
        """See :class:`Reader`."""
        self._adapter.detach()


class ApartReader:
    """The policy as training computes it, and the base model by turns.

    Args:
        policy: Nobody else may use it while it steps.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def lane(self, base: bool) -> int:
        """One for the policy and one for the base model."""
        return int(base)

    @contextlib.contextmanager
    def prefilling(self, base: bool) -> Iterator[PolicyNetwork]:
        """See :class:`Reader`."""
        if not base:
            yield self._policy
            return
        with self._policy.reference() as reference:
            yield reference

    def signals(self, base: bool, z: Tensor | None, rows: int) -> Signals:
        """See :class:`Reader`: z itself."""
        return torch.zeros(rows, 0, device=self._policy.device) if base or z is None else z

    @contextlib.contextmanager
    def stepping(self, base: bool, signals: Signals) -> Iterator[PolicyNetwork]:
        """See :class:`Reader`."""
        with self.prefilling(base) as network, network.listening(signals if network.conditioner else None):
            yield network

    def close(self) -> None:
        """See :class:`Reader`."""


class _RowwiseNetwork(PolicyNetwork):
    """A policy or its base model, with its LoRA by :class:`RowwiseAdapter`."""

    def __init__(self, policy: Policy, adapter: RowwiseAdapter, base: bool) -> None:
        conditioner = None if base else policy.conditioner
        super().__init__(policy.model, conditioner, policy.tokenizer, policy.source, policy.tokens_per_batch)
        self._adapter, self._base = adapter, base

    def signals(self, z: Tensor | None, rows: int) -> Signals:
        """Gates, and behind them what an additive z adds to embeddings; None of z is the policy without z, or zeros."""
        own, adapter = self.conditioner, self._adapter
        kind = None if own is None else own.kind
        gates = torch.ones(rows, adapter.directions, dtype=adapter.dtype, device=self.device)
        if own is not None and z is not None and kind == "gated_lora":
            gates = adapter.arranged(own.made(z))
        if own is None or kind != "additive":
            return gates
        added = gates.new_zeros(rows, own.hidden) if z is None else own.made(z).to(gates.dtype)
        return torch.cat([gates, added], 1)

    @contextlib.contextmanager
    def listening(self, z: Tensor | None) -> Iterator[None]:
        """See :class:`~fedvpa.policy.network.PolicyNetwork`."""
        rows = 1 if z is None else len(z)
        with self.hearing(None if self._base else self.signals(z, rows)):
            yield

    @contextlib.contextmanager
    def hearing(self, signals: Signals | None) -> Iterator[None]:
        """While inside, rows hear these signals; None for the base model."""
        count = self._adapter.directions
        with self._adapter.gated(None if signals is None else signals[:, :count]):
            if signals is None or signals.shape[1] == count:
                yield
                return
            added = signals[:, None, count:]
            embed: Any = self.model.get_input_embeddings()
            handle = embed.register_forward_hook(lambda module, args, out: out + added.to(out.dtype))
            try:
                yield
            finally:
                handle.remove()


@torch.no_grad()
def _trial(policy: Policy, reader: Reader, *, apart: bool) -> Tensor:
    """The logits behind a few tokens: of two rows under different z, and of one of the base model."""
    tokens = probe_tokens(policy.model.get_base_model(), 12)
    prompts = [tokens[:5], tokens[5:9], tokens[9:]]
    own = policy.conditioner
    z = None if own is None else torch.linspace(-1, 1, 2 * own.latent, device=policy.device).view(2, own.latent)
    signals = [reader.signals(False, z, 2), reader.signals(True, None, 1)]
    rows = policy.tokenizer.layout(0).rows(prompts).to(policy.device)

    def logits(base: bool, heard: Signals, part: slice) -> Tensor:
        attention = rows.attention[part]
        with reader.stepping(base, heard) as network:
            return next_logits(network, None, attention, positions_in(attention), input_ids=rows.ids[part])

    if not apart:
        return logits(False, torch.cat(signals), slice(None))
    return torch.cat([logits(False, signals[0], slice(2)), logits(True, signals[1], slice(2, None))])
