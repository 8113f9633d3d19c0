"""The Python of the tutorial runs as it stands, with less of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from doc_pages import SMALL, blocks


@pytest.mark.end_to_end
def test_the_python_blocks_run_one_after_the_other(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDVPA_CACHE", str(tmp_path / "cache"))
    code = "\n".join(blocks("docs/tutorial.md", "python"))
    changes = {
        '"server.rounds=100"': ", ".join(map(repr, ("server.rounds=3", "eb.components=2", "data.pairs_per_user=12"))),
        '"policy.steps=450"': ", ".join(map(repr, (key for key in SMALL if key.startswith("policy")))),
    }
    for given, small in changes.items():
        assert given in code
        code = code.replace(given, small)
    exec(compile(code, "docs/tutorial.md", "exec"), {"__name__": "tutorial"})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("runs/world/policy 0.")
    assert [line.partition(" ")[0] for line in said[1:]] == ["helpful", "0.3", "harmless"]
