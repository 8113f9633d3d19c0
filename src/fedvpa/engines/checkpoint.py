"""Checkpoints: everything needed to go on, in one file that is replaced in one step.

Client ids may be any text, so tensors are numbered and the names stand in the file's JSON metadata. Floats that matter
are kept as float64 tensors: what is loaded equals what was saved, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fedvpa.algorithms.base import Private, ServerState
from fedvpa.core.errors import RunError
from fedvpa.core.files import replacing
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.tensors import write_tensors
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.engines.encoding import decode_posterior, decode_private, encode_posteriors, encode_private
from fedvpa.engines.training import TrainState

_STATE = frozenset({"round", "averaged", "components", "posteriors", "private", "meta"})
_CLIENTS = frozenset({"private"})


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
    server = state.server
    tensors = {"log_prior": server.log_prior, "evidence": server.evidence.reshape(1)}
    tensors |= prefixed("params", server.params) | prefixed("average", server.average)
    tensors |= prefixed("posteriors", encode_posteriors(dict(enumerate(server.posteriors.values()))))
    clients, names = encode_private(state.private)
    header = {
        "round": server.round,
        "averaged": server.averaged,
        "components": server.components,
        "posteriors": list(server.posteriors),
        "private": names,
        "meta": dict(meta),
    }
    _write(path, tensors | prefixed("private", clients), header)


def load_checkpoint(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """What :func:`save_checkpoint` wrote, bit for bit, and its ``meta``.

    Raises:
        RunError: If the file is missing, truncated, of another kind or of another schema version.
    """
    tensors, header = _read(path, _STATE)
    posteriors = below("posteriors", tensors)
    server = ServerState(
        below("params", tensors),
        tensors["log_prior"],
        tensors["evidence"].squeeze(0),
        header["round"],
        below("average", tensors),
        header["averaged"],
        {name: decode_posterior(posteriors, row) for row, name in enumerate(header["posteriors"])},
        tuple(header["components"]),
    )
    return TrainState(server, decode_private(below("private", tensors), header["private"])), header["meta"]


def previous(path: Path) -> Path:
    """Where the checkpoint before the last is kept."""
    return path.with_name(path.name + ".previous")


def save_clients(path: Path, private: Mapping[str, Private]) -> None:
    """Write the private state of simulated clients: their "devices". Never to be shared."""
    tensors, names = encode_private(private)
    _write(path, tensors or {"none": torch.zeros(1)}, {"private": names})


def load_clients(path: Path) -> dict[str, Private]:
    """What :func:`save_clients` wrote.

    Raises:
        RunError: If the file is missing, truncated, of another kind or of another schema version.
    """
    tensors, header = _read(path, _CLIENTS)
    return decode_private(tensors, header["private"])


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
    check_version("checkpoint", version, where=str(path), fix="Use the fedvpa that wrote it, or train again.")
    if header.keys() != fields:
        raise RunError(
            f"is another kind of file: it holds {sorted(header)}, and {sorted(fields)} are needed.",
            fix="Give a checkpoint where one resumes, and the clients' file where one reads the clients.",
            where=str(path),
        )
    return tensors, header
