"""Plain strings and conversations as text."""

from __future__ import annotations

import pytest

from chat_models import byte_level
from fedvpa.core.errors import DataError, ModelError
from fedvpa.data.messages import with_system
from fedvpa.data.schema import Message, Pair
from fedvpa.models.chat_template import ChatTemplate
from fedvpa.models.rendering import Renderer, header_warning, is_conversational

PAIR = Pair("w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10")
ASKED = (Message("user", "How do I bake?"),)


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


@pytest.mark.unit
def test_the_chat_option_wraps_strings_and_plain_leaves_transcripts_alone(tokenizer_of):
    tokenizer = tokenizer_of("llama", chat=True)
    pair = Pair("\n\nHuman: w1\n\nAssistant:", " w4", " w5")
    assert Renderer(tokenizer).render(pair).prompt == pair.prompt
    wrapped = Renderer(tokenizer, "chat").render(Pair("w1", "w4", "w5"))
    assert wrapped == Renderer(tokenizer).render(Pair((Message("user", "w1"),), "w4", "w5"))
    assert wrapped.prompt == "<bos> user w1 <eos> assistant"
    assert Renderer(tokenizer, "chat").open("w1").prompt == wrapped.prompt


@pytest.mark.unit
def test_the_prompt_of_a_pair_is_the_prompt_that_generation_starts_from():
    """Also where the generation prompt opens a thought: the response follows it in training as it does in sampling."""
    for template in ("chatml", "trimmed", "dated", "think", "turns", "transcript"):
        renderer = Renderer(byte_level(template))
        rendered = renderer.render(Pair(ASKED, said("Slowly."), said("I cannot.")))
        assert rendered.prompt == renderer.open(ASKED).prompt, template
        assert rendered.chosen.strip().startswith("Slowly."), template
    renderer = Renderer(byte_level("think"))
    rendered = renderer.render(Pair(ASKED, said("<think>hm</think>\nSlowly."), said("<b>No</b>")))
    assert rendered.prompt == "<|im_start|>user How do I bake?<|im_end|><|im_start|>assistant <think>\n"
    assert (rendered.chosen, rendered.rejected) == ("Slowly.<|im_end|>", "<b>No</b><|im_end|>")


@pytest.mark.unit
def test_a_template_whose_generation_prompt_differs_from_its_turns_gets_a_warning():
    warning = header_warning(ChatTemplate(byte_level("think")))
    assert "'<think>\\n'" in warning
    assert "enable_thinking" in warning
    assert not header_warning(ChatTemplate(byte_level("think"), {"enable_thinking": False}))
    for template in ("chatml", "dated", "turns"):
        assert not header_warning(ChatTemplate(byte_level(template)))
    assert not header_warning(ChatTemplate(byte_level(None)))


@pytest.mark.unit
def test_template_arguments_decide_the_prompt():
    quiet = Renderer(byte_level("think"), arguments={"enable_thinking": False})
    assert quiet.open(ASKED).prompt.endswith("<|im_start|>assistant ")
    assert quiet.render(Pair(ASKED, said("Slowly."), said("No."))).prompt == quiet.open(ASKED).prompt


@pytest.mark.unit
@pytest.mark.parametrize("template", ["chatml", "trimmed", "think", "turns", "transcript"])
def test_a_prompt_that_ends_in_an_assistant_turn_is_continued(template):
    renderer = Renderer(byte_level(template))
    begun = (*ASKED, Message("assistant", "Sure, "))
    opened = renderer.open(begun).prompt
    assert opened.endswith("Sure, ")
    assert opened.count("Sure") == 1
    rendered = renderer.render(Pair(begun, said("slowly."), "not."))
    assert rendered.prompt == opened
    whole = renderer.template.write([*ASKED, Message("assistant", "Sure, slowly.")], opened=False)
    assert opened + rendered.chosen == whole
    assert rendered.rejected.startswith("not.")


@pytest.mark.unit
def test_an_assistant_turn_whose_beginning_the_template_leaves_out_cannot_be_continued():
    tokenizer = byte_level("chatml")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {% endfor %}"
    with pytest.raises(DataError, match="no response can continue it"):
        Renderer(tokenizer).open((*ASKED, Message("assistant", "Sure, ")))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        ("turns", (Message("system", "Be kind."), *ASKED), "turns system, user: Conversation roles must alternate"),
        ("turns", (*ASKED, *ASKED), "Join neighbouring turns"),
        ("deaf", (Message("system", "Be kind."), *ASKED), "leaves such turns out"),
        ("chatml", (), "turns none"),
    ],
)
def test_what_a_template_refuses_is_one_message(template, messages, words):
    renderer = Renderer(byte_level(template))
    for act in (lambda: renderer.open(messages), lambda: renderer.render(Pair(messages, said("a"), said("b")))):
        with pytest.raises(DataError, match=words) as raised:
            act()
        assert raised.value.fix


@pytest.mark.unit
def test_a_system_turn_that_a_template_refuses_is_called_by_its_name():
    with pytest.raises(DataError, match="no system turns: leave them out"):
        Renderer(byte_level("turns")).open((Message("system", "Be kind."), *ASKED))


@pytest.mark.unit
def test_a_template_that_can_write_nothing_is_an_error_of_the_model():
    with pytest.raises(ModelError, match="cannot be used"):
        Renderer(byte_level("broken")).open(ASKED)
    tokenizer = byte_level("chatml")
    tokenizer.chat_template = "{% for m in messages %}"
    with pytest.raises(ModelError, match="cannot be used"):
        Renderer(tokenizer).open(ASKED)


@pytest.mark.unit
def test_a_conversation_without_a_chat_template_is_an_error(tokenizer_of):
    pair = Pair((Message("user", "w1"),), "w2", "w3")
    for renderer, one in ((Renderer(tokenizer_of("qwen2")), pair), (Renderer(tokenizer_of("qwen2"), "chat"), PAIR)):
        with pytest.raises(ModelError, match="no chat template"):
            renderer.render(one)
        with pytest.raises(ModelError, match="no chat template"):
            renderer.open(one.prompt)


@pytest.mark.unit
def test_most_prompts_decide_what_kind_data_are():
    assert is_conversational([ASKED, ASKED, "text"])
    assert not is_conversational([ASKED, "text", "text"])
    assert not is_conversational([])


@pytest.mark.unit
def test_a_system_turn_stands_in_front_and_only_once():
    assert with_system("Hi", "Be kind.") == (Message("system", "Be kind."), Message("user", "Hi"))
    with pytest.raises(DataError, match="system turn already"):
        with_system(with_system("Hi", "Be kind."), "Be brief.")
