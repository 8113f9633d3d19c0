"""The benchmark of the engine asks both engines for the same work, and counts it."""

import argparse
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.end_to_end
def test_all_ways_draw_the_same_number_of_tokens(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import serving_engine as benchmark

    small = {"vocab_size": 4001, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    benchmark.make_model(tmp_path, benchmark.SHAPE | small | {"num_attention_heads": 2, "num_key_value_heads": 1})
    policy = benchmark.make_policy(tmp_path, 3)
    options = argparse.Namespace(requests=4, alone=4, prompt_tokens=9, new_tokens=3, repetitions=1)
    work = benchmark.Work.of(policy, options)
    plain = benchmark.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    found = benchmark.measured(policy, plain, work, options)
    counts = {name: figures["tokens"][0] for name, figures in found.items() if "tokens" in figures}
    assert counts == dict.fromkeys(("at once", "base at once", "one by one", "generate", "continuous batching"), 12)
    assert found["at once / one by one"]["per_second"][0] > 0
    sys.modules.pop("serving_engine", None)
