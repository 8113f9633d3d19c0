"""A node of a deployment: its pairs, and the ClientApp that trains on them."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.sources.registry import SOURCES
from fedvpa.engines.flower import client as node_side
from fedvpa.engines.flower.devices import OnDisk
from fedvpa.features.config import FeatureConfig
from fedvpa.models.loading_config import DEFAULT
from fedvpa.models.locate import locate
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.templates import with_base
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.prepare import Prepared, prepare
from fedvpa.runs.released import check_deployed_clients

CONFIG_FILE = "run.yaml"


def client_app(folder: Path, policy_method: str = "") -> ClientApp:
    """The ClientApp of an exported folder.

    ``--node-config`` gives ``data-path``, the node's pairs, and optionally ``state-path``, a folder for its clients'
    private state, without which the state lives as long as Flower's run, and ``model-path``, where the language model
    is on this node.

    Args:
        folder: With the run's configuration.
        policy_method: What trains a language model on the nodes; empty for the run's own method, which trains a
            selector.
    """
    load = partial(_node, str(folder / CONFIG_FILE), policy_method)
    return node_side.client_app(load, node_side.discreet)


def _node(config: str, policy_method: str, context: Context) -> node_side.Node:
    given = context.node_config
    if "data-path" not in given:
        raise ConfigError(
            "The node has no data-path.", fix="""Start it with --node-config 'data-path="pairs.jsonl"'."""
        )
    optional = (str(given.get(name, "")) for name in ("state-path", "model-path"))
    return load_node(config, str(given["data-path"]), *optional, policy_method=policy_method)


@cache
def load_node(config_path: str, data: str, state: str, model: str = "", policy_method: str = "") -> node_side.Node:
    """A node that is ready to train.

    Which of its pairs are held out depends on a hash of their text and the run's seed alone (``fedvpa.data.splits``),
    so that nodes agree without a word.

    Args:
        config_path: The run's configuration.
        data: The node's pairs.
        state: Where its users' private state is kept; empty for in Flower's memory.
        model: Where the language model is on this node; empty for where the run says.
        policy_method: As of :func:`client_app`.

    Raises:
        InputError: If the pairs cannot be used, no user has enough of them, or the language model is not here.
    """
    devices = OnDisk(Path(state).expanduser()) if state else node_side.InContext()
    config = node_config(read_config(Path(config_path)), data, model)
    if policy_method:
        from fedvpa.deployment.text_node import load_text_node

        check_deployed_clients(config, policy_method)
        _check_model(with_base(config.policy, config.features))
        return load_text_node(config, policy_method, devices)
    _check_model(config.features)
    prepared = prepare(config, on_node=True)
    algorithm = make(config.method, config.method_config)
    return node_side.Node(
        algorithm,
        prepared.federation,
        devices,
        left_out(prepared),
        prepared.table.report,
        reads=prepared.feature_key,
        private=config.privacy.on,
        adds_noise=config.privacy.in_shares,
    )


def node_config(config: RunConfig, data: str, model: str = "") -> RunConfig:
    """The run as a node reads it: its own pairs and model, without the users that are too small to learn from."""
    values = config.model_dump()
    if model:
        values["features"]["model"] = model
        values["policy"]["model"] = None
    table = SOURCES.get("table").keys.model_fields  # what another source read says nothing about a node's own file
    values["data"] = {key: value for key, value in values["data"].items() if key in table}
    values["data"] |= {"source": "table", "path": data}
    values["partition"]["drop_small"] = True
    return RunConfig.parse(values)


def _check_model(config: FeatureConfig | PolicyConfig) -> None:
    """Raise ModelError if a language model is not on this node; says how to name its place."""
    model = str(config.model)
    try:
        locate(model, config.loading or DEFAULT)
    except ModelError as error:
        fix = f"""{error.fix} Say where it is on this node: --node-config 'model-path="PATH"'."""
        raise ModelError(error.problem, fix=fix.strip(), where=error.where or model) from error


def left_out(prepared: Prepared) -> tuple[str, ...]:
    """The users of a node whose pairs are too few to train on and to hold some out, sorted."""
    users = {pair.user_id for pair in prepared.table.pairs if pair.user_id is not None}
    return tuple(sorted(users - set(prepared.federation.client_ids)))
