"""A node: the ClientApp that trains the users whose pairs it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Protocol

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedvpa.algorithms.base import Algorithm, CohortUpdate, Private
from fedvpa.algorithms.robust import Part
from fedvpa.core.short_repr import short_repr
from fedvpa.engines import vectorised
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.records import (
    Introduction,
    pack_introduction,
    pack_private,
    pack_reply,
    unpack_private,
    unpack_request,
)


class Devices(Protocol):
    """Where a node keeps its clients' private state."""

    def load(self, context: Context, round_: int) -> dict[str, Private]:
        """The state as it was before round ``round_``."""

    def save(self, context: Context, private: dict[str, Private], round_: int) -> None:
        """Remember the state after round ``round_``."""


class InContext:
    """In ``context.state``, which Flower keeps on the node for as long as a run lasts."""

    def load(self, context: Context, round_: int) -> dict[str, Private]:
        """What was saved last: within one run no round is repeated."""
        return unpack_private(context.state)

    def save(self, context: Context, private: dict[str, Private], round_: int) -> None:
        """Replace what was there."""
        for name, record in pack_private(private).items():
            context.state[name] = record


@dataclass(frozen=True, repr=False)
class Node:
    """What a node needs to train.

    Attributes:
        algorithm: What each of its clients does.
        federation: The pairs of its clients.
        devices: Where their private state is kept.
    """

    algorithm: Algorithm
    federation: Federation
    devices: Devices = field(default_factory=InContext)

    __repr__ = short_repr


def client_app(load: Callable[[Context], Node]) -> ClientApp:
    """A ClientApp around the same functions that the other engines call.

    Private state (mixture weights, own posterior) stays on the node.

    Args:
        load: Gives the node's algorithm and pairs; called for each message, so it should remember what it loaded.
    """
    app = ClientApp()

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        federation = load(context).federation
        clients = {name: federation.train_size(name) for name in federation.client_ids}
        return Message(pack_introduction(Introduction(clients, federation.moments)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        node, request = load(context), unpack_request(message.content)
        round_, federation = request.broadcast.round, node.federation
        if request.scaling is not None:
            federation = replace(federation, scaling=replace(federation.scaling, standardiser=request.scaling))
        private = {**(request.private or {}), **node.devices.load(context, round_)}
        parts, kept = vectorised.run_clients(
            node.algorithm, request.broadcast, federation, request.clients, private, request.seed
        )
        node.devices.save(context, {**private, **kept}, round_)
        if not request.single:
            parts = [Part(request.clients, reduce(CohortUpdate.__add__, (part.update for part in parts)))]
        simulated = request.private is not None
        return Message(pack_reply(parts, request.clients, request.codec, kept if simulated else None), reply_to=message)

    return app
