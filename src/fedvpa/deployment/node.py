"""A node of a deployment: its pairs, and the ClientApp that trains on them."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError
from fedvpa.engines.flower import client as node_side
from fedvpa.engines.flower.devices import OnDisk
from fedvpa.runs.config import read_config
from fedvpa.runs.prepare import prepare

CONFIG_FILE = "run.yaml"


def client_app(folder: Path) -> ClientApp:
    """The ClientApp of an exported folder.

    ``--node-config`` gives ``data-path``, the node's pairs, and optionally ``state-path``, a folder for its clients'
    private state; without it the state lives as long as Flower's run.
    """
    return node_side.client_app(partial(_node, str(folder / CONFIG_FILE)))


def _node(config: str, context: Context) -> node_side.Node:
    given = context.node_config
    if "data-path" not in given:
        raise ConfigError(
            "The node has no data-path.", fix="""Start it with --node-config 'data-path="pairs.jsonl"'."""
        )
    return _loaded(config, str(given["data-path"]), str(given.get("state-path", "")))


@cache
def _loaded(config_path: str, data: str, state: str) -> node_side.Node:
    config = read_config(Path(config_path), (f"data.path={data}", "data.source=table"))
    prepared = prepare(config, on_node=True)
    devices = OnDisk(Path(state)) if state else node_side.InContext()
    return node_side.Node(make(config.method, config.method_config), prepared.federation, devices)
