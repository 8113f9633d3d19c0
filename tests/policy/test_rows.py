from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig

from chat_models import END, TEMPLATES, byte_level
from fedvpa.core.errors import DataError, ModelError
from fedvpa.data.schema import Message, Pair
from fedvpa.models.tokens import TokenCounts
from fedvpa.policy.rows import IGNORED, Layout, PolicyTokenizer
from policy_fixtures import BOS, EOS, PAD, VOCABULARY, ids, make_tokenizer

LAYOUT = Layout(heads=((BOS,),), slots=2, pad=PAD)


def tokens(text: str) -> list[int]:
    return [VOCABULARY[word] for word in text.split()]


@pytest.mark.unit
def test_rows_to_score_are_padded_on_the_right_and_only_responses_have_labels():
    rows = LAYOUT.rows(
        [ids(BOS, 7, 8, 9), ids(BOS, 10)], [ids(11, EOS), ids(12, 13, EOS)], [np.array([1, 0]) > 0, ids(0, 1, 1) > 0]
    )
    assert rows.ids.tolist() == [[BOS, PAD, PAD, 7, 8, 9, 11, EOS], [BOS, PAD, PAD, 10, 12, 13, EOS, PAD]]
    assert rows.attention.tolist() == [[1] * 8, [1] * 7 + [0]]
    none = IGNORED
    assert rows.labels.tolist() == [[none] * 6 + [11, EOS], [none] * 4 + [12, 13, EOS, none]]
    assert rows.sure.int().tolist() == [[0] * 6 + [1, 0], [0] * 5 + [1, 1, 0]]
    assert rows.first.tolist() == [1, 1]


@pytest.mark.unit
def test_rows_to_generate_from_are_padded_on_the_left_with_bos_in_front_of_the_slots():
    rows = LAYOUT.rows([ids(BOS, 7, 8, 9), ids(BOS, 10)])
    assert rows.ids.tolist() == [[BOS, PAD, PAD, 7, 8, 9], [PAD, PAD, BOS, PAD, PAD, 10]]
    assert rows.attention.tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
    assert (rows.labels == IGNORED).all()
    assert not rows.sure.any()
    assert rows.first.tolist() == [1, 3]


@pytest.mark.unit
def test_a_layout_without_bos_and_slots_is_prompt_and_response():
    rows = Layout((), 0, PAD).rows([ids(7)], [ids(8, EOS)])
    assert rows.ids.tolist() == [[7, 8, EOS]]
    assert rows.first.tolist() == [0]


@pytest.mark.unit
def test_strings_are_tokenised_as_they_are_and_a_response_ends():
    words = PolicyTokenizer.of(make_tokenizer(), 99)
    assert words.before == (BOS,)
    assert (words.eos, words.pad) == (EOS, PAD)
    assert [found.tolist() for found in words.prompts(["w1 w2", "w3"])] == [tokens("<bos> w1 w2"), tokens("<bos> w3")]
    ((prompt, chosen, rejected),), _ = words.pairs([Pair("w1 w2", "w4", "w5 w6")])
    assert prompt.tolist() == tokens("<bos> w1 w2")
    assert chosen.tolist() == [*tokens("w4"), EOS]
    assert rejected.tolist() == [*tokens("w5 w6"), EOS]
    assert words.text([*tokens("w5 w6"), EOS, PAD]) == "w5 w6"


@pytest.mark.unit
def test_conversations_are_written_by_the_chat_template_with_bos_left_to_the_layout():
    words = PolicyTokenizer.of(make_tokenizer(), 99)
    said = (Message("user", "w1 w2"), Message("assistant", "w3"), Message("user", "w4"))
    opened = tokens("<bos> user w1 w2 <eos> assistant w3 <eos> user w4 <eos> assistant")
    (prompt,) = words.prompts([said])
    assert prompt.tolist() == opened
    ((prompt, chosen, rejected),), _ = words.pairs([Pair(said, "w5", "w6 w7")])
    # The template ends the turn itself: no second end-of-text.
    assert [*prompt.tolist(), *chosen.tolist()] == [*opened, *tokens("w5 <eos>")]
    assert rejected.tolist() == tokens("w6 w7 <eos>")


@pytest.mark.unit
def test_long_prompts_lose_their_oldest_tokens(capsys):
    words = PolicyTokenizer.of(make_tokenizer(), 2)
    assert words.prompts(["w1 w2 w3"])[0].tolist() == tokens("<bos> w2 w3")
    assert "1 prompts, cut to fit: 1 prompts" in capsys.readouterr().err
    words.prompts(["w1 w2"])
    assert not capsys.readouterr().err
    ((prompt, _, _),), counts = words.pairs([Pair("w1 w2 w3", "w4", "w5")])
    assert prompt.tolist() == tokens("<bos> w2 w3")
    assert (counts.prompts_truncated, counts.prompt_tokens, counts.responses_truncated) == (1, 2, 0)


