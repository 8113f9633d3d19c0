"""Plain strings and conversations as text."""

from __future__ import annotations

import pytest

from fedvpa.core.errors import ModelError
from fedvpa.data.schema import Message, Pair
from fedvpa.models.rendering import chat_messages, open_conversation, render

PAIR = Pair("w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10")


@pytest.mark.unit
def test_the_chat_option_wraps_strings_and_plain_leaves_transcripts_alone(tokenizer_of):
    tokenizer = tokenizer_of("llama", chat=True)
    pair = Pair("\n\nHuman: w1\n\nAssistant:", " w4", " w5")
    assert render(pair, tokenizer, "plain").prompt == pair.prompt
    wrapped = render(Pair("w1", "w4", "w5"), tokenizer, "chat")
    assert wrapped == render(Pair((Message("user", "w1"),), "w4", "w5"), tokenizer, "plain")
    assert wrapped.prompt == "<bos> user w1 <eos> assistant"


@pytest.mark.unit
def test_a_template_that_opens_turns_differently_moves_the_difference_into_the_responses(tokenizer_of):
    tokenizer = tokenizer_of("llama", chat=True)
    tokenizer.chat_template = tokenizer.chat_template.replace(" assistant{% endif %}", " assistant think{% endif %}")
    rendered = render(Pair("w1", "w4", "w5"), tokenizer, "chat")
    assert rendered.prompt == "<bos> user w1 <eos> assistant "
    assert rendered.chosen == "w4 <eos>"


@pytest.mark.unit
def test_a_conversation_without_a_chat_template_is_an_error(tokenizer_of):
    pair = Pair((Message("user", "w1"),), "w2", "w3")
    with pytest.raises(ModelError, match="no chat template"):
        render(pair, tokenizer_of("qwen2"), "plain")
    with pytest.raises(ModelError, match="no chat template"):
        render(PAIR, tokenizer_of("qwen2"), "chat")


@pytest.mark.unit
def test_an_opened_conversation_waits_for_the_assistant(tokenizer_of):
    tokenizer = tokenizer_of("llama", chat=True)
    prompt = (Message("system", "w3"), Message("user", "w1 w2"))
    messages, opened = open_conversation(prompt, tokenizer)
    assert messages == [{"role": "system", "content": "w3"}, {"role": "user", "content": "w1 w2"}]
    assert opened == "<bos> system w3 <eos> user w1 w2 <eos> assistant"
    assert open_conversation("w1", tokenizer) == ([{"role": "user", "content": "w1"}], "<bos> user w1 <eos> assistant")
    assert chat_messages("w4", "assistant") == [{"role": "assistant", "content": "w4"}]
    with pytest.raises(ModelError, match="no chat template"):
        open_conversation(prompt, tokenizer_of("qwen2"))
