"""The second exchange of a deployment: nodes add up what the basis of the features is made of.

It follows the introductions, because differences are those of scaled features, and only the sum of all introductions
says how features are scaled. See :mod:`fedvpa.selector.rotation`.

    request   scaling  mean and scale of the features
              task     ids of the node's clients that contribute
    reply     moment   the upper triangle of their second moments, added up
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from jaxtyping import Float
from numpy.typing import NDArray

from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.core.progress import say
from fedvpa.engines.flower.records import arrays, tree_of
from fedvpa.engines.flower.roster import Roster
from fedvpa.engines.flower.server import POLL_SECONDS, exchange, reason_of
from fedvpa.features.standardise import Standardiser
from fedvpa.selector.rotation import contributors

ACTION = "rotation"
"""The query of Flower that asks for it."""


def pack_question(standardiser: Standardiser, clients: tuple[str, ...]) -> RecordDict:
    """What a node is asked: how to scale, and whose pairs to read."""
    scaling = {"mean": torch.from_numpy(standardiser.mean), "scale": torch.from_numpy(standardiser.scale)}
    return RecordDict({"scaling": arrays(scaling), "task": ConfigRecord({"clients": json.dumps(clients)})})


def unpack_question(records: RecordDict) -> tuple[Standardiser, tuple[str, ...]]:
    """What :func:`pack_question` packed."""
    sent = tree_of(records.array_records["scaling"])
    clients = json.loads(str(records.config_records["task"]["clients"]))
    return Standardiser(sent["mean"].numpy(), sent["scale"].numpy()), tuple(clients)


def pack_moment(moment: Float[np.ndarray, "d d"]) -> RecordDict:
    """A second moment as records; it is symmetric, so half of it travels."""
    return RecordDict({"moment": arrays({"upper": torch.from_numpy(moment[np.triu_indices(len(moment))])})})


def unpack_moment(records: RecordDict, dimension: int) -> NDArray[np.float64]:
    """What :func:`pack_moment` packed.

    Raises:
        DataError: If it is none, of another dimension, or cannot be a second moment.
    """
    try:
        upper = tree_of(records.array_records["moment"])["upper"].numpy()
    except (KeyError, ValueError, TypeError) as error:
        raise DataError("its second moment cannot be read: it may run another version of fedvpa") from error
    moment = np.zeros((dimension, dimension))
    rows, columns = np.triu_indices(dimension)
    if upper.shape != rows.shape or upper.dtype != np.float64:
        raise DataError(f"its second moment is none of {dimension} dimensions")
    moment[rows, columns] = moment[columns, rows] = upper
    if not np.isfinite(upper).all() or moment.diagonal().min() < 0:
        raise DataError("its second moment is not finite, or has a negative square")
    return moment


def gather_moment(roster: Roster, standardiser: Standardiser, deadline: float, quorum: float) -> NDArray[np.float64]:
    """The second moment of the differences of the contributing clients, from their nodes, shape [d, d].

    Args:
        roster: Who takes part.
        standardiser: From the sum of their moments.
        deadline: Seconds to wait for answers.
        quorum: The share of the contributing clients whose nodes must answer; the others are left out, and it is said.

    Raises:
        FedvpaError: If too few answer.
    """
    asked: dict[int, list[str]] = {}
    for name in contributors(roster.client_ids):
        asked.setdefault(roster.hosts[name], []).append(name)
    messages = [
        Message(pack_question(standardiser, tuple(names)), dst_node_id=node, message_type=f"query.{ACTION}")
        for node, names in asked.items()
    ]
    replies, _ = exchange(roster.grid, messages, deadline, POLL_SECONDS)
    moments = _usable(replies, asked, len(standardiser.mean))
    answered, wanted = sum(len(asked[node]) for node in moments), sum(map(len, asked.values()))
    if not moments or answered < quorum * wanted:
        raise FedvpaError(
            f"{answered} of {wanted} clients sent what the rotation of the features is made of, and the quorum is "
            f"{quorum:.0%}. Check their nodes' logs, or set selector.rotation=none."
        )
    # In the order of the clients' names, so that the sum does not depend on who was faster.
    return np.sum([moments[node] for node in sorted(moments, key=lambda node: asked[node])], axis=0)


def _usable(
    replies: Mapping[int, Message], asked: Mapping[int, list[str]], dimension: int
) -> dict[int, NDArray[np.float64]]:
    """Node → its second moment, of those that sent one; says who did not."""
    found: dict[int, NDArray[np.float64]] = {}
    for node, names in asked.items():
        try:
            if node not in replies:
                raise DataError("no answer")
            if replies[node].has_error():
                raise DataError(reason_of(replies[node]))
            found[node] = unpack_moment(replies[node].content, dimension)
        except DataError as error:
            say(f"the rotation of the features is made without {', '.join(names)}: {error}")
    return found
