"""The plan that the page on privacy shows is what the command prints."""

import shlex

import pytest

from command_line import fedvpa
from doc_pages import PAGES, blocks

PAGE = "docs/privacy.md"


@pytest.mark.end_to_end
def test_the_plan_is_what_the_command_prints():
    commands = [line for block in blocks(PAGE) for line in block.splitlines() if line.startswith("fedvpa privacy plan")]
    (shown,) = blocks(PAGE, "text")
    done = fedvpa(*shlex.split(commands[0])[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown


@pytest.mark.unit
def test_other_pages_lead_to_it():
    assert "](privacy.md" in PAGES["docs/flower.md"]
    assert "](privacy.md" in PAGES["docs/tutorial.md"]
