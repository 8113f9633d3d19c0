import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import new_policy
from fedvpa.world import backbone_path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.equivalence
def test_both_ways_answer_every_prompt_and_ours_has_the_draws_of_generate(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sampling as benchmark

    options = argparse.Namespace(new_tokens=5, responses=2, rows=4, temperature=1.0, repetitions=1, precision="float32")
    config = PolicyConfig.parse({"model": str(backbone_path()), "candidates": {"max_new_tokens": 5}})
    policy = new_policy(config, "", None, 0, device="cpu").eval()
    prompts = policy.tokenizer.prompts(benchmark.some_prompts(3))
    with policy.reference() as base:
        assert 0 < benchmark.check(base, prompts, options) <= 4 * 5
        found = benchmark.measured(base, prompts, options)
    assert {name: found[name]["tokens"][0] <= 6 * 5 for name in ("stock", "fedvpa")} == {"stock": True, "fedvpa": True}
    assert found["speedup_per_second"][0] > 0
    assert benchmark.tokens_in([np.array([5, 2, 7]), np.array([5, 6, 7])], [2]) == 5
    sys.modules.pop("sampling", None)
