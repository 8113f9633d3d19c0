"""What travels between server and nodes, as Flower's records.

    request   shared  weights and what else every client of the cohort gets
              own     what each client alone gets, stacked in the order of ``clients``
              scaling mean and scale of the features, in a deployment; their rotation, where the node does not have it
              task    ids of the clients asked, round, seed, the name of the rotation
              device  private state of clients that a simulated node has not seen yet
    reply     sums    the additive part of the update, summed over the node's clients, or one by one if asked for
              own     what is not additive, by number, in the order of ``clients``; never averaged
              device  private state of a simulated node's clients, for the run directory

``device`` exists in simulation alone, where the run directory is the clients' disk; it is not counted as traffic, and a
node of a deployment neither reads nor sends it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from jaxtyping import Float

from fedvpa.algorithms.base import Broadcast, CohortUpdate
from fedvpa.algorithms.server.robust import Part
from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.core.stacked import decode_each, encode_each
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.engines.codecs import decode, encode
from fedvpa.engines.config import Codec
from fedvpa.features.standardise import Moments, Standardiser

COUNTED = ("shared", "own", "sums")
"""The records that are traffic."""


@dataclass(frozen=True, repr=False)
class Request:
    """What one node is asked for.

    Attributes:
        broadcast: Weights, prior and the rest; its own part belongs to ``clients``, in their order.
        clients: Ids of the clients asked.
        seed: The run's seed.
        single: Whether the node sends its clients' updates one by one instead of their sum.
        codec: How weights travel, in both directions.
        scaling: How the node scales its features; None in simulation, where it knows.
        private: Private state for a simulated node that starts anew; None in a deployment.
        turned: Names the rotation of the features; empty for none.
        rotation: The rotation, for a node that does not have it yet: it is larger than what a round sends.
    """

    broadcast: Broadcast
    clients: tuple[str, ...]
    seed: int
    single: bool
    codec: Codec
    scaling: Standardiser | None
    private: Mapping[str, Tree] | None
    turned: str = ""
    rotation: Float[np.ndarray, "d D"] | None = None

    __repr__ = short_repr


def arrays(tree: Mapping[str, object]) -> ArrayRecord:
    """A tree as a record of arrays."""
    return ArrayRecord(torch_state_dict=OrderedDict(tree))


def tree_of(record: ArrayRecord) -> Tree:
    """The tree of a record of arrays."""
    return dict(record.to_torch_state_dict())


def pack_private(private: Mapping[str, Tree]) -> RecordDict:
    """Private state as records: the content of a node's ``context.state``, or of ``device``."""
    return RecordDict({"private": arrays(encode_each(private))})


def unpack_private(records: RecordDict) -> dict[str, Tree]:
    """What :func:`pack_private` packed; empty if there is nothing."""
    if "private" not in records.array_records:
        return {}
    return decode_each(tree_of(records.array_records["private"]))


def pack_request(request: Request) -> RecordDict:
    """A request as records."""
    broadcast = request.broadcast
    task: dict[str, Any] = {
        "clients": json.dumps(request.clients),
        "round": broadcast.round,
        "seed": request.seed,
        "single": request.single,
        "codec": request.codec,
        "simulated": request.private is not None,
        "turned": request.turned,
    }
    records = RecordDict({"shared": arrays(encode(broadcast.shared, request.codec)), "task": ConfigRecord(task)})
    if request.scaling is not None:
        mean, scale = torch.from_numpy(request.scaling.mean), torch.from_numpy(request.scaling.scale)
        rotation = {} if request.rotation is None else {"rotation": torch.from_numpy(request.rotation)}
        records["scaling"] = arrays({"mean": mean, "scale": scale, **rotation})
    if broadcast.own:
        records["own"] = arrays(broadcast.own)
    return with_device(records, request.private)


def unpack_request(records: RecordDict) -> Request:
    """What :func:`pack_request` packed."""
    task = records.config_records["task"]
    own = tree_of(records.array_records["own"]) if "own" in records.array_records else {}
    codec = cast(Codec, task["codec"])
    shared = decode(tree_of(records.array_records["shared"]), codec)
    broadcast = Broadcast(shared, own, int(str(task["round"])))
    private = device_of(records) if task["simulated"] else None
    scaling = rotation = None
    if "scaling" in records.array_records:
        sent = tree_of(records.array_records["scaling"])
        scaling = Standardiser(sent["mean"].numpy(), sent["scale"].numpy())
        rotation = sent["rotation"].numpy() if "rotation" in sent else None
    clients, turned = tuple(json.loads(str(task["clients"]))), str(task["turned"])
    seed, single = int(str(task["seed"])), bool(task["single"])
    return Request(broadcast, clients, seed, single, codec, scaling, private, turned, rotation)


