"""A cohort through Flower's Grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedvpa.algorithms.base import Algorithm, Broadcast, Private
from fedvpa.algorithms.robust import Part
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.engines import vectorised
from fedvpa.engines.config import Codec
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.records import Introduction, Request, pack_request, unpack_introduction, unpack_reply
from fedvpa.features.standardise import Moments, Standardiser

POLL_SECONDS = 1.0
"""Between two looks for replies or nodes. Chosen by us: small beside a round, and few requests."""
SIMULATED_POLL_SECONDS = 0.02
CLOCK_SECONDS = 60.0
"""How long after its deadline a request that was not fetched is void, so that a node that comes back does not train for
a round that is over. Chosen by us: clocks of nodes may differ by so much."""


@dataclass
class GridCohort:
    """Runs cohorts on the nodes of a grid; a ``RunCohort`` of ``engines/training.py``.

    Attributes:
        grid: Flower's.
        hosts: Client id → the node that hosts it; may change between rounds.
        simulated: Whether nodes are simulated: they then get and return private state, for the run directory.
        deadline: Seconds that a round waits for replies.
        quorum: Share of the clients asked that must answer; the others of a round count as dropped out.
        codec: How weights travel.
        scaling: Mean and scale of the features, for nodes of a deployment; simulated nodes have them.
        meanwhile: Called with the nodes that are online, again and again while a round waits.
    """

    grid: Grid
    hosts: Mapping[str, int]
    simulated: bool
    deadline: float
    quorum: float
    codec: Codec
    scaling: Standardiser | None = None
    meanwhile: Callable[[set[int]], None] | None = None
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
            ttl = self.deadline + CLOCK_SECONDS
            train = Message(content, dst_node_id=node, message_type=MessageType.TRAIN, ttl=ttl, group_id=group)
            messages.append(train)
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
        poll = SIMULATED_POLL_SECONDS if self.simulated else POLL_SECONDS
        replies, gone = exchange(self.grid, messages, self.deadline, poll, self.meanwhile)
        silent = {}
        for node in clients:
            if node in gone:
                silent[node] = "the node is gone"
            elif node not in replies:
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


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    deadline: float,
    poll: float,
    meanwhile: Callable[[set[int]], None] | None = None,
) -> tuple[dict[int, Message], set[int]]:
    """Send messages, at most one to each node, and wait for the replies of those that are online.

    Args:
        grid: Flower's.
        messages: What to send.
        deadline: Seconds to wait at most.
        poll: Seconds between two looks.
        meanwhile: Called at each look, with the nodes that are online.

    Returns:
        Node → its reply, which may be an error; and the nodes that are, or went, offline without a reply. Other silent
        nodes are in neither.
    """
    until, online = time.monotonic() + deadline, set(grid.get_node_ids())
    waiting = _send(grid, [message for message in messages if message.metadata.dst_node_id in online])
    replies: dict[int, Message] = {}
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            replies[waiting.pop(reply.metadata.reply_to_message_id)] = reply
        online = set(grid.get_node_ids())
        waiting = {name: node for name, node in waiting.items() if node in online}
        if meanwhile is not None:
            meanwhile(online)
        if not waiting or time.monotonic() >= until:
            break
        time.sleep(poll)
    asked = {message.metadata.dst_node_id for message in messages}
    return replies, asked - replies.keys() - online


def _send(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; id → node of those that Flower accepted."""
    if not messages:
        return {}
    nodes = [message.metadata.dst_node_id for message in messages]
    return {name: node for name, node in zip(grid.push_messages(messages), nodes, strict=True) if name}


def _question(node: int) -> Message:
    """Who do you host?"""
    return Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY)


