"""A cohort through Flower's Grid."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.core.tree import Tree
from fedvpa.engines import vectorised
from fedvpa.engines.config import Codec
from fedvpa.engines.flower.records import Request, pack_request, unpack_reply
from fedvpa.engines.runner import CohortResult, CohortTask
from fedvpa.selector.rotation import name_of
from fedvpa.selector.scaling import Scaling

POLL_SECONDS = 1.0
"""Between two looks for replies or nodes. Chosen by us: small beside a round, and few requests."""
SIMULATED_POLL_SECONDS = 0.02
CLOCK_SECONDS = 60.0
"""How long after its deadline a request that was not fetched is void, so that a node that comes back does not train for
a round that is over. Chosen by us: clocks of nodes may differ by so much."""


@dataclass
class GridCohort:
    """Runs cohorts on the nodes of a grid: a :class:`~fedvpa.engines.runner.CohortRunner`.

    Attributes:
        grid: Flower's.
        hosts: Client id → the node that hosts it; may change between rounds.
        simulated: Whether nodes are simulated: they then get and return private state, for the run directory.
        deadline: Seconds that a round waits for replies.
        quorum: Share of the clients asked that must answer; the others of a round count as dropped out.
        codec: How weights travel.
        scaling: How nodes of a deployment scale their features; simulated nodes know. A rotation is sent to each node
            once, and again to one that did not answer.
        on_poll: Called with the nodes that are online, at each look for replies.
    """

    grid: Grid
    hosts: Mapping[str, int]
    simulated: bool
    deadline: float
    quorum: float
    codec: Codec
    scaling: Scaling | None = None
    on_poll: Callable[[set[int]], None] | None = None
    _initialised: set[str] = field(default_factory=set)
    _turned: set[int] = field(default_factory=set)

    def __call__(self, task: CohortTask) -> CohortResult:
        """One round on the nodes that host the cohort; ``task.holder`` is not read."""
        if not task.reporting:
            return [], {}
        clients = self.hosted(task.cohort, set(task.reporting))
        contents = {node: pack_request(self.request(task, node, names)) for node, names in clients.items()}
        replies, silent = self.ask(contents, MessageType.TRAIN, task.broadcast.round)
        outcomes = []
        for node in clients:
            if node in replies:
                try:
                    outcomes.append(unpack_reply(replies[node], clients[node], self.codec))
                except DataError as error:
                    silent[node] = str(error)
        self.settle(clients, silent, hidden=task.hidden)
        kept = {name: own for _, mine in outcomes for name, own in mine.items()}
        rank = {name: position for position, name in enumerate(task.cohort)}
        parts = sorted((part for found, _ in outcomes for part in found), key=lambda part: rank[part.clients[0]])
        return parts, {name: kept[name] for name in task.cohort if name in kept}

    @property
    def places(self) -> dict[int, int]:
        """Node → its place among all that host a client."""
        return {node: place for place, node in enumerate(sorted(set(self.hosts.values())))}

    def hosted(self, cohort: Sequence[str], asked: Collection[str]) -> dict[int, tuple[str, ...]]:
        """Node → those of its clients that are asked, in the order of the cohort."""
        found: dict[int, tuple[str, ...]] = {}
        for name in cohort:
            if name in asked:
                found[self.hosts[name]] = (*found.get(self.hosts[name], ()), name)
        return found

    def request(self, task: CohortTask, node: int, names: tuple[str, ...]) -> Request:
        """What a node is asked to train, for some of its clients."""
        rank = {name: position for position, name in enumerate(task.cohort)}
        mine = vectorised.select(task.broadcast, [rank[name] for name in names])
        device = self._device(names, task.private)
        return self._scaled(node, Request(mine, names, task.seed, task.single, self.codec, None, device))

    def ask(
        self, contents: Mapping[int, RecordDict], kind: str, round_: int
    ) -> tuple[dict[int, RecordDict], dict[int, str]]:
        """Send each node a message and wait for the answers.

        Args:
            contents: Node → what it is sent.
            kind: The type of the messages.
            round_: The round's number.

        Returns:
            Node → its answer, in the order of ``contents``, so that sums do not depend on who was faster; and node →
            why there is none.
        """
        ttl, group = self.deadline + CLOCK_SECONDS, str(round_)
        messages = [
            Message(content, dst_node_id=node, message_type=kind, ttl=ttl, group_id=group)
            for node, content in contents.items()
        ]
        poll = SIMULATED_POLL_SECONDS if self.simulated else POLL_SECONDS
        replies, gone = exchange(self.grid, messages, self.deadline, poll, self.on_poll)
        answers, silent = dict[int, RecordDict](), dict[int, str]()
        for node in contents:
            if node in gone:
                silent[node] = "the node is gone"
            elif node not in replies:
                silent[node] = f"no answer within {self.deadline:g} s"
            elif replies[node].has_error():
                silent[node] = f"an error: {reason_of(replies[node])}"
            else:
                answers[node] = replies[node].content
        return answers, silent

    def settle(self, clients: Mapping[int, Sequence[str]], silent: Mapping[int, str], *, hidden: bool = False) -> None:
        """Say which nodes' clients dropped out of a request for training, and why.

        Args:
            clients: Node → the clients that it was asked for.
            silent: Node → why there is no update of it.
            hidden: Whether to say why alone, since who was asked, and how many, is a secret of the server's.

        Raises:
            FedvpaError: If fewer clients than the quorum answered.
        """
        self._turned = (self._turned | clients.keys()) - silent.keys()
        reasons = "; ".join(sorted(set(silent.values())))
        for node, reason in {} if hidden else silent.items():
            say(f"dropped out: {', '.join(clients[node])} ({reason})")
        if hidden and silent:
            say(f"some of those asked dropped out ({reasons})")
        asked = sum(len(names) for names in clients.values())
        answered = asked - sum(len(clients[node]) for node in silent)
        if answered < self.quorum * asked:
            who = "too few of the clients asked" if hidden else f"{answered} of {asked} clients"
            raise FedvpaError(
                f"{who} answered, and the quorum is {self.quorum:.0%}: the run stops at its last checkpoint "
                f"({reasons})."
            )

    def _scaled(self, node: int, request: Request) -> Request:
        """The request with how the node scales its features, in a deployment."""
        if self.scaling is None:
            return request
        rotation = self.scaling.rotation
        turned = "" if rotation is None else name_of(rotation)
        sent = None if node in self._turned else rotation
        return replace(request, scaling=self.scaling.standardiser, turned=turned, rotation=sent)

    def _device(self, names: Sequence[str], private: Mapping[str, Tree]) -> Mapping[str, Tree] | None:
        """In simulation, the private state of clients that their node has not seen since it started."""
        if not self.simulated:
            return None
        fresh = {name: private[name] for name in names if name in private and name not in self._initialised}
        self._initialised.update(names)
        return fresh


def reason_of(reply: Message) -> str:
    """What a node says about its error, without the class that Flower puts before it."""
    reason = str(reply.error.reason)
    told = re.fullmatch(r"<class '[\w.]+'>:<'(.*)'>", reason, re.DOTALL)
    return told[1] if told else reason


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    deadline: float,
    poll: float,
    on_poll: Callable[[set[int]], None] | None = None,
) -> tuple[dict[int, Message], set[int]]:
    """Send messages, at most one to each node, and wait for the replies of those that are online.

    Args:
        grid: Flower's.
        messages: What to send.
        deadline: Seconds to wait at most.
        poll: Seconds between two looks.
        on_poll: Called at each look, with the nodes that are online.

    Returns:
        Node → its reply, which may be an error; and the nodes that are, or went, offline without a reply. Other silent
        nodes are in neither.
    """
    until, online = time.monotonic() + deadline, set(grid.get_node_ids())
    waiting = send(grid, [message for message in messages if message.metadata.dst_node_id in online])
    replies: dict[int, Message] = {}
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            replies[waiting.pop(reply.metadata.reply_to_message_id)] = reply
        online = set(grid.get_node_ids())
        waiting = {name: node for name, node in waiting.items() if node in online}
        if on_poll is not None:
            on_poll(online)
        if not waiting or time.monotonic() >= until:
            break
        time.sleep(poll)
    asked = {message.metadata.dst_node_id for message in messages}
    return replies, asked - replies.keys() - online


def send(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; id → node of those that Flower accepted."""
    if not messages:
        return {}
    nodes = [message.metadata.dst_node_id for message in messages]
    return {name: node for name, node in zip(grid.push_messages(messages), nodes, strict=True) if name}
