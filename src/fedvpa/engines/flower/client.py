"""A node: the ClientApp that trains the users whose pairs it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedvpa.algorithms.base import Algorithm, CohortUpdate
from fedvpa.algorithms.robust import Part
from fedvpa.engines import vectorised
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.records import pack_private, pack_reply, unpack_private, unpack_request


@dataclass(frozen=True)
class Node:
    """What a node needs to train.

    Attributes:
        algorithm: What each of its clients does.
        federation: The pairs of its clients.
    """

    algorithm: Algorithm
    federation: Federation


def client_app(load: Callable[[Context], Node]) -> ClientApp:
    """A ClientApp around the same functions that the other engines call.

    Private state (mixture weights, own posterior) stays in ``context.state``, which Flower keeps on the node.

    Args:
        load: Gives the node's algorithm and pairs; called for each message, so it should remember what it loaded.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        node, request = load(context), unpack_request(message.content)
        private = {**(request.private or {}), **unpack_private(context.state)}
        parts, kept = vectorised.run_clients(
            node.algorithm, request.broadcast, node.federation, request.clients, private, request.seed
        )
        for name, record in pack_private({**private, **kept}).items():
            context.state[name] = record
        if not request.single:
            parts = [Part(request.clients, reduce(CohortUpdate.__add__, (part.update for part in parts)))]
        simulated = request.private is not None
        return Message(pack_reply(parts, request.clients, request.codec, kept if simulated else None), reply_to=message)

    return app
