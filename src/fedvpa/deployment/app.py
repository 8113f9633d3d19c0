"""The app folder that ``flwr run`` accepts."""

from __future__ import annotations

import json
from pathlib import Path

from fedvpa.algorithms.registry import POLICY_METHODS, make
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import write_text
from fedvpa.core.version import __version__
from fedvpa.deployment.network import PORTS
from fedvpa.deployment.noise import check_deployed
from fedvpa.deployment.terms import Terms
from fedvpa.engines.flower.simulation import FLOWER_VERSIONS, require_flower
from fedvpa.engines.secure_aggregation import check_nodes, check_noise, check_secure
from fedvpa.runs.config import RunConfig, dump
from fedvpa.runs.released import check_deployed_clients

FLOWER = f"{FLOWER_VERSIONS[0]}.0"
"""The oldest release of flwr that an exported app accepts; fedvpa's own extra sets the newest."""

PACKAGE = "fedvpa_app"

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedvpa-app"
version = "1.0.0"
description = "Federated preference alignment ({method}) with fedvpa."
license = {{ file = "LICENSE" }}
dependencies = ["flwr>={flower}", "fedvpa[flower]=={version}"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "local"
fab-format-version = 1
flwr-version-target = "{flower}"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
out = {out}
nodes = {nodes}
deadline = {deadline}
quorum = {quorum}
"""

COMPONENT = '''\
"""The {side} of the federation."""

from pathlib import Path

from fedvpa.deployment.{module} import {side}_app

app = {side}_app(Path(__file__).parent{method})
'''

GUIDE = """\
# fedvpa on Flower

`fedvpa_app/run.yaml` is the run; `pyproject.toml` says where the server writes (`out`), how many nodes it waits for,
how long a round may take (`deadline`, in seconds) and what share of a round's clients must answer (`quorum`).

Each node makes its own key, with `fedvpa export node-key . --name node-0` and so on, and sends the `.pub` alone; the
private key stays there. Where runs are started, once for each node:

    flwr supernode register node-0.pub

Each node, with its own pairs, key and folder for its users' private state; `model-path="PATH"` in `--node-config` says
where the language model is, if not where `run.yaml` says. A node listens on a port of its machine: several nodes on one
machine need one each.

{nodes}

Then, where runs are started:

    flwr run . SUPERLINK --stream
"""

NODE = """\
    flower-supernode --superlink SERVER:9092 --port {port} \\
      --root-certificates ca.crt --auth-supernode-private-key node-{number}.key \\
      --node-config 'data-path="PAIRS-{number}.jsonl" state-path="STATE-{number}"'"""

SHOWN_NODES = 16
"""For how many nodes the guide spells out the command. Chosen by us."""

LICENSE = """\
SPDX-License-Identifier: Apache-2.0

Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""


def write_app(config: RunConfig, folder: Path, *, out: Path, terms: Terms, policy_method: str = "") -> None:
    """Write the folder.

    Args:
        config: The run.
        folder: Where to; must be empty or not exist.
        out: The run directory on the server's machine.
        terms: On what terms the server runs it.
        policy_method: What trains a language model on the nodes (``POLICY_METHODS``); empty for the run's own method,
            which trains a selector.

    Raises:
        ConfigError: If Flower is not installed, or the configuration cannot be deployed.
        RunError: If ``folder`` holds files.
    """
    require_flower()
    if config.partition.kind != "natural" or config.partition.unseen or config.partition.clients is not None:
        raise ConfigError(
            "a deployment's clients are the users of its nodes: partition.kind must be natural, without clients and "
            "unseen.",
            fix="Leave the partition section out.",
        )
    config.privacy.check_no_canaries("a deployment")
    data = config.data.model_copy(update={"source": "table", "path": "set by data-path"})
    config = config.model_copy(update={"data": data, "privacy": config.located().privacy})
    if policy_method:
        check_deployed_clients(config, policy_method)
        check_policy_method(config, policy_method)
        check_nodes(config.policy.clients.secure_aggregation, terms.nodes)
    else:
        _check_method(config)
        check_noise(config.engine, config.privacy)
        check_secure(config.engine, config.server, deployed=True, private=config.privacy.on)
        check_nodes(config.engine.secure_aggregation, terms.nodes)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError("holds files already.", fix="Choose an empty folder.", where=str(folder))
    place = toml_text(str(out.expanduser().resolve()))
    package = folder / PACKAGE
    write_text(package / "run.yaml", dump(config))
    write_text(package / "__init__.py", "")
    method = f", policy_method={policy_method!r}" if policy_method else ""
    for side, module in (("server", "server"), ("client", "node")):
        write_text(package / f"{side}_app.py", COMPONENT.format(side=side, module=module, method=method))
    project = PROJECT.format(
        method=policy_method or config.method,
        version=__version__,
        flower=FLOWER,
        package=PACKAGE,
        out=place,
        nodes=terms.nodes,
        deadline=terms.deadline,
        quorum=terms.quorum,
    )
    write_text(folder / "pyproject.toml", project)
    commands = [
        NODE.format(number=number, port=PORTS["flower-supernode"] + number)
        for number in range(min(terms.nodes, SHOWN_NODES))
    ]
    write_text(folder / "README.md", GUIDE.format(nodes="\n".join(commands)))
    write_text(folder / "LICENSE", LICENSE)


def _check_method(config: RunConfig) -> None:
    _ = config.features.layers  # nodes cannot choose them, and this says so
    algorithm = make(config.method, config.method_config)
    if algorithm.reads_groups or not algorithm.rounds:
        raise ConfigError(
            f"{config.method!r} cannot be deployed: it reads true groups or needs no federation.",
            fix="Use fedeb, fedvpa_gp, fedem, fedvpl or global.",
        )
    check_deployed(config)


def check_policy_method(config: RunConfig, name: str) -> None:
    """Raise ConfigError if a method whose clients train a language model cannot be deployed under these settings."""
    from fedvpa.alignment.federated_job import check_clients
    from fedvpa.runs.policy_task import task_of_config

    method, task = POLICY_METHODS.get(name), task_of_config(config)
    if method.reads_selector(task):
        raise ConfigError(
            f"{name!r} reads a run's selector under these settings, and the nodes of a deployment have none.",
            fix="Name other objectives.",
        )
    if method.algorithm(task).reads_groups:
        raise ConfigError(f"{name!r} cannot be deployed: it reads true groups.", fix="Use feddpo.")
    check_clients(name, task, deployed=True)


def toml_text(text: str) -> str:
    """A path as a TOML string: JSON escapes what TOML must have escaped, but for the delete character.

    Raises:
        ConfigError: If UTF-8 cannot hold it.
    """
    if not text.isprintable() and text.encode("utf-8", "replace").decode() != text:
        raise ConfigError(f"the path {text!r} is no UTF-8 text.", fix="Choose another --out.")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
