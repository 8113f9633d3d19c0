"""``fedvpa export``: what other programs run."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.files import user_path
from fedvpa.runs.config import RunConfig


@dataclass(frozen=True)
class ExportedApp:
    """The app folder of a federation; ``flwr run`` accepts it.

    Attributes:
        app: The folder.
    """

    app: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"app": str(self.app)}


@dataclass(frozen=True)
class ExportedKeys:
    """Certificates and keys of a federation.

    Attributes:
        keys: Their folder: for the server, and each node its own part of it.
        authority: The folder of the CA's own key, for none of them.
    """

    keys: Path
    authority: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"keys": str(self.keys), "authority": str(self.authority)}


def export_flower(
    config: RunConfig,
    folder: str | PathLike[str],
    *,
    out: str | PathLike[str] = "runs/flower",
    nodes: int = 2,
    deadline: float = 600.0,
    quorum: float = 0.5,
) -> ExportedApp:
    """Write an app folder for ``flwr run``.

    Args:
        config: The run. ``data.path`` is each node's own affair and is left out; users are clients.
        folder: Where to; must be empty or not exist.
        out: The run directory on the server's machine.
        nodes: Nodes that the server waits for, at least 1.
        deadline: Seconds that it waits, for them and in each round, at least 1. Chosen by us.
        quorum: Share of the clients asked that must answer, and of the nodes that must be able to take part; in
            (0, 1]. Chosen by us.

    Raises:
        ConfigError: If Flower is not installed, the configuration cannot be deployed, or a number is out of bounds.
        RunError: If ``folder`` holds files.
    """
    from fedvpa.deployment.app import write_app
    from fedvpa.deployment.terms import Terms

    terms = Terms.parse({"nodes": nodes, "deadline": deadline, "quorum": quorum})
    app = user_path(folder)
    write_app(config, app, out=Path(out), terms=terms)
    return ExportedApp(app)


def export_keys(folder: str | PathLike[str], *, host: str, nodes: int = 2) -> ExportedKeys:
    """Make a CA, the server's certificate, and a key pair for each node.

    Args:
        folder: Where to; must be empty or not exist.
        host: The name or address under which nodes reach the server; the certificate is valid for it alone.
        nodes: How many nodes.

    Raises:
        ConfigError: If Flower is not installed, ``host`` is no name or address, or there is no node.
        RunError: If ``folder`` or ``<folder>-ca``, for the CA's own key, holds files.
    """
    from fedvpa.engines.flower.simulation import require_flower

    require_flower()
    from fedvpa.deployment.keys import make_keys

    keys = user_path(folder)
    return ExportedKeys(keys, make_keys(keys, host=host, nodes=nodes))
