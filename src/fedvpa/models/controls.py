"""Control tokens: written by the template alone, never by the content of a conversation or of a string.

A user may type ``<|im_end|>``, and an answer may quote it. Read with the tokenizer as it is, such text becomes the
control token itself: a forged turn in a prompt, or a response that is learned only up to the quotation. Here the text
stays text: the control tokens that the template wrote are spelled in noncharacters of Unicode (they are *sealed*), and
a copy of the tokenizer that knows control tokens only under that spelling reads everything else as ordinary text, in
its place. Texts without such content never come here: they have the tokens that the tokenizer gives them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import Tokenizer

from fedvpa.models.chat_template import ChatTemplate

OPEN, SHUT = "\ufdd0", "\ufdd1"
"""Around the number of a sealed control token."""
QUOTED, UNQUOTED = "\ufdd2", "\ufdd3"
"""Around the number of a control token that a content spells."""
SEAM = UNQUOTED
"""Between two quoted texts that become one: it keeps them from making a control token together."""
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer and of its chat template.

    Attributes:
        tokenizer: A Hugging Face tokenizer.
        names: Control tokens in the contents of system and user turns, and in strings.
        answers: Those in the contents of assistant turns: without what the template writes into an assistant's turn
            itself, such as the marks of a thought, unless the tokenizer has them for special tokens.
    """

    tokenizer: Any
    names: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, template: ChatTemplate) -> ControlTokens:
        """The special tokens of a tokenizer, and the added tokens that its template writes around turns."""
        tokenizer = template.tokenizer
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= {str(token) for token in tokenizer.all_special_tokens}
        kept = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
        if tokenizer.unk_token not in kept:
            special.discard(tokenizer.unk_token)
        frame = template.frame()
        around = "" if frame is None else frame.opening + frame.end + frame.between
        inside = "" if frame is None else frame.question + frame.generation
        added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        outer = special | {name for name in added if name in around}
        names = outer | {name for name in added if name in inside}
        return cls(tokenizer, _ordered(names), _ordered(outer))

    def spelled_in(self, content: str, role: str = "user") -> bool:
        """Whether a content spells a control token."""
        pattern = self._in_answers if role == "assistant" else self._in_texts
        return pattern is not None and pattern.search(content) is not None

    def quote(self, content: str, role: str = "user") -> str:
        """A content whose control tokens are marked as text, so that a template cannot be told from them."""
        pattern = self._in_answers if role == "assistant" else self._in_texts
        cleaned = re.sub(f"[{OPEN}{SHUT}{QUOTED}{UNQUOTED}]", REPLACEMENT, content)
        if pattern is None:
            return cleaned
        return pattern.sub(lambda found: f"{QUOTED}{self.names.index(found[0])}{UNQUOTED}", cleaned)

    def seal(self, written: str) -> str:
        """What a template wrote around quoted contents: its own control tokens sealed, the quoted ones as text."""
        if self._in_texts is not None:
            written = self._in_texts.sub(lambda found: f"{OPEN}{self.names.index(found[0])}{SHUT}", written)
        text = re.sub(f"{QUOTED}(\\d+){UNQUOTED}", lambda found: self.names[int(found[1])], written)
        # Seams, and marks that a template has cut in two.
        return re.sub(f"[{QUOTED}{UNQUOTED}]", "", text)

    def encode(self, sealed: Sequence[str]) -> list[list[int]]:
        """The tokens of sealed texts; nothing is put in front or behind."""
        if not self.tokenizer.is_fast:
            return [self._encode_slowly(text) for text in sealed]
        reader, ids = _sealed_reader(self.tokenizer, self.names)
        found = reader.encode_batch(list(sealed), add_special_tokens=False)
        return [[ids.get(token, token) for token in one.ids] for one in found]

    def _encode_slowly(self, sealed: str) -> list[int]:
        """The same by a tokenizer without a fast version: the texts between control tokens, one after the other."""
        ids: list[int] = []
        for place, piece in enumerate(re.split(f"{OPEN}(\\d+){SHUT}", sealed)):
            if place % 2:
                ids.append(self.tokenizer.convert_tokens_to_ids(self.names[int(piece)]))
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    @cached_property
    def _in_texts(self) -> re.Pattern[str] | None:
        return _any_of(self.names)

    @cached_property
    def _in_answers(self) -> re.Pattern[str] | None:
        return _any_of(self.answers)


def _ordered(names: set[str]) -> tuple[str, ...]:
    """Longest first, as added tokens are found; white space is text, whatever a tokenizer calls it."""
    return tuple(sorted((name for name in names if name.strip()), key=lambda name: (-len(name), name)))


def _any_of(names: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, names))) if names else None


@lru_cache(maxsize=4)
def _sealed_reader(tokenizer: Any, names: tuple[str, ...]) -> tuple[Tokenizer, dict[int, int]]:
    """A copy of a fast tokenizer that knows ``names`` under their sealed spelling only, and its ids → the original ids.

    A vocabulary may hold a control token as an ordinary entry too, which a text could then still reach; the entry is
    renamed as well, unless the tokenizer's own merges make it: then it is an ordinary token.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    sealed = {name: f"{OPEN}{number}{SHUT}" for number, name in enumerate(names)}
    known = {token["content"] for token in state["added_tokens"]}
    for token in state["added_tokens"]:
        if token["content"] in sealed:
            token |= {"content": sealed[token["content"]], "normalized": False, "special": True}
    _rename(state["model"], sealed)
    state |= {"post_processor": None, "truncation": None, "padding": None}
    reader = Tokenizer.from_str(json.dumps(state))
    reader.add_special_tokens([spelling for name, spelling in sealed.items() if name not in known])
    ids = {reader.token_to_id(sealed[name]): tokenizer.convert_tokens_to_ids(name) for name in names}
    return reader, {mine: theirs for mine, theirs in ids.items() if mine is not None and mine != theirs}


def _rename(model: dict[str, Any], sealed: dict[str, str]) -> None:
    """Rename the entries of a tokenizer's model, in place."""
    merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges", ()))
    made = {"".join(merge) for merge in merges}
    names = {name: new for name, new in sealed.items() if len(name) > 1 and name not in made}
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(name, name): number for name, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
