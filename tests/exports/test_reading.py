"""An export that other programs would read by other tokens is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Qwen2Config

from fedvpa.core.errors import ModelError
from fedvpa.exports.reading import Reading, write_tokenizer
from policy_fixtures import SMALL, make_policy, make_tokenizer


@pytest.mark.unit
def test_a_tokenizer_that_transformers_replaces_by_the_familys_own_is_refused(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    AutoModelForCausalLM.from_config(Qwen2Config(**SMALL)).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    declared = json.loads((base / "tokenizer_config.json").read_text())["tokenizer_class"]
    assert declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
    reading = Reading.of(make_policy(base, None))
    with pytest.raises(ModelError, match=r"AutoTokenizer of the installed transformers gives other tokens") as told:
        write_tokenizer(reading, out)
    assert "\n" not in str(told.value)
