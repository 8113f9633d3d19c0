"""What travels for secure aggregation, as Flower's records; :mod:`fedvpa.privacy.secure_sum` says what it is.

stage     request                                      reply
setup     the name of the request                      public keys
share     public keys of all, threshold                for each other node a share, encrypted
collect   the shares for this node, layout, and what   masked integers in place of ``sums``
          every request for training holds
unmask    who sent integers, who fell silent           of each of the former a share of its seed, of each of the
                                                       latter one of its key
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.engines.flower.records import device_of, with_device
from fedvpa.privacy.quantised import Words
from fedvpa.privacy.secure_sum import PublicKeys
from fedvpa.privacy.shares import Shares

SETUP, SHARE, UNMASK = "secure_setup", "secure_share", "secure_unmask"
"""The queries of Flower; the stage between the last two is a request for training."""

SECURE = "secure"
"""The record of what secure aggregation adds to a message."""

ID_BYTES = 8
"""What a node's id counts as traffic."""


@dataclass(frozen=True, repr=False)
class Collected:
    """What a request for training adds.

    Attributes:
        request: Its name.
        sealed: Other node → the share that it dealt to this one, encrypted.
        largest: Name → the largest absolute value of one client's tensor.
        clients: How many clients there may be in the sum.
        shares: How integers are made, with which noise, in place of both; None where nodes add none.
        place: Of the node among all, which names its noise where that follows from the seed.
    """

    request: str
    sealed: Mapping[int, bytes]
    largest: Mapping[str, float] = field(default_factory=dict)
    clients: int = 0
    shares: Shares | None = None
    place: int = 0

    __repr__ = short_repr


def record(**values: Any) -> RecordDict:
    """Records that hold plain values alone."""
    return RecordDict({SECURE: ConfigRecord(values)})


def ids(nodes: Sequence[int]) -> list[str]:
    """Nodes as text: an id may have 64 bits, one more than Flower's numbers."""
    return [str(node) for node in nodes]


def by_node(nodes: Any, values: Any) -> dict[int, Any]:
    """Node → its value."""
    return {int(str(node)): value for node, value in zip(nodes, values, strict=True)}


def pack_keys(request: str, keys: Mapping[int, PublicKeys], threshold: int) -> RecordDict:
    """The request to deal shares."""
    return record(request=request, threshold=threshold, **columns_of(keys))


def columns_of(keys: Mapping[int, PublicKeys]) -> dict[str, list[Any]]:
    """Public keys as columns of a record."""
    nodes = sorted(keys)
    return {
        "nodes": ids(nodes),
        "masks": [keys[node].mask for node in nodes],
        "ciphers": [keys[node].cipher for node in nodes],
        "seeds": [keys[node].seed for node in nodes],
    }


def unpack_keys(values: Mapping[str, Any]) -> dict[int, PublicKeys]:
    """The public keys of :func:`columns_of`."""
    columns = zip(values["masks"], values["ciphers"], values["seeds"], strict=True)
    return by_node(values["nodes"], [PublicKeys(*row) for row in columns])


def pack_collected(records: RecordDict, asked: Collected) -> RecordDict:
    """A request for training with what secure aggregation adds."""
    nodes = sorted(asked.sealed)
    records[SECURE] = ConfigRecord(
        {
            "request": asked.request,
            "nodes": ids(nodes),
            "sealed": [asked.sealed[node] for node in nodes],
            "largest": json.dumps(dict(asked.largest)),
            "clients": asked.clients,
            "noise": "" if asked.shares is None else json.dumps(asdict(asked.shares)),
            "place": asked.place,
        }
    )
    return records


def unpack_collected(records: RecordDict) -> Collected:
    """What :func:`pack_collected` added."""
    values = records.config_records[SECURE]
    sealed = by_node(values["nodes"], values["sealed"])
    largest, clients, place = json.loads(str(values["largest"])), int(str(values["clients"])), int(str(values["place"]))
    shares = _shares(str(values["noise"])) if values["noise"] else None
    return Collected(str(values["request"]), sealed, largest, clients, shares, place)


def _shares(text: str) -> Shares:
    values = json.loads(text)
    return Shares(**values | {"shapes": {name: tuple(shape) for name, shape in values["shapes"].items()}})


def pack_masked(words: Words, private: Mapping[str, Tree] | None) -> RecordDict:
    """A node's masked integers, with private state if the node is simulated."""
    return with_device(RecordDict({"masked": ArrayRecord([words.narrow, words.wide])}), private)


def unpack_masked(records: RecordDict, narrow: int, wide: int) -> tuple[Words, dict[str, Tree]]:
    """What :func:`pack_masked` packed.

    Raises:
        DataError: If it is none, or has other lengths.
    """
    try:
        found = Words(*records.array_records["masked"].to_numpy_ndarrays())
        private = device_of(records)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError("an answer that cannot be read: it may run another version of fedvpa") from error
    dtypes = found.narrow.dtype.str, found.wide.dtype.str
    if (found.narrow.shape, found.wide.shape) != ((narrow,), (wide,)) or dtypes != ("<u4", "<u8"):
        raise DataError("masked integers of other lengths than were asked for")
    return found, private


def values_of(records: RecordDict) -> Mapping[str, Any]:
    """The plain values that secure aggregation put into a message.

    Raises:
        DataError: If it has none.
    """
    if SECURE not in records.config_records:
        raise DataError("an answer that cannot be read: it may run another version of fedvpa")
    return records.config_records[SECURE]


def secure_traffic(records: RecordDict) -> int:
    """Bytes that secure aggregation adds to a message: masked integers, keys, shares and ids."""
    arrays = records.array_records["masked"].values() if "masked" in records.array_records else ()
    values = records.config_records[SECURE].values() if SECURE in records.config_records else ()
    return sum(len(array.data) for array in arrays) + sum(_bytes_of(value) for value in values)


def _bytes_of(value: Any) -> int:
    if isinstance(value, list):
        return sum(ID_BYTES if isinstance(entry, str) else len(entry) for entry in value)
    return len(value) if isinstance(value, str | bytes) else ID_BYTES
