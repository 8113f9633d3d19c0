"""A federation on Flower whose server and nodes share one process; needs ``fedvpa[flower]``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.data.partition import Partition
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.client import Node, client_app
from fedvpa.engines.flower.devices import OnDisk
from tests_shared import config

SETTING = config(server={"rounds": 6})


@contextmanager
def task() -> Iterator[None]:
    """Flower stamps messages with the task that it runs in."""
    with mock.patch.multiple(TaskIdentity, _task_id=1, _run_id=1, _node_id=1):
        yield


def given(out: Path, **changed: object) -> dict[str, object]:
    """What a server of two nodes is given."""
    return {"out": str(out), "nodes": 2, "deadline": 1.0, "quorum": 0.5, **changed}


def share(federation: Federation, number: int) -> Federation:
    """The clients of one of two nodes."""
    clients = tuple(client for row, client in enumerate(federation.partition.clients) if row % 2 == number)
    return Federation(federation.store, Partition(clients), federation.scaling, federation.weights)


class HereGrid(Grid):
    """A grid whose two nodes run in this process and answer when they are asked.

    Attributes:
        nodes: By number.
        faults: Node → ``silent``, ``error``, ``nan`` or ``narrow``.
        gone: The nodes that are offline.
        contexts: Node → what Flower keeps for it as long as a run lasts.
        leave_after: After so many messages the next one to node 1 finds it online, and is never answered: it dies.
    """

    def __init__(
        self, folder: Path, faults: dict[int, str] | None = None, gone: Collection[int] = (), method: str = "fedeb"
    ) -> None:
        self.faults, self.gone, self.sent, self.replies = faults or {}, set(gone), 0, {}
        self.leave_after: int | None = None
        self.contexts: dict[int, Context] = {}
        self.nodes = {
            number: Node(
                make(method, SETTING),
                share(make_federation(), number),
                OnDisk(folder / str(number)),
                reads=json.dumps({"model": "none", "template": "plain"}),
            )
            for number in (0, 1)
        }

    def get_node_ids(self):
        return [node for node in self.nodes if node not in self.gone]

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        node = message.metadata.dst_node_id
        assert node not in self.gone, "nobody sends to a node that is gone"
        self.sent += 1
        name = message.metadata.__dict__["_message_id"] = f"{self.sent}-{node}"
        fault = self.faults.get(node)
        if node == 1 and self.leave_after is not None and self.sent > self.leave_after:
            self.gone.add(node)
            return name
        if fault == "silent":
            return name
        if fault == "error":
            self.replies[name] = Message(Error(2, "out of memory"), reply_to=message)
            return name
        reply = client_app(lambda _: self.nodes[node], nullcontext)(
            message, self.contexts.setdefault(node, context(node))
        )
        if fault == "nan" and "sums" in reply.content:
            sums = dict(reply.content["sums"].to_torch_state_dict())
            broken = {name: leaf * torch.nan if leaf.is_floating_point() else leaf for name, leaf in sums.items()}
            reply.content["sums"] = type(reply.content["sums"])(broken)
        if fault == "narrow":
            moments = {key: leaf[:3] for key, leaf in reply.content["moments"].to_torch_state_dict().items()}
            reply.content["moments"] = type(reply.content["moments"])(moments)
        self.replies[name] = reply
        return name

    def pull_messages(self, message_ids):
        return [self.replies.pop(name) for name in message_ids if name in self.replies]

    def set_run(self, run):
        raise NotImplementedError

    run = create_message = send_and_receive = property(lambda self: None)


def context(number: int) -> Context:
    return Context(run_id=1, node_id=number, node_config=UserConfig(), state=RecordDict(), run_config=UserConfig())
