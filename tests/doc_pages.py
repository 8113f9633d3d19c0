"""The pages that people read, and their blocks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
}

SMALL = (
    "server.rounds=3",
    "local.steps=2",
    "policy.steps=4",
    "policy.batch=4",
    "policy.evaluate_every=2",
    "policy.refresh_every=0",
    "policy.candidates.prompts=12",
    "policy.candidates.samples=3",
    "policy.candidates.max_new_tokens=24",
    "policy.preferences.check=warn",
    "policy.guard.max_kl=1000",
    "policy.guard.max_drop=1000",
    "policy.guard.min_distinct=0",
)
"""What the runs of the pages are given in the tests, so that they take seconds."""


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of one language, in their order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def code_spans(page: str) -> list[str]:
    """What stands between single backticks, outside blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE))