def pack_reply(
    parts: Sequence[Part], clients: Sequence[str], codec: Codec, private: Mapping[str, Tree] | None
) -> RecordDict:
    """A node's updates as records, with private state if the node is simulated."""
    numbers = {name: row for row, name in enumerate(clients)}
    sums: Tree = {}
    for number, part in enumerate(parts):
        sums |= prefixed(str(number), encode(part.update.sums, codec))
    own: Tree = {}
    for part in parts:
        for name, mine in part.update.own.items():
            own |= prefixed(str(numbers[name]), mine)
    members = json.dumps([part.clients for part in parts])
    records = RecordDict(
        {
            "sums": arrays(sums),
            "own": arrays(own),
            "parts": ConfigRecord({"clients": members}),
        }
    )
    return with_device(records, private)


def unpack_reply(records: RecordDict, clients: Sequence[str], codec: Codec) -> tuple[list[Part], dict[str, Tree]]:
    """The updates of the clients that were asked, and their private state if the node is simulated.

    Raises:
        DataError: If the records are no reply to what was asked.
    """
    try:
        return _reply(records, clients, codec)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError("an answer that cannot be read: it may run another version of fedvpa") from error


def _reply(records: RecordDict, clients: Sequence[str], codec: Codec) -> tuple[list[Part], dict[str, Tree]]:
    tensors, sums = (tree_of(records.array_records[name]) for name in ("own", "sums"))
    numbers = {name: row for row, name in enumerate(clients)}
    parts = []
    told = json.loads(str(records.config_records["parts"]["clients"]))
    named = [name for members in told for name in members]
    if not all(told) or sorted(named) != sorted(set(named) & set(clients)):
        raise ValueError("parts of nobody, of others, or of somebody twice")
    for number, members in enumerate(told):
        own = {name: mine for name in members if (mine := below(str(numbers[name]), tensors))}
        parts.append(Part(tuple(members), CohortUpdate(decode(below(str(number), sums), codec), own)))
    return parts, device_of(records)


@dataclass(frozen=True)
class Introduction:
    """What a node says about itself before the first round.

    Attributes:
        clients: Client id → its number of training pairs; 1 of each where the run's sums are noised.
        moments: Of the features of its training pairs: they add up, no vector leaves the node. Without dimensions where
            clients hold texts. Of nothing where the run's sums are noised: then they say the dimension alone.
        reads: How its texts are read, as JSON: its language model by content, and the rest that decides features or
            tokens. Nodes train together if this is the same for all of them.
        left_out: How many further users it holds whose pairs are too few to learn from; who they are stays there.
    """

    clients: Mapping[str, int]
    moments: Moments
    reads: str = ""
    left_out: int = 0


def pack_introduction(introduction: Introduction) -> RecordDict:
    """An introduction as records."""
    moments = introduction.moments
    tensors = {"sum": torch.from_numpy(moments.sum), "sum_of_squares": torch.from_numpy(moments.sum_of_squares)}
    clients = json.dumps(dict(introduction.clients))
    facts = ConfigRecord(
        {
            "clients": clients,
            "count": moments.count,
            "reads": introduction.reads,
            "left-out": introduction.left_out,
        }
    )
    return RecordDict({"moments": arrays(tensors), "facts": facts})


def unpack_introduction(records: RecordDict) -> Introduction:
    """What :func:`pack_introduction` packed.

    Raises:
        DataError: If it is none: the node runs another version.
    """
    try:
        return _introduction(records)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError("its introduction cannot be read: it may run another version of fedvpa") from error


def _introduction(records: RecordDict) -> Introduction:
    tensors, facts = tree_of(records.array_records["moments"]), records.config_records["facts"]
    moments = Moments(float(str(facts["count"])), tensors["sum"].numpy(), tensors["sum_of_squares"].numpy())
    left_out = int(str(facts["left-out"]))
    return Introduction(json.loads(str(facts["clients"])), moments, str(facts["reads"]), left_out)


def traffic(records: RecordDict) -> int:
    """Bytes of the encoded tensors that a message carries."""
    counted = (record for name, record in records.array_records.items() if name in COUNTED)
    return sum(len(array.data) for record in counted for array in record.values())


def with_device(records: RecordDict, private: Mapping[str, Tree] | None) -> RecordDict:
    """The records with private state, if there is any and the node is simulated."""
    if private:
        records["device"] = pack_private(private)["private"]
    return records


def device_of(records: RecordDict) -> dict[str, Tree]:
    """The private state in a message of a simulation; empty if there is none."""
    if "device" not in records.array_records:
        return {}
    return unpack_private(RecordDict({"private": records["device"]}))
