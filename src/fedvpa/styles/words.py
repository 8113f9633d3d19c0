"""A text as words, sentences and lines, and the English words that properties count."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
"""Letters, with apostrophes inside: ``don't`` is one word, ``well-known`` two."""

LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•–]|\(?\d{1,3}[.):])[ \t]+(?=\S)", re.MULTILINE)
"""The mark in front of an item of a list."""

LONGEST_WORD = 20
"""No English word in use has more letters, but for names of substances; longer ones are noise."""

_SENTENCE_END = re.compile(r"([.!?…]+[\"'”’)*]*)\s+")
_VOWELS = re.compile(r"[aeiouy]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case, with straight apostrophes."""
    return [word.replace("’", "'") for word in WORD.findall(text.lower())]


def sentences(text: str) -> list[str]:
    """The sentences of a text that hold a word: they end with a mark before a space, or with their line.

    Marks of list items are left out, so that ``1.`` ends none.
    """
    parts = _SENTENCE_END.sub("\\1\n", LIST_ITEM.sub("", text)).splitlines()
    return [part.strip() for part in parts if WORD.search(part)]


def lines(text: str) -> list[str]:
    """The lines of a text that are not blank."""
    return [line for line in text.splitlines() if line.strip()]


def syllables(word: str) -> int:
    """How many syllables an English word has, about: groups of vowels, without a silent e at the end; at least one."""
    stem = word[:-1] if word.endswith("e") and not word.endswith(("le", "ee", "ye")) else word
    return max(1, len(_VOWELS.findall(stem)))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


HEDGES = _set(
    "apparently appear appears approximately could depending depends doubt fairly generally guess "
    "imagine likely mainly may maybe might mostly normally often partly perhaps possible possibly potentially "
    "presumably probably rather relatively roughly seem seems somewhat sometimes suggest suggests suppose tend "
    "tends think typically uncertain unlikely usually"
)
"""Words that make a claim weaker. Chosen by us, after the classes of Hyland, Hedging in Scientific Research Articles
(1998): modal verbs, epistemic verbs, adverbs and adjectives."""

WARM = _set(
    "appreciate beautiful best care caring cheer cheers congratulations dear delighted enjoy enjoyable excellent "
    "excited exciting fantastic feel fun glad good great happy help helpful hope kind kindness love lovely luck nice "
    "please pleased pleasure proud smile support sweet thank thanks together warm welcome wish wonderful"
)
"""Words of warmth and thanks. Chosen by us."""

CONNECTIVES = _set(
    "accordingly additionally also although because besides consequently conversely finally first firstly furthermore "
    "hence however instead lastly likewise meanwhile moreover nevertheless nonetheless otherwise overall second "
    "secondly similarly since then therefore third thirdly though thus unless whereas whether while"
)
"""Words that say how one statement follows from another. Chosen by us."""

FIRST_PERSON = _set("i i'm i've i'd i'll me my mine myself")
SECOND_PERSON = _set("you you're you've you'd you'll your yours yourself")

FUNCTION_WORDS = _set(
    "a about after all also an and any are as at be because been but by can could do does for from had has have he her "
    "his how i if in into is it its like may me more most my no not of on one only or other our out she should so some "
    "such than that the their them then there these they this to up us was we were what when which who will with would "
    "you your"
)
"""Frequent English words that carry little meaning of their own: about four in ten words of any English text."""

FORMAL_ENDINGS = (
    "tion", "tions", "sion", "sions", "ment", "ments", "ity", "ities", "ance", "ances", "ence", "ences", "ive", "ous",
    "ical", "ize", "izes", "izing", "ise", "ising", "ify", "ate", "ates", "ating", "ism", "ology",
)  # fmt: skip
"""Endings of words that English has from Latin and Greek, which are the formal ones. Chosen by us."""

CONTRACTION_ENDINGS = ("n't", "'re", "'ve", "'ll", "'m", "'d")
CONTRACTED_IS = _set("it's that's there's what's here's he's she's let's who's where's how's")

REFUSALS = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|afraid|not able|unable)|i (?:cannot|can't|can not|won't|will not|couldn't)"
    r"|i don't (?:have|think i|feel)|i do not have|i apologi[sz]e|as an ai|as a language model)\b"
)
"""What an assistant says when it does not do what was asked, in lower case with straight apostrophes. Chosen by us."""

EXAMPLES = re.compile(r"\b(?:for example|for instance|such as|e\.g\.|including|includes?|say,)")
"""What comes before an example, in lower case."""
