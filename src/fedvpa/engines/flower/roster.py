"""Who takes part in a deployment: nodes introduce themselves, and the server remembers who hosts whom."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedvpa.algorithms.base import FeatureSetting
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.engines.flower.clocks import BOUNDS, NOTED_SECONDS, clock_ahead, clock_words
from fedvpa.engines.flower.records import Introduction, unpack_introduction
from fedvpa.engines.flower.server import POLL_SECONDS, exchange, reason_of, send
from fedvpa.features.standardise import Moments

LATE = "users who came after the training began: {}. With noise (section privacy) they take part in the next one"
"""What is said of users who come later."""


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
        model: The content of the language model that every node must have; None where any will do, if all have it.
        setting: What a method has to know before the first round. By default that of features, without groups, since a
            deployment knows none; a server whose clients hold texts says it once it has loaded its language model.
        hosts: Client id → its node.
        client_ids: The clients, sorted.
    """

    grid: Grid
    introductions: dict[int, Introduction]
    moments: Moments
    model: str | None = None
    setting: Any = None
    hosts: dict[str, int] = field(init=False)
    client_ids: tuple[str, ...] = field(init=False)
    _members: frozenset[str] | None = None
    _asked: dict[str, int] = field(default_factory=dict)
    _failed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hosts = assign(self.introductions, self.introductions)
        self.client_ids = tuple(sorted(self.hosts))
        if self.setting is None:
            self.setting = FeatureSetting(len(self.moments.sum), clients=len(self.client_ids))

    def size(self, client_id: str) -> int:
        """How many training pairs a client has, by what its node said."""
        return self.introductions[self.hosts[client_id]].clients[client_id]

    @property
    def reads(self) -> str:
        """How the texts of all nodes are read, as JSON."""
        return next(iter(self.introductions.values())).reads

    @property
    def left_out(self) -> int:
        """How many users their nodes leave out, because their pairs are too few to learn from."""
        return sum(introduction.left_out for introduction in self.introductions.values())

    def fix(self, members: Collection[str]) -> None:
        """Let nobody else be drawn any more: differential privacy counts on a federation that does not grow.

        Args:
            members: Who was there when the training began. Those of them that are not here are not drawn.
        """
        self._members = frozenset(members)
        if late := self.hosts.keys() - self._members:
            say(LATE.format(len(late)))
        for name in late:
            del self.hosts[name]
        self.client_ids = tuple(sorted(self.hosts))

    def _of_members(self, hosts: Mapping[str, int]) -> dict[str, int]:
        return {name: node for name, node in hosts.items() if self._members is None or name in self._members}

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
        self.hosts.update(self._of_members(assign(self.introductions, online)))
        if len(self.hosts) > len(self.client_ids):
            say(f"joined: {', '.join(sorted(self.hosts.keys() - set(self.client_ids)))}")
            self.client_ids = tuple(sorted(self.hosts))

    def _take_in(self, node: int, reply: Message, online: Collection[int]) -> None:
        try:
            introduction = usable(reply, self.model)
            check_alike(introduction, next(iter(self.introductions.values())))
        except DataError as error:
            self.refuse(node, error)
            return
        twice = [name for name in introduction.clients if name in self.hosts and self.hosts[name] in online]
        if twice:
            say(f"a node that joined hosts clients that another node hosts, which keeps them: {', '.join(twice)}")
        if self._members is not None and (late := introduction.clients.keys() - self._members):
            say(LATE.format(len(late)))
        if introduction.left_out:
            say(f"a node that joined leaves out {introduction.left_out} users, whose pairs are too few to learn from")
        self.introductions[node] = introduction

    def refuse(self, node: int, error: DataError) -> None:
        """Go on without a node, and do not ask it again before it has been offline."""
        self._failed.add(node)
        say(f"a node does not take part: {error}")


def usable(reply: Message, model: str | None = None) -> Introduction:
    """The introduction in what a node answered.

    Args:
        reply: Its answer.
        model: The content of the language model that it must have; None for any.

    Raises:
        DataError: If the node cannot take part, with the reason.
    """
    if reply.has_error():
        raise DataError(reason_of(reply))
    introduction = unpack_introduction(reply.content)
    if not introduction.clients:
        raise DataError(f"none of its {introduction.left_out} users has enough pairs to learn from")
    if model is not None:
        _check_part("model", json.loads(introduction.reads).get("model"), model)
    return introduction


