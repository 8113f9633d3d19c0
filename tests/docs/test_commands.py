"""Every command on a page has known options and keys, and every option of a script is one that the script has."""

from __future__ import annotations

import re
import shlex

import pytest
import typer.main

from doc_pages import PAGES, ROOT, blocks, code_spans
from fedvpa.cli.main import app
from fedvpa.evaluation.judges.registry import settings_section
from fedvpa.runs.config import column_overrides, read_config

pytestmark = pytest.mark.unit

LAUNCHER = 'accelerate launch --num_processes 4 "$(command -v fedvpa)"'
SKETCH = re.compile(r"…|\||^fedvpa(?: [a-z]+)*$")
"""No command, but the outline of one, or its name alone."""


def lines_of(page: str) -> list[str]:
    """The lines of the page's blocks, joined where they go on, and what stands in the text as code."""
    shown = "\n".join(blocks(page)).replace("\\\n", " ").replace(LAUNCHER, "fedvpa").replace("$'", "'").splitlines()
    return [line.strip() for line in (*shown, *code_spans(page))]


def commands() -> list[tuple[str, list[str]]]:
    """(page, arguments) of every command of fedvpa."""
    return [
        (page, shlex.split(line, comments=True)[1:])
        for page in PAGES
        for line in lines_of(page)
        if line.startswith("fedvpa ") and not SKETCH.search(line)
    ]


def test_the_pages_have_commands():
    found = {page for page, _ in commands()}
    assert {"README.md", "docs/tutorial.md", "docs/flower.md", "docs/results.md", "docs/reproduction.md"} <= found


@pytest.mark.parametrize(
    ("page", "arguments"), commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value[:3])
)
def test_every_command_has_known_options_and_keys(page: str, arguments: list[str]):
    verb, words = typer.main.get_command(app).commands[arguments[0]], list(arguments[1:])
    if hasattr(verb, "commands"):
        del words[: sum(param.param_type_name == "argument" for param in verb.params)]  # of the group, such as a run
        verb = verb.commands[words.pop(0)]
    given = verb.make_context(arguments[0], words).params
    path = given.get("config")
    overrides = [*(given.get("overrides") or []), *column_overrides(given.get("map_") or [])]
    config = read_config(ROOT / path if path else None, overrides)
    if config.policy.judging.settings:
        kind = settings_section(config.policy.judging.judge)
        kind.parse(config.policy.judging.settings)


def test_every_option_of_a_script_is_one_of_its_own():
    for page in PAGES:
        for line in lines_of(page):
            script = re.search(r"(?:python )?(\w+\.py)(?= --| |$)", line)
            file = ROOT / "benchmarks" / script[1] if script else None
            if file is None or not file.is_file():
                continue
            text = file.read_text(encoding="utf-8")
            assert not [option for option in re.findall(r" (--[\w-]+)", line) if f'"{option}"' not in text], line


def test_every_target_of_make_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {line.split()[1] for page in PAGES for line in lines_of(page) if re.match(r"make [a-z]", line)}
    assert {"demo", "test"} <= named <= targets
