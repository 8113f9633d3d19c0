import ast
import inspect
import tomllib
from pathlib import Path

import fedvpa

ROOT = Path(__file__).parents[2]


def test_type_checkers_see_what_the_package_hands_out():
    shown = {
        alias.asname: node.module
        for block in ast.parse(inspect.getsource(fedvpa)).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == fedvpa._HOMES
    assert dir(fedvpa) == sorted(["__version__", *shown])


def test_every_public_name_is_there():
    for name in fedvpa.__all__:
        assert getattr(fedvpa, name) is not None


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert fedvpa.__version__ == project["version"]