def check_alike(one: Introduction, others: Introduction) -> None:
    """Whether a node reads its texts as the others do.

    Raises:
        DataError: If it does not, with the first difference.
    """
    found, common = len(one.moments.sum), len(others.moments.sum)
    if found != common:
        raise DataError(f"its features have {found} dimensions, not {common}")
    if one.reads != others.reads:
        here, there = (json.loads(each.reads) for each in (one, others))
        for name in sorted(here.keys() | there.keys()):
            _check_part(name, here.get(name), there.get(name))


def _check_part(name: str, here: object, there: object) -> None:
    """Raise DataError if a part of what decides how texts are read is another one on a node."""
    if here == there:
        return
    if name in ("model", "tokenizer", "rendering"):
        raise DataError(f"its language model is another one: {name} {here}, not {there}")
    raise DataError(
        f"its texts are read with {name} = {here!r}, and those of the others {there!r}: export the app with "
        f"features.{name} set for all"
    )


def assign(introductions: Mapping[int, Introduction], online: Collection[int]) -> dict[str, int]:
    """Client id → its node: of several, the first that is online, or the first of all if none is."""
    hosts: dict[str, int] = {}
    for node, introduction in introductions.items():
        for name in introduction.clients:
            if name not in hosts or (hosts[name] not in online and node in online):
                hosts[name] = node
    return hosts


def gather(grid: Grid, nodes: int, deadline: float, quorum: float = 1.0, model: str | None = None) -> Roster:
    """Wait for nodes, and ask them who they host.

    A node that came and cannot take part is left out, with one message, as long as enough others can: it is asked again
    once it has been offline.

    Args:
        grid: Flower's.
        nodes: How many nodes to wait for.
        deadline: Seconds to wait for them, and then for their answers.
        quorum: The share of them that must be able to take part.
        model: The content of the language model that every node must have; None where it is that of most of them.

    Raises:
        FedvpaError: If too few nodes come or answer in time, or can take part.
        DataError: If two nodes host the same client.
    """
    known = list(grid.get_node_ids())
    until = time.monotonic() + deadline
    while len(known) < nodes and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        known = list(grid.get_node_ids())
    sent = time.time()
    replies, _ = exchange(grid, [_introduction_request(node) for node in known], deadline, POLL_SECONDS)
    _note_clocks(replies, sent, time.time())
    introductions, refused = _sorted_out(replies, model)
    if len(replies) < nodes or len(introductions) < quorum * nodes:
        reasons = "; ".join(sorted(set(map(str, refused.values())))) or "the others did not answer"
        raise FedvpaError(
            f"{len(introductions)} of {nodes} nodes introduced themselves within {deadline:g} s ({reasons}). Check "
            f"that they run, and their logs. {BOUNDS}, and does not say so: fedvpa doctor --superlink on it does."
        )
    _check_hosts(introductions)
    by_name = sorted(introductions.values(), key=lambda introduction: sorted(introduction.clients))
    moments = reduce(Moments.__add__, (introduction.moments for introduction in by_name))
    roster = Roster(grid, introductions, moments, model)
    for node, error in refused.items():
        roster.refuse(node, error)
    return roster


def _sorted_out(
    replies: Mapping[int, Message], model: str | None
) -> tuple[dict[int, Introduction], dict[int, DataError]]:
    """The nodes that can take part together, and why the others cannot; the features are those of most of them."""
    introductions: dict[int, Introduction] = {}
    refused: dict[int, DataError] = {}
    for node, reply in sorted(replies.items()):
        try:
            introductions[node] = usable(reply, model)
        except DataError as error:
            refused[node] = error
    kinds = Counter(map(_kind, introductions.values()))
    most = max(kinds, key=lambda kind: (kinds[kind], kind), default=None)
    for node, one in list(introductions.items()):
        try:
            check_alike(one, next(other for other in introductions.values() if _kind(other) == most))
        except DataError as error:
            del introductions[node]
            refused[node] = error
    return introductions, refused


def _kind(introduction: Introduction) -> tuple[int, str]:
    """What two nodes that train together have in common."""
    return len(introduction.moments.sum), introduction.reads


def _check_hosts(introductions: Mapping[int, Introduction]) -> None:
    names = Counter(name for introduction in introductions.values() for name in introduction.clients)
    for name, count in names.items():
        if count > 1:
            raise DataError(f"Two nodes host the client {name!r}.", fix="Give every user one node.")


def _note_clocks(replies: Mapping[int, Message], sent: float, received: float) -> None:
    """Tell of nodes whose clock is off, before Flower refuses them."""
    for node, reply in sorted(replies.items()):
        ahead = clock_ahead(sent, reply.metadata.created_at, received)
        if abs(ahead) >= NOTED_SECONDS:
            say(f"the clock of node {node} is {clock_words(ahead)} of the server's. {BOUNDS}: set it by NTP.")
