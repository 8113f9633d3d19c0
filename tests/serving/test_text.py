"""Text that is shown token by token is the text of the whole answer, without its stop text."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from fedvpa.serving.text import TextStream

WORDS = ["▁the", "▁cat", "s", "▁", "é", "▁END", "ING"]


@pytest.fixture(scope="module")
def tokenizer() -> SimpleNamespace:
    """Bytes where no word fits, as SentencePiece models have them; token 1 ends an answer."""
    names = ["<unk>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    backend = Tokenizer(
        models.BPE({name: row for row, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    base = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    return SimpleNamespace(
        base=base,
        stops=SimpleNamespace(tokens=(1,)),
        text=lambda ids: base.decode([token for token in ids if token != 1], skip_special_tokens=True),
    )


def tokens_of(text: str) -> list[int]:
    """In bytes, a token for each."""
    return [2 + byte for byte in text.encode()]


def shown(stream: TextStream, ids: list[int]) -> list[str]:
    found = []
    for token in ids:
        found.append(stream.add(token))
        if stream.ended:
            return found
    return [*found, stream.rest()]


@pytest.mark.unit
def test_no_character_is_split(tokenizer):
    found = shown(TextStream(tokenizer), [2 + 256, *tokens_of("é🎉")])
    assert found == ["the", "", "é", "", "", "", "🎉", ""]


@pytest.mark.unit
def test_what_is_shown_is_the_whole_text(tokenizer):
    rng = np.random.default_rng(0)
    parts = [tokens_of(text) for text in ("é", "🎉", "日本", "x y")] + [[258 + word] for word in range(len(WORDS))]
    for _ in range(50):
        ids = [token for number in rng.integers(len(parts), size=9) for token in parts[number]]
        assert "".join(shown(TextStream(tokenizer), ids)) == tokenizer.text(ids)
        cut = "".join(shown(TextStream(tokenizer), ids[:-1]))
        assert tokenizer.text(ids).startswith(cut.rstrip("\ufffd")), "the last character may be cut in two"


@pytest.mark.unit
def test_bytes_that_are_no_text_do_not_stop_the_answer(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(20):
        stream = TextStream(tokenizer)
        shown(stream, (2 + rng.integers(256, size=40)).tolist())
        assert shown(stream, [*tokens_of("ok"), 1])[-1].endswith("k") or stream.ended


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([258, 263], ["the", ""]),  # " END" may become the stop text
        ([258, 263, 264, 259], ["the", "", ""]),  # " ENDING": ended, the cat is not said
        ([258, 263, 260], ["the", "", " ENDs"]),  # " ENDs" is none
        ([258, 263, 1], ["the", "", " END"]),  # ended by a token while it was held back
    ],
)
def test_a_stop_text_is_held_back_and_never_shown(tokenizer, ids, expected):
    stream = TextStream(tokenizer, (" ENDING", "unseen"))
    assert [stream.add(token) for token in ids[: len(expected)]] == expected
    assert stream.ended is (264 in ids or 1 in ids)
    if ids == [258, 263]:
        assert stream.rest() == " END"


@pytest.mark.unit
def test_the_first_of_several_stop_texts_counts(tokenizer):
    stream = TextStream(tokenizer, ("c", "ab"))
    assert "".join(shown(stream, tokens_of("xxabc"))) == "xx"
    assert stream.ended
