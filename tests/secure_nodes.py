"""Ten nodes of secure aggregation in this process, one client on each; needs ``fedvpa[flower]``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flwr.app import Error, Message

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import FedvpaError
from fedvpa.data.partition import Partition
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.client import Node, client_app
from fedvpa.engines.flower.secure_server import SecureCohort
from fedvpa.engines.flower.server import GridCohort
from here_grid import HereGrid, context
from tests_shared import config

SETTING = config(server={"rounds": 2, "clip_norm": 1.0, "max_weight": 8})
FEDERATION = make_federation((11, 7, 1, 3, 5, 13, 2, 0, 4, 6))


class Nodes(HereGrid):
    """Nodes in this process, of one client each, that can fall silent from a stage on; all messages are kept.

    Attributes:
        until: Node → the type of the first message that it does not answer.
        changes: What is done to the content of each answer before the server has it.
        said: Node, type, request and answer of each message.
    """

    def __init__(self, folder: Path, method: str = "fedeb", until: dict[int, str] | None = None) -> None:
        super().__init__(folder)
        clients = FEDERATION.partition.clients
        self.until, self.changes = until or {}, lambda node, kind, content: None
        self.said: list[tuple[int, str, Any, Any]] = []
        self.nodes = {
            number: Node(
                make(method, SETTING),
                Federation(FEDERATION.store, Partition((client,)), FEDERATION.scaling, FEDERATION.weights),
            )
            for number, client in enumerate(clients)
        }

    def _push(self, message):
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        self.sent += 1
        name = message.metadata.__dict__["_message_id"] = f"{self.sent}-{node}"
        if self.until.get(node) == kind:
            self.until[node] = "silent"
        if self.until.get(node) == "silent":
            return name
        try:
            app = client_app(lambda _: self.nodes[node], nullcontext)
            reply = app(message, self.contexts.setdefault(node, context(node)))
        except FedvpaError as error:
            self.replies[name] = Message(Error(2, str(error)), reply_to=message)
            return name
        self.changes(node, kind, reply.content)
        self.said.append((node, kind, message.content, reply.content))
        self.replies[name] = reply
        return name


def runner(grid: Nodes, quorum: float = 0.1) -> SecureCohort:
    hosts = {name: node for node, one in grid.nodes.items() for name in one.holder.client_ids}
    return SecureCohort(GridCohort(grid, hosts, False, 0.0, quorum, "fp32"), 2 / 3)
