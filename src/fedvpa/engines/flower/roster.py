"""Who takes part in a deployment: nodes introduce themselves, and the server remembers who hosts whom."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import reduce

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.engines.flower.records import Introduction, unpack_introduction
from fedvpa.engines.flower.server import POLL_SECONDS, exchange, send
from fedvpa.features.standardise import Moments


def _introduction_request(node: int) -> Message:
    """Asks a node who it hosts."""
    return Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY)


@dataclass
class Roster:
    """Who takes part in a deployment: what the server knows where a simulation has a ``Federation``.

    Clients are only ever added: those of a node that is gone are still drawn, and listed as dropped. So a cohort
    depends on who has joined, and not on who happens to be offline.

    Attributes:
        grid: Flower's.
        introductions: Node → what it said about itself, in the order in which nodes joined.
        moments: Of all training pairs of the nodes that were there at the start, added up.
        hosts: Client id → its node.
        client_ids: The clients, sorted.
        groups: None: a deployment knows no true groups.
    """

    grid: Grid
    introductions: dict[int, Introduction]
    moments: Moments
    hosts: dict[str, int] = field(init=False)
    client_ids: tuple[str, ...] = field(init=False)
    groups: tuple[str, ...] = ()
    _asked: dict[str, int] = field(default_factory=dict)
    _failed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hosts = assign(self.introductions, self.introductions)
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
        unknown = online - {*self.introductions, *self._asked.values(), *self._failed}
        self._asked |= send(self.grid, [_introduction_request(node) for node in sorted(unknown)])
        self.hosts.update(assign(self.introductions, online))
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
        self.introductions[node] = introduction


def assign(introductions: Mapping[int, Introduction], online: Collection[int]) -> dict[str, int]:
    """Client id → its node: of several, the first that is online, or the first of all if none is."""
    hosts: dict[str, int] = {}
    for node, introduction in introductions.items():
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
    replies, _ = exchange(grid, [_introduction_request(node) for node in known], deadline, POLL_SECONDS)
    failed = [str(reply.error.reason) for reply in replies.values() if reply.has_error()]
    if len(replies) - len(failed) < nodes:
        raise FedvpaError(
            f"{len(replies) - len(failed)} of {nodes} nodes introduced themselves within {deadline:g} s "
            f"({'; '.join(sorted(set(failed))) or 'the others did not answer'})."
        )
    introductions = {
        node: unpack_introduction(reply.content) for node, reply in sorted(replies.items()) if not reply.has_error()
    }
    hosts: dict[str, int] = {}
    for node, introduction in introductions.items():
        for name in introduction.clients:
            if name in hosts:
                raise DataError(f"Two nodes host the client {name!r}.", fix="Give every user one node.")
            hosts[name] = node
    if not hosts:
        raise DataError("No node hosts a client.", fix="Check data-path in the nodes' --node-config.")
    by_name = sorted(introductions.values(), key=lambda introduction: sorted(introduction.clients))
    return Roster(grid, introductions, reduce(Moments.__add__, (introduction.moments for introduction in by_name)))
