"""Change one formula or rule at a time, and see whether a test goes red.

Every mutation in ``mutations.toml`` is a mistake that someone could make: a sign, a square, a swapped argument, a rule
left out. Each is made in a copy of the source, on which the tests run that should notice. It *dies* if one of them
fails. The same tests first run on a copy without any mistake, where all of them must pass. Prints one line of JSON;
the exit code is 1 if a mutation survives.

    python benchmarks/mutations.py                # all of them: seven and a half minutes of processor time
    python benchmarks/mutations.py --only dpo     # those whose name or file contains the text
    python benchmarks/mutations.py --check        # only whether each still applies to the source (a test does this)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
COPIED = ("src", "tests", "benchmarks", "pyproject.toml")
PASSED, FAILED = 0, 1
"""Exit codes of pytest; any other means that it could not collect or run the tests."""
LONGEST = 900
"""Seconds after which tests are taken to hang."""


@dataclass(frozen=True)
class Mutation:
    """A mistake, and who should notice.

    Attributes:
        name: What is wrong.
        file: Below ``src/fedvpa``.
        find: Text that stands exactly once in the file.
        replace: What stands there instead.
        tests: Files below ``tests``, or tests of them, as ``file.py::test_name``.
    """

    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    def changed(self, root: Path = ROOT) -> str:
        """The text of the file below ``root`` with the mistake.

        Raises:
            ValueError: If what is replaced does not stand there exactly once.
        """
        text = self.source(root).read_text(encoding="utf-8")
        if (count := text.count(self.find)) != 1:
            raise ValueError(f"{self.name}: {self.file} holds {self.find!r} {count} times, not once")
        return text.replace(self.find, self.replace)

    def source(self, root: Path) -> Path:
        """The file below ``root``."""
        return root / "src" / "fedvpa" / self.file

    def check(self) -> None:
        """Check that the mistake can be made, that it is Python, and that its tests are there.

        Raises:
            ValueError: If the text does not stand in the file exactly once, or a test is missing.
            SyntaxError: If what stands there instead is no Python.
        """
        compile(self.changed(), self.file, "exec")
        for test in self.tests:
            file, _, name = test.partition("::")
            path = ROOT / "tests" / file
            if not path.is_file() or (name and f"\ndef {name}(" not in path.read_text(encoding="utf-8")):
                raise ValueError(f"{self.name}: there is no test {test}")


def read_table() -> list[Mutation]:
    """All mutations.

    Raises:
        ValueError: If two have one name, or one has no test.
    """
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["mutation"]
    found = [Mutation(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    if len({one.name for one in found}) < len(found) or not all(one.tests for one in found):
        raise ValueError("every mutation needs a name of its own and a test")
    return found


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of what tests need, without compiled files: those of Python are told apart by time and size alone."""
    with tempfile.TemporaryDirectory(prefix="fedvpa-mutation-") as folder:
        root = Path(folder).resolve()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, root / name)
        yield root


def failing(root: Path, tests: Sequence[str], what: str) -> str | None:
    """The first test that fails on the copy at ``root``, with its error; None if all pass.

    Raises:
        RuntimeError: If another copy would be imported, or the tests cannot be collected or do not end.
    """
    # First on the path, so that it goes before an installed package, in processes that tests start as well.
    path = os.pathsep.join([str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "160"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )

    imported = python("-c", "import fedvpa; print(fedvpa.__file__)").stdout.strip()
    if not Path(imported).is_relative_to(root):
        raise RuntimeError(f"{what}: tests would import {imported or 'nothing'} and not the copy")
    done = python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests))
    if done.returncode == PASSED:
        return None
    if done.returncode != FAILED:
        raise RuntimeError(f"{what}: the tests did not run:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    named = re.search(r"^(?:FAILED|ERROR) tests/(.+)", done.stdout, re.M)
    return named[1] if named else done.stdout[-500:]


def killer(mutation: Mutation) -> str | None:
    """The test that fails with the mistake, and how; None if it survives."""
    with copied() as root:
        mutation.source(root).write_text(mutation.changed(root), encoding="utf-8")
        found = failing(root, mutation.tests, mutation.name)
    print(f"{'dies' if found else 'SURVIVES':8} {mutation.name}", file=sys.stderr, flush=True)
    return found


def check_unchanged(chosen: Sequence[Mutation]) -> None:
    """Check that the tests pass where nothing is wrong.

    Raises:
        RuntimeError: If one fails, which would then say nothing about a mistake.
    """
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    with copied() as root:
        if found := failing(root, tests, "without a mutation"):
            raise RuntimeError(f"a test fails without any mutation: {found}")


def main() -> int:
    """Make the mistakes, and print who noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those whose name or file contains this text")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--check", action="store_true", help="only whether each applies, and its tests are there")
    options = parser.parse_args()
    chosen = [one for one in read_table() if options.only.lower() in f"{one.name} {one.file}".lower()]
    if not chosen:
        parser.error(f"no mutation is called {options.only!r}")
    for mutation in chosen:
        mutation.check()
    if options.check:
        print(json.dumps({"mutations": len(chosen)}))
        return 0
    check_unchanged(chosen)
    with ThreadPoolExecutor(options.jobs) as pool:
        killers = list(pool.map(killer, chosen))
    rows = [{"mutation": one.name, "file": one.file, "killed_by": by} for one, by in zip(chosen, killers, strict=True)]
    survived = [row["mutation"] for row in rows if row["killed_by"] is None]
    print(json.dumps({"mutations": len(rows), "died": len(rows) - len(survived), "survived": survived, "rows": rows}))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
