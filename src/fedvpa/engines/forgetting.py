"""Taking one client out of files of tensors that hold something of each: checkpoints, and clients' private state."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from fedvpa.core.errors import RunError
from fedvpa.core.stacked import decode_each, encode_each, names_of
from fedvpa.core.tensors import write_tensors
from fedvpa.core.tree import Tree, below, prefixed

PRIVATE = "private"
"""What begins the names of tensors that belong to single clients; see :mod:`fedvpa.engines.checkpoint`."""

Holding = Literal["nothing", "a part", "throughout"]
"""What of a client a file holds: nothing; private state of its own, which can be cut out; or the client is named in the
server's state, whose tensors belong together, so that the file is kept whole or not at all."""


def clients_in(path: Path) -> set[str]:
    """The clients that a file names.

    Raises:
        RunError: If it cannot be read.
    """
    tensors, _ = _read(path)
    return {name for prefix in _lists(tensors) for name in names_of(below(prefix, tensors))}


def holding(path: Path, client_id: str) -> Holding:
    """What of a client a file holds. Raises as :func:`clients_in`."""
    tensors, _ = _read(path)
    lists = [prefix for prefix in _lists(tensors) if client_id in names_of(below(prefix, tensors))]
    if not lists:
        return "nothing"
    return "a part" if lists == [f"{PRIVATE}.keys"] else "throughout"


def cut_client(path: Path, client_id: str) -> None:
    """Write a file again without a client's private state, or remove it where the client cannot be cut out.

    Raises:
        RunError: If it cannot be read.
        StorageError: If it cannot be written.
    """
    found = holding(path, client_id)
    if found == "throughout":
        path.unlink()
    if found != "a part":
        return
    tensors, header = _read(path)
    private = decode_each(below(PRIVATE, tensors))
    del private[client_id]
    others = {name: leaf for name, leaf in tensors.items() if not name.startswith(f"{PRIVATE}.")}
    write_tensors(path, others | prefixed(PRIVATE, encode_each(private)), header)


def _lists(tensors: Tree) -> list[str]:
    """What begins the names of all lists of names; see :func:`fedvpa.core.stacked.names_tensor`."""
    ends = [name.removesuffix(".bytes") for name in tensors if name.endswith(".bytes")]
    return [prefix for prefix in ends if f"{prefix}.lengths" in tensors and not prefix.endswith(".leaves")]


def _read(path: Path) -> tuple[Tree, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            # Copied, as a mapped file is about to be written over.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot be read ({error}).", fix="Restore or delete it.", where=str(path)) from error
