"""Responses of the bundled world: attributes → text, and back, exactly.

A response is a sequence of whole sentences, separated by single spaces, in this order (brackets: optional):

    [opener] stance [filler] detail* [filler] [caveat] [closer]

``parse`` accepts exactly the texts that ``render`` can write for *some* attributes of the prompt's intent, up to the
order of the details. Everything else — a half sentence, a formal opener before a casual stance, a detail said twice,
a sixth detail — is outside the grammar and comes back with the reason. Strictness is the point: a lenient parser gets
reward-hacked within a hundred optimiser steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from fedvpa.world.attributes import MAX_BREVITY, Attributes
from fedvpa.world.lexicon import CAVEATS, CLOSERS, FILLERS, OPENERS, ORDINALS, STANCES, TOPICS, VERBS
from fedvpa.world.prompts import Intent, find_prompt

_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_DETAIL = re.compile(rf"({'|'.join(ORDINALS)}), (\w+) the (\w+)\.")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A response that the grammar knows.

    Attributes:
        intent: What the prompt asked about.
        attributes: What the response is like.
    """

    intent: Intent
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Failure:
    """A response outside the grammar.

    Attributes:
        reason: One of ``REASONS``.
        sentence: The sentence where parsing stopped; empty at the end of the text.
    """

    reason: str
    sentence: str = ""


REASONS: tuple[str, ...] = (
    "unknown sentence",
    "sentence out of order",
    "no stance",
    "mixed stance",
    "mixed formality",
    "ordinal out of order",
    "repeated detail",
)
"""Every reason for which ``parse`` turns a text down."""

