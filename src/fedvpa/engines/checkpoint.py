"""Checkpoints: everything needed to go on, in one file that is replaced in one step.

State and private state are named tensors (:mod:`fedvpa.core.frozen`), names of clients included, so that a header stays
small however many there are. What is loaded equals what was saved, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedvpa.algorithms.server.limits import Guard
from fedvpa.core.errors import RunError
from fedvpa.core.files import replacing
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.stacked import decode_each, encode_each
from fedvpa.core.tensors import write_tensors
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.engines.private import Ledger
from fedvpa.engines.training import TrainState

EARLIER = "Go on with the release that wrote it (environment.json names it), or train again."

_STATE = frozenset({"meta"})
_CLIENTS = frozenset[str]()


def save_checkpoint(path: Path, state: TrainState, meta: Mapping[str, Any]) -> None:
    """Write ``state`` to ``path``; the checkpoint that was there stays as ``path`` + ``.previous``.

    Args:
        path: The file.
        state: Server and simulated clients.
        meta: Anything JSON that should come back with it.
    """
    if path.exists():
        with replacing(previous(path)) as copy:
            shutil.copyfile(path, copy)
    _write(path, to_tree(state), {"meta": dict(meta)})


def load_checkpoint(path: Path, state_type: type[Any]) -> tuple[TrainState, dict[str, Any]]:
    """What :func:`save_checkpoint` wrote, bit for bit, and its ``meta``.

    Args:
        path: The file.
        state_type: The class of the server's state: ``Algorithm.state_type``.

    Raises:
        RunError: If the file is missing, truncated, of another kind, method or schema version.
    """
    tensors, header = _read(path, _STATE)
    try:
        state = from_tree(tensors, state_type)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"is no checkpoint of a {state_type.__name__} ({error}).",
            fix="Go on with the method that was trained.",
            where=str(path),
        ) from error
    return state, header["meta"]


def to_tree(state: TrainState) -> Tree:
    """Server, clients, what is known of their updates and what was released, as named tensors."""
    server, guard = prefixed("state", to_tensors(state.server)), prefixed("guard", to_tensors(state.guard))
    ledger = {} if state.ledger is None else prefixed("ledger", to_tensors(state.ledger))
    return server | guard | ledger | prefixed("private", encode_each(state.private))


def from_tree(tensors: Mapping[str, Tensor], state_type: type[Any]) -> TrainState:
    """What :func:`to_tree` was given.

    Raises:
        ValueError: If a tensor of the server's state is missing, or belongs to no field of ``state_type``.
    """
    server, guard = from_tensors(state_type, below("state", tensors)), from_tensors(Guard, below("guard", tensors))
    released = below("ledger", tensors)
    ledger = from_tensors(Ledger, released) if released else None
    return TrainState(server, decode_each(below("private", tensors)), guard, ledger)


def previous(path: Path) -> Path:
    """Where the checkpoint before the last is kept."""
    return path.with_name(path.name + ".previous")


def save_clients(path: Path, private: Mapping[str, Tree]) -> None:
    """Write the private state of simulated clients: their "devices". Never to be shared."""
    _write(path, prefixed("private", encode_each(private)), {})


def load_clients(path: Path) -> dict[str, Tree]:
    """What :func:`save_clients` wrote.

    Raises:
        RunError: If the file is missing, truncated, of another kind or of another schema version.
    """
    tensors, _ = _read(path, _CLIENTS)
    return decode_each(below("private", tensors))


def _write(path: Path, tensors: Tree, header: Mapping[str, Any]) -> None:
    # Plain ASCII: an id from JSON may hold a lone surrogate, which UTF-8 cannot.
    text = json.dumps({"schema_version": VERSIONS["checkpoint"], **header}, ensure_ascii=True)
    write_tensors(path, tensors, {"fedvpa": text})


def _read(path: Path, fields: frozenset[str]) -> tuple[Tree, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {})["fedvpa"]))
            version = header.pop("schema_version")
            # Copied into memory aligned as torch does: kernels may round differently on a tensor at an odd address, and
            # a resumed run would then drift from the uninterrupted one by a last bit.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"is no readable checkpoint ({error}).",
            fix=f"Restore it, or put {previous(path).name} in its place.",
            where=str(path),
        ) from error
    check_version("checkpoint", version, where=str(path), fix=EARLIER)
    if header.keys() != fields:
        raise RunError(
            f"is another kind of file: it holds {sorted(header)}, and {sorted(fields)} are needed.",
            fix="Give a checkpoint where one resumes, and the clients' file where one reads the clients.",
            where=str(path),
        )
    return tensors, header
