"""Nodes in this process whose clients train a language model; needs ``fedvpa[flower]``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedvpa.engines.flower.client import Node
from here_grid import HereGrid


class TextGrid(HereGrid):
    """A :class:`HereGrid` of such nodes.

    Attributes:
        parts: For each answer to a request for training, the clients of each of its updates.
    """

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self.faults, self.gone, self.sent, self.replies, self.leave_after = {}, set(), 0, {}, None
        self.nodes, self.contexts = dict(nodes), {}
        self.parts: list[list[list[str]]] = []

    def _push(self, message):
        name = super()._push(message)
        content = self.replies[name].content if name in self.replies else {}
        if "parts" in content:
            self.parts.append([sorted(names) for names in json.loads(str(content["parts"]["clients"]))])
        return name
