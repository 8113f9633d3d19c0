"""Whatever a page names is there: files, functions, modules, tests, keys of the configuration, sections of pages."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest

from doc_pages import PAGES, ROOT, code_spans
from fedvpa.algorithms.registry import METHODS
from fedvpa.api.register import REGISTRIES
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import FILES, FOLDERS

pytestmark = pytest.mark.unit

SOURCE = ROOT / "src" / "fedvpa"
ROOMS = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file())
FREE_SECTIONS = (
    "policy.judging.settings",
    "data.reserved",
    "data.settings",
    "data.winner_values",
    "data.map.winner",
    "data.map.conversation",
)
"""Sections whose keys a judge or a source declares, and columns that a configuration leaves out where they are None."""


def modern(page: str) -> str:
    """The page without what the changelog says there was before."""
    return re.sub(r"^\| `fedvpa[^|]*\|", "|", PAGES[page], flags=re.MULTILINE)


def links(page: str) -> Iterator[tuple[str, str]]:
    """(file, section) of every link to a file, relative to the page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" not in target:
            file, _, section = target.partition("#")
            yield file, section


def anchors(text: str) -> set[str]:
    """The names under which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def definitions(path: str) -> set[str]:
    """The names that a module of the package defines; those of a class behind the class's name, too."""
    found: set[str] = set()
    for node in ast.parse((SOURCE / path).read_text(encoding="utf-8")).body:
        name = getattr(node, "name", None)
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        found |= {target.id for target in targets if isinstance(target, ast.Name)} | ({name} if name else set())
        if isinstance(node, ast.ClassDef):
            found |= {f"{name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


@cache
def all_tests() -> str:
    """The names of all tests, one a line."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return "\n".join(name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))


def resolves(dotted: str) -> bool:
    """Whether a name is a module, or something in one."""
    module, attributes = dotted, list[str]()
    while not is_module(module):
        module, _, attribute = module.rpartition(".")
        attributes.insert(0, attribute)
    value = import_module(module)
    for attribute in attributes:
        if not hasattr(value, attribute):
            return False
        value = getattr(value, attribute)
    return True


def is_module(name: str) -> bool:
    path = SOURCE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str):
    for file, section in links(page):
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), file
        if section:
            assert section in anchors(target.read_text(encoding="utf-8")), f"{file}#{section}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_is_there(page: str):
    named = re.findall(r"(?<![\w/.])(?:configs|docs|src|tests|benchmarks)/[\w./-]*\w\.(?:py|yaml|md|png)", modern(page))
    assert not [name for name in named if not (ROOT / name).is_file()]
    rooms = "|".join(ROOMS)
    modules = re.findall(rf"(?<![\w/.])((?:{rooms})/[\w/]+\.py)", modern(page))
    assert not [name for name in modules if not (SOURCE / name).is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_a_module_is_defined_there(page: str):
    for span in code_spans(page):
        file, colon, names = span.partition(".py: ")
        if not colon or file.startswith("tests/"):
            continue
        missing = set(names.split(", ")) - definitions(f"{file}.py")
        assert not missing, span


@pytest.mark.parametrize("page", PAGES)
def test_every_dotted_name_can_be_imported(page: str):
    groups = {f"fedvpa.{kind}s" for kind in REGISTRIES}
    named = set(re.findall(r"(?<![\w./-])fedvpa(?:\.[A-Za-z_]\w*)+", modern(page))) - groups
    assert not [name for name in sorted(named) if not resolves(name)]


@pytest.mark.parametrize("page", PAGES)
def test_every_test_is_there(page: str):
    named = [name for span in code_spans(page) for name in re.findall(r"\btest_[\w…]+(?!\w|\.py)", span)]
    patterns = {name: re.escape(name).replace("…", r"\w+") for name in named if f"{name}.py" not in PAGES[page]}
    assert not [name for name, pattern in patterns.items() if not re.search(rf"^{pattern}$", all_tests(), re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES)
def test_every_key_of_the_configuration_is_known(page: str):
    known = RunConfig().model_dump()
    sections = "|".join(name for name, value in known.items() if isinstance(value, dict))
    for span in code_spans(page):
        key = re.fullmatch(rf"((?:{sections})(?:\.[a-z_]+)+)(?:=.*)?", span)
        if key is None or key[1].startswith(FREE_SECTIONS) or key[1].endswith((".json", ".safetensors", ".key")):
            continue
        section = known
        for part in key[1].split("."):
            assert part in section, key[1]
            section = section[part]


def test_the_rooms_stand_in_the_order_of_the_layers():
    text = PAGES["docs/architecture.md"]
    (table,) = re.findall(r"^## The rooms$(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    rooms = re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE)
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert rooms == [layer.removeprefix("fedvpa.") for layer in reversed(layers)]
    assert sorted(rooms) == ROOMS


def test_whatever_a_run_writes_is_in_the_table():
    table = PAGES["docs/architecture.md"].partition("## What a run directory holds")[2].partition("\n## ")[0]
    assert not [name for name in FILES if f"`{name}`" not in table]
    assert not [name for name in FOLDERS if f"`{name}/" not in table]


def test_the_table_of_methods_has_every_method():
    rows = re.findall(
        r"^\| `(\w+)` \|", PAGES["docs/architecture.md"].split("## The methods of stage 1")[1].split("\n## ")[0], re.M
    )
    assert sorted(rows) == sorted(METHODS.names())
