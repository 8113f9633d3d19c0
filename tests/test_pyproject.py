"""``pyproject.toml`` declares what the code imports and the releases of Flower that ``doctor`` accepts."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fedvpa.engines.flower.simulation import FLOWER_VERSIONS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = ROOT / "src" / "fedvpa"

EXTRAS = {
    "engines/flower": "flower",
    "deployment": "flower",
    "evaluation/judges": "judges",
    "models/gguf_file.py": "gguf",
    "privacy/accounting.py": "privacy",
    "privacy/secure_sum.py": "flower",
    "serving": "serve",
}
"""The folders and files whose imports an extra may declare."""

BROUGHT = {"ray": "flwr"}
"""What is declared by an extra of another requirement: ``flwr[simulation]`` names the release of ray."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str | None = None) -> list[Requirement]:
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def imported(path: Path) -> Iterator[str]:
    """The packages outside the standard library that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [str(node.module)]
        else:
            continue
        tops = {module.partition(".")[0] for module in modules}
        yield from tops - sys.stdlib_module_names - {"fedvpa", "_typeshed"}


@pytest.mark.unit
def test_what_the_code_imports_is_declared():
    homes = metadata.packages_distributions()
    missing = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        extras = [extra for folder, extra in EXTRAS.items() if f"{place}/".startswith(f"{folder}/")]
        known = {canonical(line.name) for extra in (None, *extras) for line in declared(extra)}
        for name in imported(path):
            if name in BROUGHT and BROUGHT[name] in known:
                continue
            if known.isdisjoint(map(canonical, homes.get(name, [name]))):
                missing.append(f"{place}: {name}")
    assert not missing


@pytest.mark.unit
def test_the_flower_extra_takes_the_releases_that_doctor_accepts():
    (flower,) = [line for line in declared("flower") if line.name == "flwr"]
    taken = [f"1.{minor}" for minor in range(100) if flower.specifier.contains(f"1.{minor}.5")]
    assert tuple(taken) == FLOWER_VERSIONS


@pytest.mark.unit
def test_constraints_are_exact_and_name_no_index():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    pinned = {canonical(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    wanted = [line for extra in (None, "flower", "judges", "gguf", "privacy", "serve") for line in declared(extra)]
    assert not [str(line) for line in wanted if not line.specifier.contains(pinned[canonical(line.name)])]
