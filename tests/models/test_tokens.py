"""The special tokens that a model expects around its input."""

from __future__ import annotations

import pytest

from fedvpa.models.tokens import Frame, frame_of


@pytest.mark.unit
def test_frames(tokenizer_of):
    assert frame_of(tokenizer_of("qwen2"), "causal") == Frame()
    assert frame_of(tokenizer_of("llama"), "causal") == Frame(before=(1,))
    assert frame_of(tokenizer_of("bert"), "encoder") == Frame((3,), (4,), (4,), response_type=1)
