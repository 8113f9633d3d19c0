"""What a tokenizer has no tokens for, by hand."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedvpa.core.errors import ModelError
from fedvpa.data.schema import Message
from fedvpa.models.load import load_tokenizer
from fedvpa.models.reading import Unread, check_readable, unread
from fedvpa.world import backbone_path
from fedvpa.world.prompts import prompts

pytestmark = pytest.mark.unit


def words(*known: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, **{word: row for row, word in enumerate(known, 1)}}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def pieces(*known: str) -> PreTrainedTokenizerFast:
    """The longest known piece first, as BERT does; every letter is known."""
    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: row for row, piece in enumerate(["<unk>", *letters, *known])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_words_that_become_the_unknown_token_are_lost_and_count_by_length() -> None:
    assert unread(["bread and rye , 12 ."], words("bread", "and")) == Unread(3 / 11, 0.0)


def test_messages_are_read_too() -> None:
    assert unread([(Message("user", "bread"), Message("assistant", "rye"))], words("bread")) == Unread(3 / 8, 0.0)


@pytest.mark.parametrize(
    ("text", "crumbs"),
    [
        ("window", 0.0),  # a token
        ("windows", 0.0),  # two tokens of 3.5 letters
        ("shelf", 1.0),  # five letters
        ("on", 1.0),  # two letters
        ("window shelf", 5 / 11),
        ("4096 !", 0.0),  # no word
    ],
)
def test_words_in_letters_are_crumbs(text: str, crumbs: float) -> None:
    longer = [f"{'long' * 3}{number}" for number in range(40)]  # a vocabulary of words
    assert unread([text], pieces("window", *longer)) == Unread(0.0, crumbs)


def test_a_vocabulary_of_letters_knows_what_it_spells() -> None:
    assert unread(["shelf"], pieces()) == Unread(0.0, 0.0)


def test_the_bundled_model_reads_its_world_and_little_else() -> None:
    bundled = load_tokenizer(backbone_path())
    assert unread([prompt.text for prompt in prompts("train")], bundled) == Unread(0.0, 0.0)
    english = unread(["The senate adjourned on Friday after a quarrel about parking meters."], bundled)
    assert english.lost == 0
    assert english.crumbs > 0.3


def test_a_reader_that_knows_little_is_said_and_one_that_knows_nothing_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader = words("bread")
    check_readable(["bread bread bread"], reader, "M", key="features.model", strict=True)
    assert capsys.readouterr().err == ""
    check_readable(["bread bread rye"], reader, "M", key="features.model")
    said = capsys.readouterr().err
    assert "cannot read 23% of these texts: 23% are unknown tokens, and 0%" in said
    assert "features.model=PATH" in said
    with pytest.raises(ModelError, match=r"features\.model=M: The language model 'M' cannot read 23%"):
        check_readable(["bread bread rye"], reader, "M", key="features.model", strict=True)
    with pytest.raises(ModelError, match="cannot read 74%"):
        check_readable(["bread and water and rye"], reader, "M", key="features.model")


def test_crumbs_are_said_and_never_refused(capsys: pytest.CaptureFixture[str]) -> None:
    bundled = load_tokenizer(backbone_path())
    check_readable(["你好世界今天天气很好"], bundled, "bundled", key="features.model", strict=True)
    assert "100% are words that its tokenizer breaks into letters" in capsys.readouterr().err
