"""Whether a language model can read a text at all: how much of it lies outside the vocabulary of its tokenizer.

A tokenizer that was made for other texts still gives tokens. A word that its vocabulary lacks becomes the unknown
token, or crumbs of a letter or two. A model sees noise then, and whatever is learned from its features is noise too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedvpa.core.errors import ModelError
from fedvpa.core.progress import say
from fedvpa.data.schema import Text
from fedvpa.data.text import as_messages

WARNED = 0.1
"""Share of unknown text, lost or in crumbs, from which on it is said. Chosen by us: in English chats SmolLM2 and an
English BERT have less than 0.02; SmolLM2 has 0.34 in German, and the bundled world's model 0.3 to 0.6 in English."""

REFUSED = 0.5
"""Share of lost text from which on it is an error. Chosen by us: half of all words are the same token then."""

TEXTS, LETTERS = 200, 1000
"""Texts that are looked at, spread evenly, and letters of each: the shares are then known to a few hundredths."""

CRUMB = 2
"""A word of three or more tokens is in crumbs if they have at most so many bytes on average. Chosen by us: ordinary
tokenizers have 4 bytes a token, those of other languages 2 and less."""

WORD = re.compile(r"\w*[^\W\d_]\w*")
"""Letters, and the digits among them. Numbers are no words: many tokenizers spell them out."""


@dataclass(frozen=True, slots=True)
class Unread:
    """How much of some texts' words, weighted by length, a tokenizer has no tokens for.

    Attributes:
        lost: What became the unknown token, so that different words are one.
        crumbs: What fell into crumbs: three or more tokens of at most ``CRUMB`` bytes, or two of less than that. In a
            vocabulary of single letters, which spells every word, there are none.
    """

    lost: float
    crumbs: float


def unread(texts: Sequence[Text], tokenizer: Any) -> Unread:
    """How much of ``texts`` a fast Hugging Face tokenizer has no tokens for; nothing of texts without words."""
    spells, lost, crumbs, total = _spells(tokenizer), 0.0, 0, 0
    for text in texts[:: max(1, len(texts) // TEXTS)]:
        plain = "\n".join(turn.content for turn in as_messages(text, "user"))
        for size, pieces, unknown in _words(plain[:LETTERS], tokenizer):
            total += size
            lost += size * unknown / pieces
            broken = size <= CRUMB * pieces if pieces > 2 else size < CRUMB * pieces
            crumbs += size if pieces > 1 and broken and not unknown and not spells else 0
    return Unread(lost / total, crumbs / total) if total else Unread(0.0, 0.0)


def check_readable(texts: Sequence[Text], tokenizer: Any, model: str, *, key: str, strict: bool = False) -> None:
    """Say it if a language model knows little of the texts, and refuse it if half of them are lost to it.

    Args:
        texts: What it is to read.
        tokenizer: Its tokenizer.
        model: Its name.
        key: The configuration key that names it.
        strict: Refuse from ``WARNED`` on what is lost.

    Raises:
        ModelError: If too much is lost. Text in crumbs is only said: a model can still tell it apart.
    """
    found = unread(texts, tokenizer)
    share = found.lost + found.crumbs
    if share < WARNED:
        return
    problem = (
        f"The language model {model!r} cannot read {share:.0%} of these texts: {found.lost:.0%} are unknown tokens, "
        f"and {found.crumbs:.0%} are words that its tokenizer breaks into letters."
    )
    if found.lost >= (WARNED if strict else REFUSED):
        raise ModelError(problem, fix=f"Name a model that knows their language: {key}=PATH.", where=f"{key}={model}")
    say(f"{problem} What it learns from them may mean little: name a model that knows their language ({key}=PATH)")


def _words(text: str, tokenizer: Any) -> list[tuple[int, int, int]]:
    """Of each word that has tokens: its bytes, its tokens, and how many of these are the unknown token."""
    found = list(WORD.finditer(text))
    place = {letter: row for row, word in enumerate(found) for letter in range(*word.span())}
    pieces, unknown = [0] * len(found), [0] * len(found)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        for row in {place[letter] for letter in range(start, stop) if letter in place}:
            pieces[row] += 1
            unknown[row] += token == tokenizer.unk_token_id
    sizes = [len(word.group().encode("utf-8", errors="replace")) for word in found]
    return [(size, own, bad) for size, own, bad in zip(sizes, pieces, unknown, strict=True) if own]


def _spells(tokenizer: Any) -> bool:
    """Whether a vocabulary has hardly any token of several letters, special ones aside."""
    special = set(tokenizer.all_special_ids)
    tokens = [token.removeprefix("##") for token, row in tokenizer.get_vocab().items() if row not in special]
    return sum(len(token) > CRUMB for token in tokens) < 0.1 * len(tokens)
