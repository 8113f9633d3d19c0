"""The mutations of ``benchmarks/mutations.py`` still fit the source; that they die is for the script to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.unit


@pytest.fixture
def mutations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mutations

    yield mutations
    sys.modules.pop("mutations")


def test_every_mutation_applies_to_the_source_and_names_tests_that_exist(mutations):
    table = mutations.read_table()
    assert len(table) > 45
    for mutation in table:
        mutation.check()


def test_what_does_not_fit_is_said(mutations):
    def made(**changes):
        values = {"name": "m", "file": "core/loop.py", "find": "math.isfinite(value)", "replace": "True"}
        return mutations.Mutation(**{**values, "tests": ("core/test_loop.py",), **changes})

    made().check()
    for changes, problem in (
        ({"find": "nowhere to be found"}, "0 times, not once"),
        ({"find": "import"}, "times, not once"),
        ({"tests": ("core/test_nothing.py",)}, "no test core/test_nothing.py"),
        ({"tests": ("core/test_loop.py::test_nothing",)}, "no test core/test_loop.py::test_nothing"),
    ):
        with pytest.raises(ValueError, match=problem):
            made(**changes).check()
    with pytest.raises(SyntaxError):
        made(replace="(").check()


def test_tests_read_the_copy_and_a_failure_is_told_from_tests_that_do_not_run(mutations, tmp_path):
    package = tmp_path / "src" / "fedvpa" / "__init__.py"
    file = tmp_path / "tests" / "test_it.py"
    for path in (package, file, tmp_path / "pyproject.toml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    file.write_text(f"import fedvpa\n\ndef test_red():\n    assert fedvpa.__file__ != {str(package)!r}\n")
    assert mutations.failing(tmp_path, ["test_it.py"], "m").startswith("test_it.py::test_red - Assert")
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(RuntimeError, match="did not run"):
        mutations.failing(tmp_path, ["test_it.py"], "m")
    package.unlink()
    with pytest.raises(RuntimeError, match="and not the copy"):
        mutations.failing(tmp_path, ["test_it.py"], "m")


def test_it_checks_from_the_command_line():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "mutations.py"), "--check", "--only", "dpo"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"mutations": ' in done.stdout
