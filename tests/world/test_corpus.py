"""What the bundled language model learns from."""

from __future__ import annotations

import pytest

from fedvpa.world.corpus import Batch, corpus_batches
from fedvpa.world.grammar import Parsed, parse
from fedvpa.world.prompts import prompts
from fedvpa.world.tokenizer import build_tokenizer
from fedvpa.world.utility import features

EXAMPLES = 78


@pytest.mark.unit
def test_batches_hold_what_they_say() -> None:
    tokenizer, seen = build_tokenizer(), 0
    for batch in corpus_batches(tokenizer, examples=EXAMPLES, batch=13, seed=0):
        assert isinstance(batch, Batch)
        assert batch.pooled.sum() == (batch.response.sum(1) - 1).sum()
        for tokens, answer, traits in zip(batch.tokens, batch.response, batch.features, strict=True):
            response = tokens[answer]
            assert response[-1] == tokenizer.eos_token_id
            prompt = tokenizer.decode(tokens[: int(answer.nonzero()[0, 0])])
            reading = parse(prompt, tokenizer.decode(response[:-1]))
            assert isinstance(reading, Parsed)
            assert features(reading.attributes)[:-1] == pytest.approx(traits.numpy(), abs=1e-6)
            assert prompt in {one.text for one in prompts("train")}
            seen += 1
    assert seen == EXAMPLES
