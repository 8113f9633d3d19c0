"""A node's side of secure aggregation: what it keeps between the stages of one request, and what it refuses.

All of it is in Flower's ``context.state``, on the node, from the setup of a request until its last stage. A node
answers each stage once: it deals its secrets once, masks one vector with them, and hands out each share of others once,
for a set of senders that the server names once.
"""

from __future__ import annotations

import secrets as system
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from flwr.app import ConfigRecord, Context, RecordDict

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.engines.flower.secure_records import (
    SECURE,
    Collected,
    by_node,
    columns_of,
    ids,
    pack_masked,
    record,
    unpack_collected,
    unpack_keys,
    values_of,
)
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.quantised import Layout, Words, quantised
from fedvpa.privacy.secure_sum import PublicKeys, Secrets, Share, check_round, dealt, masked, opened
from fedvpa.privacy.shamir import Random

KEPT = "secure_aggregation"
"""The record of ``context.state``."""


@dataclass(frozen=True, repr=False)
class Kept:
    """What a node remembers of a request.

    Attributes:
        request: The request's name.
        own: The node's secrets.
        keys: Node → its public keys, of all that deal shares; then of those that have dealt; empty before.
        threshold: How many shares give a secret away.
        shares: Node → its share as this node holds it, its own among them; of others once they have come.
        masked: Whether the node has sent its vector.
    """

    request: str
    own: Secrets
    keys: Mapping[int, PublicKeys]
    threshold: int
    shares: Mapping[int, Share]
    masked: bool

    def __repr__(self) -> str:
        return f"Kept({self.request})"


def set_up(context: Context, request: RecordDict) -> RecordDict:
    """Answer the stage ``setup``: fresh secrets, in place of those of an earlier request."""
    own = Secrets.new()
    _keep(context, Kept(str(values_of(request)["request"]), own, {}, 0, {}, False))
    return record(mask=own.public.mask, cipher=own.public.cipher, seed=own.public.seed)


def deal(context: Context, request: RecordDict) -> RecordDict:
    """Answer the stage ``share``: the node's secrets, in shares for the others.

    Raises:
        DataError: If that would give them away, or the server does not keep to the order of the stages.
    """
    values = values_of(request)
    kept, keys, threshold = _kept(context, values), unpack_keys(values), int(values["threshold"])
    if kept.keys or keys.get(context.node_id) != kept.own.public:
        raise DataError("the server asks for shares twice, or under a key that is not this node's")
    check_round(keys.keys(), keys, threshold)
    sealed, mine = dealt(context.node_id, kept.own, keys, threshold)
    _keep(context, Kept(kept.request, kept.own, keys, threshold, {context.node_id: mine}, False))
    return record(nodes=ids(sorted(sealed)), sealed=[sealed[node] for node in sorted(sealed)])


@dataclass(frozen=True, repr=False)
class Answer:
    """What a node has to hide.

    Attributes:
        updates: What its clients send, each by itself; none where the node fills a round up.
        told: What they were sent: with noise, the norms among it.
        round: The round.
        seed: The run's seed, for the noise of a simulation that is to be repeated.
        private: Their private state, of a simulated node.
    """

    updates: Sequence[CohortUpdate]
    told: Tree = field(default_factory=dict)
    round: int = 0
    seed: int = 0
    private: Mapping[str, Tree] | None = None

    __repr__ = short_repr


