"""The pairs that users of a run on own data are asked about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedvpa.api.profiles import profiles
from fedvpa.core.errors import DataError
from fedvpa.serving import pool
from fedvpa.world.prompts import prompts
from run_fixtures import TINY_POLICY


@pytest.mark.end_to_end
def test_users_are_asked_about_the_base_policys_own_responses_to_public_prompts(
    own_run: Path, tmp_path: Path, monkeypatch, capsys
):
    run = Path(shutil.copytree(own_run, tmp_path / "run"))
    monkeypatch.setattr(pool, "POOL", 3)
    with profiles(run) as kept, pytest.raises(DataError, match=r"no public prompts.*pool=FILE.*prompt_file=FILE"):
        kept.next()
    texts = [prompt.text for prompt in prompts("train")[:9]]
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{text}\n" for text in texts))
    few = ["policy.candidates.samples=2", "policy.candidates.max_new_tokens=9"]
    settings = [f"policy.candidates.prompt_file={file}", *(key for key in TINY_POLICY if "preferences" in key), *few]
    with profiles(run, overrides=settings) as kept:
        question = kept.next()
    assert question.prompt in texts
    assert f"the pairs to ask are kept: {run / 'pool.jsonl'}" in capsys.readouterr().err
    rows = [json.loads(line) for line in (run / "pool.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in rows} <= set(texts)
    assert question.left == len(rows) <= 3
    with profiles(run) as kept:  # nothing is sampled again
        assert kept.next() == question