@pytest.mark.unit
def test_responses_that_do_not_fit_lose_their_end_and_are_counted():
    words = PolicyTokenizer.of(make_tokenizer(), 3, 7)  # <bos>, three or two tokens of prompt, and what is left
    pairs = [Pair("w1 w2 w3", "w4 w5", "w6 w7 w8"), Pair("w1 w2", "w4 w5 w6", "w4 w5 w6 w7 w8")]
    found, counts = words.pairs(pairs)
    assert [[part.tolist() for part in row[1:]] for row in found] == [
        [[*tokens("w4 w5"), EOS], tokens("w6 w7 w8")],
        [[*tokens("w4 w5 w6"), EOS], tokens("w4 w5 w6 w7")],
    ]
    assert counts == TokenCounts(5, 14, 0, 2)


@pytest.mark.unit
def test_a_prompt_without_tokens_needs_a_token_in_front():
    assert [found.tolist() for found in PolicyTokenizer.of(make_tokenizer(), 9).prompts([""])] == [[BOS]]
    words = PolicyTokenizer.of(make_tokenizer(bos=False), 9)
    for make in (lambda: words.prompts(["w1", " "]), lambda: words.pairs([Pair(" ", "w4", "w5")])):
        with pytest.raises(DataError, match=r"The prompt ' ' has no tokens.*follow nothing"):
            make()


@pytest.mark.unit
def test_slots_stand_behind_whatever_special_tokens_a_prompt_begins_with():
    layout = Layout(heads=((BOS, 9), (BOS,)), slots=1, pad=PAD)
    rows = layout.rows([ids(7), ids(BOS, 7), ids(BOS, 9, 7)], [ids(8)] * 3)
    assert rows.first.tolist() == [0, 1, 2]
    assert rows.ids.tolist() == [[PAD, 7, 8, PAD, PAD], [BOS, PAD, 7, 8, PAD], [BOS, 9, PAD, 7, 8]]


@pytest.mark.unit
def test_a_prompt_has_the_same_tokens_for_training_and_generation():
    for template in ("chatml", "think", "dated", "turns", "transcript"):
        words = PolicyTokenizer.of(byte_level(template), 99)
        for prompt in ((Message("user", "How do I bake?"),), (Message("user", "Hi"), Message("assistant", "Sure, "))):
            ((trained, _, _),), _ = words.pairs([Pair(prompt, "one", "two")])
            assert np.array_equal(trained, words.prompts([prompt])[0])


@pytest.mark.unit
def test_a_string_is_a_message_where_the_template_says_so():
    words = PolicyTokenizer.of(byte_level(), 99, template="chat")
    assert np.array_equal(words.prompts(["Hi"])[0], words.prompts([(Message("user", "Hi"),)])[0])
    assert words.conversational
    assert not PolicyTokenizer.of(byte_level(), 99).conversational


@pytest.mark.unit
def test_a_string_that_brings_its_end_gets_no_second_one():
    words = PolicyTokenizer.of(byte_level(), 99, template="rendered")
    ((_, chosen, rejected),), _ = words.pairs([Pair("Hi", f"Yes.{END}", "No.")])
    assert [ids.tolist().count(words.eos) for ids in (chosen, rejected)] == [1, 1]


@pytest.mark.unit
def test_everything_that_decides_tokens_and_ends_is_in_the_identity():
    one = PolicyTokenizer.of(byte_level("think"), 99)
    others = [
        PolicyTokenizer.of(byte_level("chatml"), 99),
        PolicyTokenizer.of(byte_level("think"), 99, template="chat"),
        PolicyTokenizer.of(byte_level("think"), 99, arguments={"enable_thinking": False}),
        PolicyTokenizer.of(byte_level("think"), 99, configurations=[LlamaConfig(eos_token_id=[5, 7])]),
    ]
    assert one.identity() == PolicyTokenizer.of(byte_level("think"), 77).identity()
    for other in others:
        assert other.identity() != one.identity()


@pytest.mark.unit
def test_a_tokenizer_without_padding_pads_with_its_end():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert PolicyTokenizer.of(tokenizer, 9).pad == EOS


@pytest.mark.unit
def test_what_a_tokenizer_lacks_is_said():
    tokenizer = make_tokenizer(chat=False)
    with pytest.raises(ModelError, match="chat template"):
        PolicyTokenizer.of(tokenizer, 9).prompts([(Message("user", "w1"),)])
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-text"):
        PolicyTokenizer.of(tokenizer, 9)


@pytest.mark.unit
def test_an_end_of_turn_that_is_no_special_token_is_not_shown():
    tokenizer = byte_level(None, extra=("<eot>",))
    tokenizer.chat_template = TEMPLATES["chatml"].replace(END, "<eot>")
    words = PolicyTokenizer.of(tokenizer, 99)
    ((_, chosen, _),), _ = words.pairs([Pair((Message("user", "Hi"),), "Yes.", "No.")])
    assert tokenizer.convert_tokens_to_ids("<eot>") in chosen
    assert words.text(chosen).strip() == "Yes."