def hide(context: Context, request: RecordDict, answer: Answer) -> RecordDict:
    """Answer the stage ``collect``: the sum over the node's clients as integers under masks, with its share of noise.

    Args:
        context: Of the node.
        request: The request for training.
        answer: What its clients send.

    Raises:
        DataError: If too few nodes have dealt shares, a share is not what it was sent as, the update is not as the
            server asks for or holds more than sums, or the server does not keep to the order of the stages.
    """
    if any(update.own for update in answer.updates):
        raise DataError("the update holds more than sums, which secure aggregation cannot hide")
    asked = unpack_collected(request)
    kept = _kept(context, {"request": asked.request})
    others = asked.sealed.keys()
    if kept.masked or not kept.keys or not others <= kept.keys.keys() - {context.node_id}:
        raise DataError("the server asks for a masked vector twice, or before shares were dealt")
    if len(others) + 1 < kept.threshold:
        raise DataError(f"{len(others) + 1} nodes have dealt shares, and {kept.threshold} must")
    keys = {node: kept.keys[node] for node in sorted({context.node_id, *others})}
    shares = {**kept.shares, **opened(context.node_id, kept.own, keys, asked.sealed)}
    hidden = masked(_words(asked, answer, kept.threshold), context.node_id, kept.own, keys)
    _keep(context, Kept(kept.request, kept.own, keys, kept.threshold, shares, True))
    return pack_masked(hidden, answer.private)


def asks_for_noise(request: RecordDict) -> bool:
    """Whether a request for training asks for noise that nobody can draw again."""
    shares = unpack_collected(request).shares if SECURE in request.config_records else None
    return shares is not None and not shares.seeded


def _words(asked: Collected, answer: Answer, threshold: int) -> Words:
    """The integers of a node's clients, with its noise if it is to add any."""
    if asked.shares is None:
        sums = reduce(CohortUpdate.__add__, answer.updates).sums
        shapes = {name: tuple(leaf.shape) for name, leaf in sums.items()}
        return quantised(Layout(asked.largest, shapes, asked.clients), sums, len(answer.updates))
    random: Random = system.token_bytes
    if asked.shares.seeded:
        random = Key.of_seed(answer.seed).generator(answer.round, f"node {asked.place}").bytes
    return asked.shares.noised([update.sums for update in answer.updates], answer.told, threshold, random)


def unmask(context: Context, request: RecordDict) -> RecordDict:
    """Answer the stage ``unmask``: of each other node one share, of its seed or of its key; then forget all of it.

    Raises:
        DataError: If too few nodes have sent a vector, or the server does not keep to the order of the stages.
    """
    values = values_of(request)
    kept = _kept(context, values)
    sent, silent = (sorted(int(node) for node in values[name]) for name in ("sent", "silent"))
    if not kept.masked or sorted({*sent, *silent}) != sorted(kept.keys) or len(sent) + len(silent) != len(kept.keys):
        raise DataError("the server asks for shares of other nodes than have dealt them, or of one node for both")
    if context.node_id not in sent or len(sent) < kept.threshold:
        raise DataError(f"{len(sent)} nodes have sent a vector, and {kept.threshold} must, this one among them")
    del context.state[KEPT]
    seeds, mask_keys = [kept.shares[node].seed for node in sent], [kept.shares[node].mask_key for node in silent]
    return record(sent=ids(sent), seeds=seeds, silent=ids(silent), mask_keys=mask_keys)


def _kept(context: Context, values: Mapping[str, Any]) -> Kept:
    """What the node remembers of the request that a message is of.

    Raises:
        DataError: If it is another one.
    """
    state = context.state.config_records.get(KEPT)
    if state is None or state["request"] != values["request"]:
        raise DataError("the node knows nothing of this request: it was started again, or has answered it to the end")
    held: Mapping[str, Any] = state
    shares = [Share(*both) for both in zip(held["share_seeds"], held["share_keys"], strict=True)]
    return Kept(
        str(held["request"]),
        Secrets(held["mask_key"], held["cipher_key"], held["seed"]),
        unpack_keys(held),
        int(held["threshold"]),
        by_node(held["holds"], shares),
        bool(held["masked"]),
    )


def _keep(context: Context, kept: Kept) -> None:
    holds = sorted(kept.shares)
    context.state[KEPT] = ConfigRecord(
        {
            "request": kept.request,
            "mask_key": kept.own.mask_key,
            "cipher_key": kept.own.cipher_key,
            "seed": kept.own.seed,
            "threshold": kept.threshold,
            **columns_of(kept.keys),
            "holds": ids(holds),
            "share_seeds": [kept.shares[node].seed for node in holds],
            "share_keys": [kept.shares[node].mask_key for node in holds],
            "masked": kept.masked,
        }
    )
