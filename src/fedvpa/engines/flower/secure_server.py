"""A cohort whose updates the server sees as one sum: secure aggregation through Flower's Grid.

Four stages, each a message to every node of the cohort that stayed so far: keys, shares, masked vectors, shares of what
unmasks the sum. See :mod:`fedvpa.privacy.secure_sum` for the protocol, and ``secure_node.py`` for the nodes' side.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flwr.app import MessageType, RecordDict

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server.robust import Part
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.core.tree import Tree
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.flower.records import pack_request
from fedvpa.engines.flower.secure_records import (
    SETUP,
    SHARE,
    UNMASK,
    Collected,
    by_node,
    ids,
    pack_collected,
    pack_keys,
    record,
    secure_traffic,
    unpack_masked,
    values_of,
)
from fedvpa.engines.flower.server import GridCohort
from fedvpa.engines.runner import CohortResult, CohortRunner, CohortTask
from fedvpa.privacy.quantised import Layout, Words, restored
from fedvpa.privacy.secure_sum import PublicKeys, unmasked
from fedvpa.privacy.shares import Shares
from fedvpa.privacy.thresholds import FEWEST_NODES, threshold_of

ReadT = TypeVar("ReadT")


def secured(run: GridCohort, engine: EngineConfig) -> CohortRunner:
    """The same cohorts, with secure aggregation if the run asks for it."""
    return SecureCohort(run, engine.secure_share) if engine.secure_aggregation else run


@dataclass
class SecureCohort:
    """Runs cohorts with secure aggregation: a :class:`~fedvpa.engines.runner.CohortRunner` that meters itself.

    Attributes:
        plain: Runs cohorts without it; how nodes are asked and what they are sent is the same.
        share: ``engine.secure_share``.
        uplink_bytes: Of the last cohort: all that the nodes sent.
        downlink_bytes: Of the last cohort: what they were sent beside the broadcast.
    """

    plain: GridCohort
    share: float
    uplink_bytes: int = 0
    downlink_bytes: int = 0

    def __call__(self, task: CohortTask) -> CohortResult:
        """One round; one part comes back, of all clients whose nodes sent a vector, or none.

        A round whose clients are on too few nodes, or of which too few stay after the drop-outs of the configuration,
        is not begun: it is said, and counts as one in which nobody answered.

        Raises:
            FedvpaError: If too many nodes fall silent. The server then has nothing that it can read.
        """
        self.uplink_bytes = self.downlink_bytes = 0
        nodes = self.plain.hosted(task.cohort, set(task.cohort))
        asked = self.plain.hosted(task.cohort, set(task.reporting))
        if not asked:
            return [], {}
        if isinstance(task.layout, Shares):
            if len(nodes) > task.layout.most:
                raise FedvpaError(
                    f"round {task.broadcast.round}: users are on more nodes than the {task.layout.most} that "
                    "were there when the server started, for which the noise is made. Start it again, and it goes on."
                )
            fill = self._fill(nodes, task.layout.least, task.broadcast.round)
            nodes, asked = nodes | fill, asked | fill
        threshold = threshold_of(len(nodes), self.share)
        if problem := _too_few(len(nodes), len(asked), threshold, hidden=task.hidden):
            say(f"round {task.broadcast.round}: nobody is asked: {problem}")
            return [], {}
        return _Exchange(self, task, nodes, asked, threshold).run()

    def _fill(self, nodes: Collection[int], least: int, round_: int) -> dict[int, tuple[str, ...]]:
        """Nodes that are online and have no client of the cohort, so that there are enough; others in each round."""
        online, places = set(self.plain.grid.get_node_ids()), self.plain.places
        free = [node for node in sorted(places, key=places.__getitem__) if node in online and node not in nodes]
        missing = max(0, least - len(nodes))
        if missing > len(free):
            raise FedvpaError(
                f"round {round_}: too few nodes are online to add noise: there must be {least}, with those "
                "that have no user of the round. The run stops at its last checkpoint."
            )
        start = round_ * missing % max(1, len(free))
        return dict.fromkeys((free[start:] + free[:start])[:missing], ())


def _too_few(nodes: int, asked: int, threshold: int, *, hidden: bool) -> str:
    """Why a round cannot be, without its numbers if they are hidden; empty if it can."""
    if nodes < FEWEST_NODES:
        where = "too few nodes" if hidden else f"{nodes} nodes"
        return (
            f"its clients are on {where}, and secure aggregation adds up {FEWEST_NODES} at least. A larger cohort "
            "makes this rare"
        )
    if asked < threshold:
        if hidden:
            return "too few nodes stay after engine.dropout for secure aggregation"
        return f"{asked} of {nodes} nodes stay after engine.dropout, and secure aggregation needs {threshold}"
    return ""


@dataclass
class _Exchange:
    """One request, from the keys to the sum.

    Attributes:
        cohort: What it belongs to, for traffic and messages.
        task: What the clients do.
        nodes: Node → its clients of the cohort.
        asked: Node → its clients that report; the nodes that are not among them fall silent after dealing shares.
        threshold: How many nodes must stay.
        name: The name of the request.
        silent: Node → why it fell silent.
    """

    cohort: SecureCohort
    task: CohortTask
    nodes: Mapping[int, tuple[str, ...]]
    asked: Mapping[int, tuple[str, ...]]
    threshold: int
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    silent: dict[int, str] = field(default_factory=dict)

    def run(self) -> CohortResult:
        """The sum of the nodes that sent a vector."""
        keys = self._set_up()
        sealed = self._share(keys)
        keys = {node: keys[node] for node in sealed}
        vectors, kept = self._collect(sealed)
        silent = {node: why for node, why in self.silent.items() if node in self.asked}
        self.cohort.plain.settle(self.asked, silent, hidden=self.task.hidden)
        self.task.before_unmasking()
        total, layout = self._unmask(keys, vectors), self._layout
        names = {name for node in vectors for name in self.asked[node]}
        clients = tuple(name for name in self.task.cohort if name in names)
        noise = len(vectors) * layout.node_deviation(self.threshold) ** 2 if isinstance(layout, Shares) else 0
        part = Part(clients, CohortUpdate(restored(layout, total)), noise)
        return [part], {name: kept[name] for name in clients if name in kept}

    def _set_up(self) -> dict[int, PublicKeys]:
        """Node → its public keys."""
        answers = self._ask({node: record(request=self.name) for node in self.nodes}, f"query.{SETUP}")
        return self._read("gave keys", answers, lambda _, values: PublicKeys(**values))

    def _share(self, keys: Mapping[int, PublicKeys]) -> dict[int, dict[int, bytes]]:
        """Node that dealt shares → other node → the share for it, encrypted."""
        content = pack_keys(self.name, keys, self.threshold)
        answers = self._ask(dict.fromkeys(keys, content), f"query.{SHARE}")

        def read(node: int, values: Mapping[str, Any]) -> dict[int, bytes]:
            return _of_all(keys.keys() - {node}, values["nodes"], values["sealed"])

        return self._read("dealt shares", answers, read)

    def _collect(self, sealed: Mapping[int, Mapping[int, bytes]]) -> tuple[dict[int, Words], dict[str, Tree]]:
        """Node → its masked vector; and the private state of simulated clients."""
        layout, contents = self._layout, {}
        for node in sealed:
            if node in self.asked:
                for_it = {other: dealt[node] for other, dealt in sealed.items() if other != node}
                request = pack_request(self.cohort.plain.request(self.task, node, self.asked[node]))
                contents[node] = pack_collected(request, self._asked(node, for_it))
        answers, vectors, kept = self._ask(contents, MessageType.TRAIN), dict[int, Words](), dict[str, Tree]()
        for node, content in answers.items():
            try:
                vectors[node], mine = unpack_masked(content, layout.size(layout.narrow), layout.size(layout.wide))
                kept |= mine
            except DataError as error:
                self.silent[node] = str(error)
        self._check("sent a vector", len(vectors))
        return vectors, kept

    def _asked(self, node: int, sealed: Mapping[int, bytes]) -> Collected:
        """What a node is told beside the request for training."""
        layout = self._layout
        if isinstance(layout, Shares):
            return Collected(self.name, sealed, shares=layout, place=self.cohort.plain.places[node])
        return Collected(self.name, sealed, layout.largest, layout.clients)

    def _unmask(self, keys: Mapping[int, PublicKeys], vectors: Mapping[int, Words]) -> Words:
        """The sum of the vectors."""
        sent, silent = sorted(vectors), sorted(keys.keys() - vectors.keys())
        content = record(request=self.name, sent=ids(sent), silent=ids(silent))
        answers = self._ask(dict.fromkeys(sent, content), f"query.{UNMASK}")

        def read(node: int, values: Mapping[str, Any]) -> dict[int, bytes]:
            return _of_all(sent, values["sent"], values["seeds"]) | _of_all(
                silent, values["silent"], values["mask_keys"]
            )

        shares = list(self._read("gave shares that unmask", answers, read).values())[: self.threshold]
        of = {node: [one[node] for one in shares] for node in (*sent, *silent)}
        try:
            return unmasked(vectors, keys, of, of)
        except DataError as error:
            raise self._failed(f"the sum cannot be unmasked: {error}") from error

    def _ask(self, contents: Mapping[int, RecordDict], kind: str) -> dict[int, RecordDict]:
        """The answers to a stage, metered; who is silent is remembered."""
        answers, silent = self.cohort.plain.ask(contents, kind, self.task.broadcast.round)
        self.silent |= silent
        self.cohort.downlink_bytes += sum(map(secure_traffic, contents.values()))
        self.cohort.uplink_bytes += sum(map(secure_traffic, answers.values()))
        return answers

    def _read(
        self, stage: str, answers: Mapping[int, RecordDict], read: Callable[[int, Mapping[str, Any]], ReadT]
    ) -> dict[int, ReadT]:
        """Node → what its answer holds, of at least as many nodes as must stay."""
        found = dict[int, ReadT]()
        for node, content in answers.items():
            try:
                found[node] = read(node, values_of(content))
            except (DataError, KeyError, ValueError, TypeError):
                self.silent[node] = "an answer that cannot be read: it may run another version of fedvpa"
        self._check(stage, len(found))
        return found

    def _check(self, stage: str, stayed: int) -> None:
        if stayed < self.threshold:
            counted = f"{stayed} of {len(self.nodes)} nodes {stage}, and {self.threshold} must"
            raise self._failed(f"too few nodes {stage}" if self.task.hidden else counted)

    def _failed(self, why: str) -> FedvpaError:
        reasons = "; ".join(sorted(set(self.silent.values())))
        return FedvpaError(
            f"round {self.task.broadcast.round}: secure aggregation failed: {why}. No update of it can be read, and "
            f"the run stops at its last checkpoint{f' ({reasons})' if reasons else ''}."
        )

    @property
    def _layout(self) -> Layout | Shares:
        if self.task.layout is None:
            raise ValueError("the task of secure aggregation does not say how large tensors are")
        return self.task.layout


def _of_all(nodes: Collection[int], named: Any, values: Any) -> dict[int, bytes]:
    """Node → its value, of exactly these nodes. Raises ValueError if they are others."""
    found = by_node(named, values)
    if found.keys() != set(nodes):
        raise ValueError("values of other nodes")
    return found
