"""A cohort through Flower's Grid."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedvpa.algorithms.base import Algorithm, Broadcast, Private
from fedvpa.algorithms.robust import Part
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.engines import vectorised
from fedvpa.engines.codecs import Codec
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.records import Request, pack_request, unpack_introduction, unpack_reply
from fedvpa.features import Moments, Standardiser

POLL_SECONDS = 0.5


@dataclass
class GridCohort:
    """Runs cohorts on the nodes of a grid; a ``RunCohort`` of ``engines/training.py``.

    Attributes:
        grid: Flower's.
        hosts: Client id → the node that hosts it.
        simulated: Whether nodes are simulated: they then get and return private state, for the run directory.
        deadline: Seconds that a round waits for replies.
        quorum: Share of the clients asked that must answer; the others of a round count as dropped out.
        codec: How weights travel.
        scaling: Mean and scale of the features, for nodes of a deployment; simulated nodes have them.
    """

    grid: Grid
    hosts: Mapping[str, int]
    simulated: bool
    deadline: float
    quorum: float
    codec: Codec
    scaling: Standardiser | None = None
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
            mine = vectorised.select(broadcast, positions)
            request = Request(mine, names, seed, single, self.codec, self.scaling, device)
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
        """The replies, in the order of the requests, so that sums do not depend on who was faster.

        Raises:
            FedvpaError: If fewer clients than the quorum answered.
        """
        replies = {
            reply.metadata.src_node_id: reply for reply in self.grid.send_and_receive(messages, timeout=self.deadline)
        }
        silent = {}
        for node in clients:
            if node not in replies:
                silent[node] = f"no answer within {self.deadline:g} s"
            elif replies[node].has_error():
                silent[node] = f"an error: {replies[node].error.reason}"
        for node, reason in silent.items():
            say(f"dropped out: {', '.join(clients[node])} ({reason})")
        asked = sum(len(names) for names in clients.values())
        answered = asked - sum(len(clients[node]) for node in silent)
        if answered < self.quorum * asked:
            raise FedvpaError(
                f"{answered} of {asked} clients answered, and the quorum is {self.quorum:.0%}: the run stops at its "
                f"last checkpoint ({'; '.join(sorted(set(silent.values())))})."
            )
        return [replies[node] for node in clients if node not in silent]

    def _device(self, names: Sequence[str], private: Mapping[str, Private]) -> Mapping[str, Private] | None:
        """In simulation, the private state of clients that their node has not seen since it started."""
        if not self.simulated:
            return None
        fresh = {name: private[name] for name in names if name in private and name not in self._told}
        self._told.update(names)
        return fresh


@dataclass(frozen=True)
class Roster:
    """Who takes part in a deployment: what the server knows where a simulation has a ``Federation``.

    Attributes:
        client_ids: The clients, sorted.
        hosts: Client id → its node.
        moments: Of all training pairs, added up.
        groups: None: a deployment knows no true groups.
    """

    client_ids: tuple[str, ...]
    hosts: Mapping[str, int]
    moments: Moments
    groups: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.moments.sum)


def gather(grid: Grid, nodes: int, deadline: float) -> Roster:
    """Wait for nodes, and ask them who they host.

    Args:
        grid: Flower's.
        nodes: How many nodes to wait for.
        deadline: Seconds to wait for them, and then for their answers.

    Raises:
        FedvpaError: If too few nodes come or answer in time.
        DataError: If two nodes host the same client, or none hosts any.
    """
    known = list(grid.get_node_ids())
    until = time.monotonic() + deadline
    while len(known) < nodes and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        known = list(grid.get_node_ids())
    messages = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in known]
    replies = sorted(grid.send_and_receive(messages, timeout=deadline), key=lambda reply: reply.metadata.src_node_id)
    failed = [str(reply.error.reason) for reply in replies if reply.has_error()]
    if len(replies) - len(failed) < nodes:
        raise FedvpaError(
            f"{len(replies) - len(failed)} of {nodes} nodes introduced themselves within {deadline:g} s "
            f"({'; '.join(sorted(set(failed))) or 'the others did not answer'})."
        )
    said = {
        reply.metadata.src_node_id: unpack_introduction(reply.content) for reply in replies if not reply.has_error()
    }
    hosts: dict[str, int] = {}
    for node, introduction in said.items():
        for name in introduction.clients:
            if name in hosts:
                raise DataError(f"Two nodes host the client {name!r}.", fix="Give every user one node.")
            hosts[name] = node
    if not hosts:
        raise DataError("No node hosts a client.", fix="Check data-path in the nodes' --node-config.")
    by_size = sorted(said.values(), key=lambda introduction: sorted(introduction.clients))
    moments = reduce(Moments.__add__, (introduction.moments for introduction in by_size))
    return Roster(tuple(sorted(hosts)), hosts, moments)
