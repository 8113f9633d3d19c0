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
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.prepare import Prepared, prepare

CONFIG_FILE = "run.yaml"


def client_app(folder: Path) -> ClientApp:
    """The ClientApp of an exported folder.

    ``--node-config`` gives ``data-path``, the node's pairs, and optionally ``state-path``, a folder for its clients'
    private state; without it the state lives as long as Flower's run.
    """
    return node_side.client_app(partial(_node, str(folder / CONFIG_FILE)), node_side.discreet)


def _node(config: str, context: Context) -> node_side.Node:
    given = context.node_config
    if "data-path" not in given:
        raise ConfigError(
            "The node has no data-path.", fix="""Start it with --node-config 'data-path="pairs.jsonl"'."""
        )
    return load_node(config, str(given["data-path"]), str(given.get("state-path", "")))


@cache
def load_node(config_path: str, data: str, state: str) -> node_side.Node:
    """A node that is ready to train.

    Which of its pairs are held out depends on a hash of their text and the run's seed alone (``fedvpa.data.splits``),
    so that nodes agree without a word.

    Args:
        config_path: The run's configuration.
        data: The node's pairs.
        state: Where its users' private state is kept; empty for in Flower's memory.

    Raises:
        InputError: If the pairs cannot be used, or no user has enough of them.
    """
    config = node_config(read_config(Path(config_path)), data)
    prepared = prepare(config, on_node=True)
    devices = OnDisk(Path(state).expanduser()) if state else node_side.InContext()
    algorithm = make(config.method, config.method_config)
    return node_side.Node(algorithm, prepared.federation, devices, left_out(prepared), prepared.table.report)


def node_config(config: RunConfig, data: str) -> RunConfig:
    """The run as a node reads it: its own pairs, without the users that are too small to learn from."""
    values = config.model_dump()
    values["data"] |= {"source": "table", "path": data}
    values["partition"]["drop_small"] = True
    return RunConfig.parse(values)


def left_out(prepared: Prepared) -> tuple[str, ...]:
    """The users of a node whose pairs are too few to train on and to hold some out, sorted."""
    users = {pair.user_id for pair in prepared.table.pairs if pair.user_id is not None}
    return tuple(sorted(users - set(prepared.federation.client_ids)))
