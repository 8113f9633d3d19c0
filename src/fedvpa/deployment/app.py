"""The app folder that ``flwr run`` accepts."""

from __future__ import annotations

from pathlib import Path

from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import write_text
from fedvpa.core.version import __version__
from fedvpa.engines.flower.simulation import FLOWER_VERSIONS, require_flower
from fedvpa.runs.config import RunConfig, dump

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
out = "{out}"
nodes = {nodes}
deadline = {deadline}
quorum = {quorum}
"""

COMPONENT = '''\
"""The {side} of the federation."""

from pathlib import Path

from fedvpa.deployment.{module} import {side}_app

app = {side}_app(Path(__file__).parent)
'''

GUIDE = """\
# fedvpa on Flower

`fedvpa_app/run.yaml` is the run; `pyproject.toml` says where the server writes (`out`), how many nodes it waits for,
how long a round may take (`deadline`, in seconds) and what share of a round's clients must answer (`quorum`).

    flwr run . SUPERLINK --stream
"""

LICENSE = """\
SPDX-License-Identifier: Apache-2.0

Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""


def write_app(config: RunConfig, folder: Path, *, out: Path, nodes: int, deadline: float, quorum: float) -> None:
    """Write the folder; arguments and errors as :func:`fedvpa.export_flower`."""
    require_flower()
    if config.partition.kind != "natural" or config.partition.unseen or config.partition.clients is not None:
        raise ConfigError(
            "a deployment's clients are the users of its nodes: partition.kind must be natural, without clients and "
            "unseen.",
            fix="Leave the partition section out.",
        )
    algorithm = make(config.method, config.method_config)
    if algorithm.reads_groups or not algorithm.rounds:
        raise ConfigError(
            f"{config.method!r} cannot be deployed: it reads true groups or needs no federation.",
            fix="Use fedvpa_gp, fedvpl or global.",
        )
    if folder.exists() and any(folder.iterdir()):
        raise RunError("holds files already.", fix="Choose an empty folder.", where=str(folder))
    data = config.data.model_copy(update={"source": "table", "path": "set by data-path"})
    package = folder / PACKAGE
    write_text(package / "run.yaml", dump(config.model_copy(update={"data": data})))
    write_text(package / "__init__.py", "")
    for side, module in (("server", "server"), ("client", "node")):
        write_text(package / f"{side}_app.py", COMPONENT.format(side=side, module=module))
    project = PROJECT.format(
        method=config.method,
        version=__version__,
        flower=FLOWER,
        package=PACKAGE,
        out=out.expanduser().resolve(),
        nodes=nodes,
        deadline=deadline,
        quorum=quorum,
    )
    write_text(folder / "pyproject.toml", project)
    write_text(folder / "README.md", GUIDE)
    write_text(folder / "LICENSE", LICENSE)
