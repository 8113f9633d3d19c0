"""The Docker files name only what is there: programs, options, verbs, keys, folders. They are not run."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from doc_pages import PAGES, ROOT, blocks
from fedvpa.api.export import export_keys
from fedvpa.cli.main import app
from fedvpa.core.cache import CACHE_VARIABLE
from fedvpa.deployment.certificates import check_certificates
from fedvpa.serving.gate import OPEN

pytestmark = pytest.mark.unit

DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LINES = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text(encoding="utf-8")).splitlines()
INSTRUCTIONS = [line.split(" ", 1) for line in LINES if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def told(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def check_verb(words: list[str]) -> None:
    """Whether fedvpa takes a command."""
    verb, rest = typer.main.get_command(app).commands[words[0]], words[1:]
    verb.make_context(words[0], rest)


def test_the_image_is_of_the_wheel_without_rights_and_answers_its_healthcheck() -> None:
    known = {*("FROM", "ARG", "COPY", "RUN", "ENV", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL")}
    assert {name for name, _ in INSTRUCTIONS} <= known | {"ENTRYPOINT", "CMD"}
    assert told("COPY") == [f"dist/{PROJECT['name']}-*.whl /tmp/dist/"]
    extras = next(rest for rest in told("ARG") if rest.startswith("EXTRAS="))
    assert set(extras.partition("=")[2].split(",")) <= set(PROJECT["optional-dependencies"])
    assert told("USER") == ["fedvpa"]
    (healthcheck,) = told("HEALTHCHECK")
    assert "http://127.0.0.1:8000/health'" in healthcheck
    assert "/health" in OPEN
    assert yaml.safe_load(told("ENTRYPOINT")[0]) == ["fedvpa"]
    check_verb(yaml.safe_load(told("CMD")[0]))
    (environment,) = told("ENV")
    assert f"{CACHE_VARIABLE}=/srv/cache " in environment
    assert (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split() == ["*", "!dist/*.whl"]


@pytest.mark.filterwarnings("ignore:The 'is_flag' and 'flag_value':DeprecationWarning")  # flwr's own command line
def test_every_command_of_a_service_is_one_that_its_program_takes() -> None:
    parsers = {"flower-superlink": _parse_args_run_superlink(), "flower-supernode": _parse_args_run_supernode()}
    for name, service in SERVICES.items():
        program = service.get("entrypoint", ["fedvpa"])[0]
        command = [str(word) for word in service["command"]]
        if program in parsers:
            parsers[program].parse_args(command)
        elif program == "flwr":
            from flwr.cli.app import app as flwr

            typer.main.get_command(flwr).commands[command[0]].commands[command[1]].make_context(command[1], command[2:])
        else:
            assert (name, program) == ("server", "fedvpa")
            check_verb(command)


def test_every_place_that_a_command_names_is_mounted_and_every_file_that_is_mounted_is_made(tmp_path: Path) -> None:
    export_keys(tmp_path / "keys", host="superlink", nodes=2)
    for name, service in SERVICES.items():
        inside = [volume.rsplit(":ro", 1)[0].rpartition(":") for volume in service["volumes"]]
        targets = [target for _, _, target in inside]
        for place in re.findall(r"/srv/[\w./-]+", " ".join(map(str, service["command"]))):
            assert any(place == target or place.startswith(f"{target}/") for target in targets), (name, place)
        for source, _, _ in inside:
            if source.startswith("./keys/"):
                assert (tmp_path / source).is_file(), source
            elif source.startswith("./flwr/"):
                assert (DOCKER / source).is_file(), source
            elif not source.startswith((".", "$")):
                assert source in COMPOSE["volumes"], source
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["cap_drop"] == ["ALL"]
    settings = tomllib.loads((DOCKER / "flwr" / "config.toml").read_text(encoding="utf-8"))["superlink"]
    own = settings[settings["default"]]
    assert own == {"address": "superlink:9092", "root-certificates": "/srv/keys/ca.crt"}
    assert f"{own['address']}" in SERVICES["node-0"]["command"]
    checked = check_certificates(tmp_path / "keys", "superlink")
    assert not checked.problems
    assert "superlink" in checked.hosts


def test_the_page_starts_services_that_are_there_and_says_that_nothing_was_run() -> None:
    page = "docs/docker.md"
    assert "neither the image nor the compose file has been run" in PAGES[page]
    for line in (line for block in blocks(page) for line in block.splitlines()):
        words = shlex.split(line.replace("$(id -u)", "1").replace("$(id -g)", "1"))
        if words[:2] == ["docker", "compose"]:
            named = [word for word in words if word in SERVICES]
            assert named, line
        if "doctor" in words:
            check_verb(words[words.index("doctor") :])
