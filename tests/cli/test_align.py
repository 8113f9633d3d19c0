from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import fedvpa
from fedvpa.api.train import train
from fedvpa.runs.config import read_config
from run_fixtures import TINY, TINY_POLICY

SMALL = (*TINY, *TINY_POLICY, "policy.candidates.samples=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(read_config(None, SMALL), out)
    return out


@pytest.mark.end_to_end
def test_align_then_generate(run: Path):
    code, out, err = fedvpa("generate", str(run), "--prompt", "how ?", "--preference", "helpful")
    assert code == 2
    assert err.count("\n") == 1
    assert f"fedvpa align {run}" in err

    code, out, _ = fedvpa("align", str(run), "--json")
    assert code == 0
    metrics = json.loads(out)
    assert metrics == json.loads((run / "policy" / "metrics.json").read_text())

    code, out, err = fedvpa("align", str(run))
    assert code == 2
    assert "--overwrite" in err
    code, out, _ = fedvpa("align", str(run), "--overwrite", "policy.steps=1")
    assert code == 0
    assert "fedeb: " in out
    assert "stopped at step 1, 1 of 1 looks admissible;" in out
    assert out.endswith(f"{run / 'policy'}\n")

    asked = ("generate", str(run), "--prompt", "how do i plan a picnic ?", "--prompt", "how do i bake bread ?")
    code, out, _ = fedvpa(*asked, "--preference", "0.3", "--json", "--temperature", "0")
    assert code == 0
    found = json.loads(out)
    assert [answer["prompt"] for answer in found["answers"]] == [asked[3], asked[5]]
    assert len(found["z"]) == 13
    code, out, _ = fedvpa(*asked, "--preference", "0.3", "--temperature", "0")
    assert out == "\n\n".join(answer["response"] for answer in found["answers"]) + "\n"

    code, out, err = fedvpa(*asked, "--preference", "harmles")
    assert code == 2
    assert "Did you mean 'harmless'?" in err
    assert "Traceback" not in err
