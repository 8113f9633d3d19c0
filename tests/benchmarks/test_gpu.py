"""The script for a GPU, tiny on the CPU: every part gives figures, is kept at once, and fails in the open."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.end_to_end
def test_every_part_gives_figures_or_says_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    def broken(*_: object) -> dict[str, object]:
        raise MemoryError("no room")

    monkeypatch.setitem(gpu.PARTS, "nf4", broken)
    out, kept = tmp_path / "gpu.json", []
    monkeypatch.setattr(gpu, "say", lambda _: kept.append(list(json.loads(out.read_text())["parts"])))
    assert not gpu.measured(out, gpu.small("cpu"), gpu.TINY, list(gpu.PARTS), 300)
    found = json.loads(out.read_text())
    names = list(gpu.PARTS)
    assert kept == [names[:count] for count in range(1, len(names) + 1)]
    assert found["machine"]["gpu"] == "none"
    parts = found["parts"]
    assert parts["features"]["close"]
    assert parts["features"]["shipped_seconds"]["median"] > 0
    assert parts["sampling"]["fedvpa"]["tokens"] == [48, 48, 48]  # 2 prompts, 8 responses, 3 tokens
    assert parts["losses"]["apart"] < 1e-4
    assert {"fedvpa", "trl", "trl_cached"} < parts["step"].keys()
    assert parts["step"]["fedvpa_over_trl"]["seconds"] > 0
    assert parts["resume"] == {**parts["resume"], "bit_for_bit": True, "steps": 4}
    assert parts["nf4"]["failed"] == "MemoryError: no room"
    assert not gpu.measured(out, gpu.small("cpu"), gpu.TINY, ["features"], 0)
    assert json.loads(out.read_text())["parts"]["features"]["failed"] == "the 0 seconds were over"
    for name in ("gpu", "dpo_step", "feature_extraction", "sampling"):
        sys.modules.pop(name, None)