@dataclass
class Roster:
    """Who takes part in a deployment: what the server knows where a simulation has a ``Federation``.

    Clients are only ever added: those of a node that is gone are still drawn, and listed as dropped. So a cohort
    depends on who has joined, and not on who happens to be offline.

    Attributes:
        grid: Flower's.
        said: Node → what it said about itself, in the order in which nodes joined.
        moments: Of all training pairs of the nodes that were there at the start, added up.
        hosts: Client id → its node.
        client_ids: The clients, sorted.
        groups: None: a deployment knows no true groups.
    """

    grid: Grid
    said: dict[int, Introduction]
    moments: Moments
    hosts: dict[str, int] = field(init=False)
    client_ids: tuple[str, ...] = field(init=False)
    groups: tuple[str, ...] = ()
    _asked: dict[str, int] = field(default_factory=dict)
    _failed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hosts = assign(self.said, self.said)
        self.client_ids = tuple(sorted(self.hosts))

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.moments.sum)

    def refresh(self, online: set[int]) -> None:
        """Take in the nodes that have introduced themselves, and ask those that are new. Waits for nobody.

        A round that has begun keeps its cohort: those who join can be drawn from the next one on. A node that comes
        back under its old id is in the roster already. One that errs is not asked again before it has been offline.

        Args:
            online: The nodes that are.
        """
        self._failed &= online
        self._asked = {name: node for name, node in self._asked.items() if node in online}
        for reply in self.grid.pull_messages(list(self._asked)) if self._asked else ():
            self._take_in(self._asked.pop(reply.metadata.reply_to_message_id), reply, online)
        self._asked |= _send(
            self.grid, [_question(node) for node in sorted(online - {*self.said, *self._asked.values(), *self._failed})]
        )
        self.hosts.update(assign(self.said, online))
        if len(self.hosts) > len(self.client_ids):
            say(f"joined: {', '.join(sorted(self.hosts.keys() - set(self.client_ids)))}")
            self.client_ids = tuple(sorted(self.hosts))

    def _take_in(self, node: int, reply: Message, online: Collection[int]) -> None:
        if reply.has_error():
            self._failed.add(node)
            say(f"a node that joined does not take part: {reply.error.reason}")
            return
        introduction = unpack_introduction(reply.content)
        if len(introduction.moments.sum) != self.dimension:
            self._failed.add(node)
            found = len(introduction.moments.sum)
            say(f"a node that joined does not take part: its features have {found} dimensions, not {self.dimension}")
            return
        twice = [name for name in introduction.clients if name in self.hosts and self.hosts[name] in online]
        if twice:
            say(f"a node that joined hosts clients that another node hosts, which keeps them: {', '.join(twice)}")
        self.said[node] = introduction


def assign(said: Mapping[int, Introduction], online: Collection[int]) -> dict[str, int]:
    """Client id → its node: of several, the first that is online, or the first of all if none is."""
    hosts: dict[str, int] = {}
    for node, introduction in said.items():
        for name in introduction.clients:
            if name not in hosts or (hosts[name] not in online and node in online):
                hosts[name] = node
    return hosts


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
    replies, _ = exchange(grid, [_question(node) for node in known], deadline, POLL_SECONDS)
    failed = [str(reply.error.reason) for reply in replies.values() if reply.has_error()]
    if len(replies) - len(failed) < nodes:
        raise FedvpaError(
            f"{len(replies) - len(failed)} of {nodes} nodes introduced themselves within {deadline:g} s "
            f"({'; '.join(sorted(set(failed))) or 'the others did not answer'})."
        )
    said = {
        node: unpack_introduction(reply.content) for node, reply in sorted(replies.items()) if not reply.has_error()
    }
    hosts: dict[str, int] = {}
    for node, introduction in said.items():
        for name in introduction.clients:
            if name in hosts:
                raise DataError(f"Two nodes host the client {name!r}.", fix="Give every user one node.")
            hosts[name] = node
    if not hosts:
        raise DataError("No node hosts a client.", fix="Check data-path in the nodes' --node-config.")
    by_name = sorted(said.values(), key=lambda introduction: sorted(introduction.clients))
    return Roster(grid, said, reduce(Moments.__add__, (introduction.moments for introduction in by_name)))
