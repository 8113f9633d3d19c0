"""Rendering, truncation and framing, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from chat_models import metaspace
from fedvpa.data.schema import Message, Pair
from fedvpa.features.tokens import Tokenised, tokenise
from fedvpa.models.encoding import TextEncoder
from fedvpa.models.rendering import Renderer
from fedvpa.models.tokens import Frame, Limits, TokenCounts, frame_of

PAIR = Pair("w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10")
WIDE = Limits(prompt=101, response=103)


def counts_of(found: Tokenised) -> TokenCounts:
    notes = found.notes
    return TokenCounts(
        *(int(notes[name].sum()) for name in ("prompt_tokens", "response_tokens", "prompt_cut", "responses_cut"))
    )


@pytest.fixture
def ids(tokenizer_of):
    vocabulary = tokenizer_of("qwen2").get_vocab()
    return lambda text: [vocabulary[word] for word in text.split()]


@pytest.fixture
def one(tokenizer_of):
    def tokenise_one(pair: Pair, family: str, limits: Limits = WIDE, *, chat: bool = False):
        tokenizer, kind = tokenizer_of(family, chat=chat), "encoder" if family == "bert" else "causal"
        frame = frame_of(tokenizer, kind)
        encoder = TextEncoder(Renderer(tokenizer), frame.before, joined=kind == "causal")
        found = tokenise([pair], encoder, frame=frame, kind=kind, limits=limits)
        return found.rows[0], counts_of(found)

    return tokenise_one


@pytest.mark.unit
@pytest.mark.parametrize(
    ("family", "prefix"), [("qwen2", "w1 w2 w3"), ("llama", "<bos> w1 w2 w3"), ("bert", "[CLS] w1 w2 w3 [SEP]")]
)
def test_plain_rows(one, ids, family, prefix):
    row, counts = one(PAIR, family)
    assert row.prefix.tolist() == ids(prefix)
    assert row.chosen.tolist() == ids("w4 w5")
    assert row.rejected.tolist() == ids("w6 w7 w8 w9 w10")
    assert counts == TokenCounts(prompt_tokens=3, response_tokens=7)


@pytest.mark.unit
def test_prompts_lose_the_left_and_responses_the_right_and_both_are_counted(one, ids):
    row, counts = one(PAIR, "llama", Limits(prompt=2, response=3))
    assert row.prefix.tolist() == ids("<bos> w2 w3")
    assert row.chosen.tolist() == ids("w4 w5")
    assert row.rejected.tolist() == ids("w6 w7 w8")
    assert counts == TokenCounts(prompt_tokens=2, response_tokens=5, prompts_truncated=1, responses_truncated=1)


@pytest.mark.unit
def test_rows_fit_into_the_models_positions(one, ids):
    """3 special tokens and 5 of the longer response leave 1 of 9 positions to the prompt, for both responses alike."""
    row, counts = one(PAIR, "bert", Limits(prompt=101, response=103, positions=9))
    assert row.prefix.tolist() == ids("[CLS] w3 [SEP]")
    assert counts.prompts_truncated == 1
    assert counts.responses_truncated == 0
    row, counts = one(PAIR, "bert", Limits(prompt=101, response=103, positions=7))
    assert row.prefix.tolist() == ids("[CLS] [SEP]")
    assert row.rejected.tolist() == ids("w6 w7 w8 w9")
    assert counts.responses_truncated == 1


@pytest.mark.unit
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_response_without_tokens_is_noted_with_its_row(tokenizer_of, side):
    texts = {"chosen": "w1", "rejected": "w2", side: "  "}
    odd, encoder = Pair("w1", pair_id="odd", **texts), TextEncoder(Renderer(tokenizer_of("qwen2")))
    found = tokenise([PAIR, PAIR, odd], encoder, frame=Frame(), kind="causal", limits=WIDE)
    assert len(found.rows) == 3
    assert found.notes["equal"].tolist() == [False, False, True]
    assert {row: error.problem for row, error in found.refused.items()} == {
        2: f"the {side} response has no tokens, so it has no features."
    }


@pytest.mark.unit
def test_an_empty_prompt_is_allowed(one):
    row, counts = one(Pair("", "w4", "w5 w6"), "qwen2")
    assert row.prefix.tolist() == []
    assert counts.prompt_tokens == 0


@pytest.mark.unit
def test_conversations_go_through_the_chat_template(one, ids, tokenizer_of):
    pair = Pair((Message("user", "w1 w2"),), (Message("assistant", "w4"),), (Message("assistant", "w5 w6"),))
    rendered = Renderer(tokenizer_of("llama", chat=True)).render(pair)
    assert rendered.prompt == "<bos> user w1 w2 <eos> assistant"
    assert rendered.chosen == " w4 <eos>"
    assert rendered.rejected == " w5 w6 <eos>"
    row, _ = one(pair, "llama", chat=True)
    assert row.prefix.tolist() == ids("<bos> <unk> w1 w2 <eos> <unk>")
    assert row.rejected.tolist() == ids("w5 w6 <eos>")
    row, counts = one(pair, "llama", Limits(prompt=2, response=103), chat=True)
    assert row.prefix.tolist() == ids("<bos> <eos> <unk>")
    assert counts.prompts_truncated == 1


@pytest.mark.unit
def test_many_pairs_keep_their_order(ids, tokenizer_of, monkeypatch):
    monkeypatch.setattr("fedvpa.models.encoding.AT_ONCE", 3)
    pairs = [Pair(f"w{n}", f"w{n + 1}", f"w{n + 2}") for n in range(11)]
    encoder = TextEncoder(Renderer(tokenizer_of("qwen2")))
    found = tokenise(pairs, encoder, frame=Frame(), kind="causal", limits=WIDE)
    assert [int(row.rejected[0]) for row in found.rows] == [ids(f"w{n + 2}")[0] for n in range(11)]
    assert counts_of(found) == TokenCounts(prompt_tokens=11, response_tokens=22)
    assert all(row.prefix.dtype == np.int32 for row in found.rows)


@pytest.mark.unit
def test_pairs_whose_responses_are_equal_once_cut_are_noted(tokenizer_of):
    pairs = [
        PAIR,
        Pair("w1", "w4 w5 w6", "w4 w5 w7"),
        Pair("w1", "w4 w5 w6", "w4 w6"),
        Pair("w2", "w8 w9 w1", "w8 w9 w3"),
    ]
    encoder = TextEncoder(Renderer(tokenizer_of("qwen2")))
    for limit, equal in ((3, []), (2, [1, 3]), (1, [1, 2, 3])):
        found = tokenise(pairs, encoder, frame=Frame(), kind="causal", limits=Limits(101, limit))
        assert np.flatnonzero(found.notes["equal"]).tolist() == equal


@pytest.mark.unit
def test_a_response_follows_its_prompt_as_in_one_text():
    """Where a mark for a space is put in front of every text, a response tokenised apart would begin with a space."""
    tokenizer = metaspace(None)
    prompt, chosen, rejected = "Human: How do I bake?\n\nAssistant:\n", "Use warm water.", "I cannot."
    for joined in (True, False):
        (ids,) = TextEncoder(Renderer(tokenizer), joined=joined).pairs([Pair(prompt, chosen, rejected)])
        whole = tokenizer(prompt + chosen)["input_ids"]
        assert ([*ids.prompt.ids, *ids.chosen] == whole) is joined
        assert ids.prompt.ids.tolist() == tokenizer(prompt)["input_ids"]
    (ids,) = TextEncoder(Renderer(tokenizer)).pairs([Pair("How do I b", "ake", "ite")])
    assert ids.prompt.ids.tolist() == tokenizer("How do I b")["input_ids"]  # a straddling token changes no prompt
