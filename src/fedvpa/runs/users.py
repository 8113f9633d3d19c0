"""The users of a run, kept in ``clients/users.safetensors``: who they are, what they hold, what was inferred of them.

With this file every verb opens a run without its data, and extracts no features again. Of texts it holds hashes alone:
see :mod:`fedvpa.runs.held`. It is private: it belongs to the "devices" of
a simulation, like everything in ``clients/``, and is never published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedvpa.alignment.stage1 import Users
from fedvpa.core.errors import RunError
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tensors import write_tensors
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import Text
from fedvpa.data.splits import SplitRule, make_rule
from fedvpa.engines.federation import Federation
from fedvpa.evaluation.accuracy import Members, infer_clients
from fedvpa.runs.held import HeldPairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, repr=False)
class RunUsers:
    """All users of a run.

    Attributes:
        seen: Those that trained.
        unseen: Those that did not.
        partition: The rows of the run's table that each holds.
        data: A hash of the texts and of the partition; see :func:`fedvpa.runs.identity.data_fingerprint`. Empty where
            the run holds no users.
        held: The pairs and held-out prompts of the run's data; None where the run does not say: it was written by an
            earlier release, or by the server of a deployment.
        trained_groups: The groups as training numbered them, where users were forgotten since; empty for those of the
            users.
    """

    seen: Users
    unseen: Users
    partition: Partition
    data: str
    held: HeldPairs | None = None
    trained_groups: tuple[str, ...] = ()

    __repr__ = short_repr

    def z_of(self, user: str) -> Tensor | None:
        """The z that serves a user who is known by name, shape [k]; None if nobody is called so."""
        for some in (self.seen, self.unseen):
            if user in some.ids:
                return some.z[some.ids.index(user)]
        return None

    @property
    def elsewhere(self) -> bool:
        """Whether they are on other machines."""
        return not self.partition.clients

    @property
    def groups(self) -> tuple[str, ...]:
        """The distinct groups of all users that have one, in the order in which training numbered them."""
        own = {client.group for client in self.partition.clients if client.group is not None}
        return self.trained_groups or tuple(sorted(own))

    def without(self, user: str) -> RunUsers:
        """The users of a run of whom one is forgotten: nothing of that one is left, and the others are as they were.

        Hashes of pairs stay where another user holds the same pair. Where the run does not know which rows have which
        hashes, all hashes go.
        """
        left = tuple(client for client in self.partition.clients if client.client_id != user)
        kept = {int(row) for client in left for split in SPLITS for row in getattr(client, split)}
        held = self.held.only(kept) if self.held is not None and self.held.rows else None
        partition = Partition(left, self.partition.rule)
        rows = [(client.client_id, client.group, client.seen, *_rows_of(client)) for client in left]
        data = hashlib.sha256(repr(rows).encode()).hexdigest()  # of what is left, so that no checkpoint fits any more
        return RunUsers(_left(self.seen, user), _left(self.unseen, user), partition, data, held, self.groups)

    def holds_out(self, prompt: Text) -> bool:
        """Whether no policy may train on the prompt: by its hash, or because the run's data hold it out."""
        rule = self.partition.rule
        return (rule is not None and rule.holds_out(prompt)) or (self.held is not None and self.held.holds_out(prompt))


def _rows_of(client: ClientRows) -> list[list[int]]:
    return [getattr(client, split).tolist() for split in SPLITS]


def _left(users: Users, user: str) -> Users:
    rows = [row for row, name in enumerate(users.ids) if name != user]
    ids, groups = tuple(users.ids[row] for row in rows), tuple(users.groups[row] for row in rows)
    return Users(ids, groups, users.posterior[torch.tensor(rows)] if users.posterior is not None and rows else None)


def nobody(config: PartitionConfig, seed: int) -> RunUsers:
    """The users of a deployment's server: they are on the nodes, which hold out by the same hash."""
    rule = make_rule(
        (), config.unit, seed, test_fraction=config.test_fraction, validation_fraction=config.validation_fraction
    )
    return RunUsers(Users.of((), None), Users.of((), None), Partition((), rule), "")


def infer_users(
    selector: Selector,
    federation: Federation,
    clients: Sequence[ClientRows],
    *,
    by_group: bool = False,
    members: Members | None = None,
) -> Users:
    """Clients with their posteriors, inferred from their training pairs; arguments as of ``infer_clients``."""
    posterior = None
    if clients:
        posterior = infer_clients(selector, federation, clients, by_group=by_group, members=members)
    return Users.of(clients, posterior)


def save_users(path: Path, users: RunUsers) -> None:
    """Write the users of a run as one safetensors file, atomically."""
    clients = users.partition.clients
    parts = [getattr(client, split) for client in clients for split in SPLITS]
    tensors: Tree = {
        "rows": torch.from_numpy(np.concatenate([*parts, np.zeros(0, np.int64)])),
        "sizes": torch.tensor([len(part) for part in parts]).view(-1, len(SPLITS)),
    }
    for name, some in (("seen", users.seen), ("unseen", users.unseen)):
        if some.posterior is not None:
            tensors |= prefixed(name, _posterior_tensors(some.posterior))
    header = {
        "schema_version": VERSIONS["users"],
        "data": users.data,
        "held_out": users.partition.rule.to_dict() if users.partition.rule else None,
        "clients": [[client.client_id, client.group, client.seen] for client in clients],
    }
    if users.trained_groups:
        header["groups"] = list(users.trained_groups)
    if users.held is not None:
        held, header["held_groups"] = users.held.tensors()
        tensors |= prefixed("held", held)
    # Plain ASCII: an id from JSON may hold a lone surrogate, which UTF-8 cannot.
    write_tensors(path, tensors, {"fedvpa": json.dumps(header, ensure_ascii=True)})


def load_users(path: Path) -> RunUsers:
    """What :func:`save_users` wrote.

    Raises:
        RunError: If the file cannot be read, or has another schema version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["fedvpa"])
            # Copied into memory aligned as torch does, so that kernels round as they did in training.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"cannot be read ({error}).", fix="Restore it, or train again.", where=str(path)) from error
    check_version(
        "users", header["schema_version"], where=str(path), fix="Use the fedvpa that wrote it, or train again."
    )
    clients = _clients(header["clients"], tensors["rows"].numpy(), tensors["sizes"].numpy())
    seen, unseen = ([client for client in clients if client.seen is flag] for flag in (True, False))
    held = None
    if "held_groups" in header:
        held = HeldPairs.load(below("held", tensors), header["held_groups"])
    return RunUsers(
        _users(seen, below("seen", tensors)),
        _users(unseen, below("unseen", tensors)),
        Partition(clients, SplitRule(**header["held_out"]) if header.get("held_out") else None),
        header["data"],
        held,
        tuple(header.get("groups", ())),
    )


def _posterior_tensors(posterior: Posterior) -> dict[str, Tensor]:
    return {"weights": posterior.weights, "means": posterior.means, "log_vars": posterior.log_vars}


def _users(clients: Sequence[ClientRows], saved: Tree) -> Users:
    posterior = Posterior(saved["weights"], saved["means"], saved["log_vars"]) if saved else None
    return Users.of(clients, posterior)


def _clients(named: list[list[object]], rows: np.ndarray, sizes: np.ndarray) -> tuple[ClientRows, ...]:
    parts = np.split(rows, np.cumsum(sizes.flatten())[:-1])
    return tuple(
        ClientRows(str(name), None if group is None else str(group), bool(seen), *parts[3 * place : 3 * place + 3])
        for place, (name, group, seen) in enumerate(named)
    )