# Slots in the order in which they may occur; only the detail slot may repeat.
_OPENER, _STANCE, _FILLER_BEFORE, _DETAILS, _FILLER_AFTER, _CAVEAT, _CLOSER = range(7)


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence that was recognised; None where it does not tell."""

    slot: int
    compliance: bool | None
    formality: bool
    ordinal: int = -1
    noun: str = ""


def render(intent: Intent, attributes: Attributes, rng: np.random.Generator) -> str:
    """Write one of the many responses that have these attributes.

    Args:
        intent: What the prompt asked about; details come from it.
        attributes: What the response has to be like.
        rng: Chooses the wording, the details, and the slot where only one of two warm or filler sentences is due.

    Returns:
        Text that ``parse`` reads back as exactly ``attributes``.
    """
    formality = attributes.formality
    manner = (attributes.compliance, formality)
    warm = _chosen_slots(attributes.warmth, rng)
    wordy = _chosen_slots(MAX_BREVITY - attributes.brevity, rng)
    sentences = [
        *_maybe(warm[0], OPENERS[formality], rng),
        _pick(STANCES[manner], rng),
        *_maybe(wordy[0], FILLERS[0][manner], rng),
        *_detail_sentences(intent, attributes, rng),
        *_maybe(wordy[1], FILLERS[1][manner], rng),
        *_maybe(attributes.caveat, CAVEATS[formality], rng),
        *_maybe(warm[1], CLOSERS[formality], rng),
    ]
    return " ".join(sentences)


def parse(prompt: str, response: str) -> Parsed | Failure:
    """Read the attributes back out of any text.

    Args:
        prompt: A prompt of the world.
        response: Any text.

    Returns:
        The attributes, or why the text is outside the grammar.

    Raises:
        DataError: If the prompt is not one of the world's.
    """
    intent = find_prompt(prompt).intent
    sentences: list[_Sentence] = []
    for text in _SENTENCE_END.split(response):
        sentence = _recognise(text)
        reason = "unknown sentence" if sentence is None else _misfit(sentences, sentence)
        if sentence is None or reason:
            return Failure(reason, text)
        sentences.append(sentence)
    if sentences[-1].slot < _STANCE:
        return Failure("no stance")
    return Parsed(intent, _attributes(intent, sentences))


def sentence_texts() -> tuple[str, ...]:
    """Every sentence that a response can consist of; with the prompts, the whole language of the world."""
    details = (
        f"{ordinal}, {verb} the {noun}."
        for topic in TOPICS
        for ordinal, verbs, noun in product(ORDINALS, VERBS.values(), topic.details)
        for verb in verbs
    )
    return (*_bank(), *details)


def _chosen_slots(count: int, rng: np.random.Generator) -> tuple[bool, bool]:
    """Which of two slots are filled when ``count`` of them are."""
    first = bool(rng.integers(2))
    return (count == 2 or (count == 1 and first), count == 2 or (count == 1 and not first))


def _pick(bank: tuple[str, ...], rng: np.random.Generator) -> str:
    return bank[int(rng.integers(len(bank)))]


def _maybe(present: bool, bank: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    return (_pick(bank, rng),) if present else ()


def _detail_sentences(intent: Intent, attributes: Attributes, rng: np.random.Generator) -> list[str]:
    nouns = _draw_nouns(intent.details, attributes.detail, rng)
    if attributes.off_topic:
        foreign = tuple(noun for topic in TOPICS if topic.name != intent.topic for noun in topic.details)
        nouns = list(rng.permutation(nouns + _draw_nouns(foreign, attributes.off_topic, rng)))
    verbs = VERBS[attributes.compliance, attributes.formality]
    return [f"{ORDINALS[i]}, {_pick(verbs, rng)} the {noun}." for i, noun in enumerate(nouns)]


def _draw_nouns(nouns: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    """Distinct nouns in their own order: "oven" before "crust", as advice would have it."""
    return [nouns[row] for row in sorted(rng.choice(len(nouns), size=count, replace=False))]


@cache
def _bank() -> dict[str, _Sentence]:
    """Every sentence but the details → what it says."""
    bank: dict[str, _Sentence] = {}
    for slot, by_formality in ((_OPENER, OPENERS), (_CAVEAT, CAVEATS), (_CLOSER, CLOSERS)):
        for formality, texts in by_formality.items():
            bank.update({text: _Sentence(slot, None, formality) for text in texts})
    for slot, by_manner in ((_STANCE, STANCES), (_FILLER_BEFORE, FILLERS[0]), (_FILLER_AFTER, FILLERS[1])):
        for (compliance, formality), texts in by_manner.items():
            bank.update({text: _Sentence(slot, compliance, formality) for text in texts})
    return bank


@cache
def _verb_manners() -> dict[str, tuple[bool, bool]]:
    return {verb: manner for manner, verbs in VERBS.items() for verb in verbs}


@cache
def _nouns() -> frozenset[str]:
    return frozenset(noun for topic in TOPICS for noun in topic.details)


def _recognise(text: str) -> _Sentence | None:
    known = _bank().get(text)
    match = _DETAIL.fullmatch(text)
    if known is not None or match is None:
        return known
    ordinal, verb, noun = match.groups()
    if verb not in _verb_manners() or noun not in _nouns():
        return None
    compliance, formality = _verb_manners()[verb]
    return _Sentence(_DETAILS, compliance, formality, ORDINALS.index(ordinal), noun)


def _misfit(before: list[_Sentence], sentence: _Sentence) -> str:
    """Why ``sentence`` cannot follow ``before``; empty if it can."""
    last = before[-1].slot if before else -1
    if sentence.slot > _STANCE and last < _STANCE:
        return "no stance"
    if sentence.slot < last or (sentence.slot == last and sentence.slot != _DETAILS):
        return "sentence out of order"
    if any(sentence.formality != other.formality for other in before):
        return "mixed formality"
    if any(
        None not in (sentence.compliance, other.compliance) and sentence.compliance != other.compliance
        for other in before
    ):
        return "mixed stance"
    if sentence.slot == _DETAILS:
        earlier = [other.noun for other in before if other.slot == _DETAILS]
        if sentence.ordinal != len(earlier):
            return "ordinal out of order"
        if sentence.noun in earlier:
            return "repeated detail"
    return ""


def _attributes(intent: Intent, sentences: list[_Sentence]) -> Attributes:
    slots = [sentence.slot for sentence in sentences]
    nouns = [sentence.noun for sentence in sentences if sentence.slot == _DETAILS]
    on_topic = sum(noun in intent.details for noun in nouns)
    stance = sentences[slots.index(_STANCE)]
    return Attributes(
        compliance=bool(stance.compliance),
        detail=on_topic,
        caveat=_CAVEAT in slots,
        warmth=slots.count(_OPENER) + slots.count(_CLOSER),
        formality=stance.formality,
        brevity=MAX_BREVITY - slots.count(_FILLER_BEFORE) - slots.count(_FILLER_AFTER),
        off_topic=len(nouns) - on_topic,
    )
