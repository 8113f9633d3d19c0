"""A cohort through Flower's Grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedvpa.algorithms.base import Algorithm, Broadcast, Private
from fedvpa.algorithms.robust import Part
from fedvpa.core.errors import FedvpaError
from fedvpa.engines import vectorised
from fedvpa.engines.codecs import Codec
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.records import Request, pack_request, unpack_reply


@dataclass
class GridCohort:
    """Runs cohorts on the nodes of a grid; a ``RunCohort`` of ``engines/training.py``.

    Attributes:
        grid: Flower's.
        hosts: Client id → the node that hosts it.
        simulated: Whether nodes are simulated: they then get and return private state, for the run directory.
        deadline: Seconds that a round waits for replies.
        codec: How weights travel.
    """

    grid: Grid
    hosts: Mapping[str, int]
    simulated: bool
    deadline: float
    codec: Codec
    _told: set[str] = field(default_factory=set)

    def __call__(
        self,
        algorithm: Algorithm,
        broadcast: Broadcast,
        federation: Federation,
        cohort: Sequence[str],
        reporting: Sequence[str],
        private: Mapping[str, Private],
        seed: int,
    ) -> tuple[list[Part], dict[str, Private]]:
        """One round; arguments and result as in :func:`fedvpa.engines.loop.run_cohort`."""
        if not reporting:
            return [], {}
        single = algorithm.config.server.rule != "mean" or algorithm.config.server.clip_norm is not None
        asked = set(reporting)
        shares: dict[int, list[int]] = {}
        for position, name in enumerate(cohort):
            if name in asked:
                shares.setdefault(self.hosts[name], []).append(position)
        messages, clients = [], {}
        for node, positions in shares.items():
            names = tuple(cohort[position] for position in positions)
            device = self._device(names, private)
            request = Request(vectorised.select(broadcast, positions), names, seed, single, self.codec, device)
            clients[node] = names
            content, group = pack_request(request), str(broadcast.round)
            messages.append(Message(content, dst_node_id=node, message_type=MessageType.TRAIN, group_id=group))
        outcomes = [
            unpack_reply(reply.content, clients[reply.metadata.src_node_id], self.codec)
            for reply in self._answers(messages, clients)
        ]
        kept = {name: own for _, mine in outcomes for name, own in mine.items()}
        rank = {name: position for position, name in enumerate(cohort)}
        parts = sorted((part for found, _ in outcomes for part in found), key=lambda part: rank[part.clients[0]])
        return parts, {name: kept[name] for name in cohort if name in kept}

    def _answers(self, messages: Sequence[Message], clients: Mapping[int, Sequence[str]]) -> list[Message]:
        """The replies, in the order of the requests, so that sums do not depend on who was faster."""
        replies = {
            reply.metadata.src_node_id: reply for reply in self.grid.send_and_receive(messages, timeout=self.deadline)
        }
        for node, names in clients.items():
            reply = replies.get(node)
            if reply is None:
                raise FedvpaError(f"Clients {', '.join(names)} did not answer within {self.deadline:.0f} s.")
            if reply.has_error():
                raise FedvpaError(f"Clients {', '.join(names)} failed: {reply.error.reason}")
        return [replies[node] for node in clients]

    def _device(self, names: Sequence[str], private: Mapping[str, Private]) -> Mapping[str, Private] | None:
        """In simulation, the private state of clients that their node has not seen since it started."""
        if not self.simulated:
            return None
        fresh = {name: private[name] for name in names if name in private and name not in self._told}
        self._told.update(names)
        return fresh
