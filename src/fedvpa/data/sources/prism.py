"""Source ``prism``: people who scored the answers of language models in conversations of their own.

Kirk et al., "The PRISM Alignment Dataset", https://arxiv.org/abs/2404.16019; hub id ``HannahRoseKirk/prism-alignment``.
Licence: what people wrote is CC BY 4.0, what models wrote CC BY-NC 4.0 and under the terms of each model. Do not try to
find out who people are.

- **A user** is a participant (1,396 who talked, mostly six conversations each). **A group**: there is none; the survey
  is not read.
- **Pairs**: in each turn of a conversation several models, or one model twice, answer, and the user scores each answer
  from 1 to 100. Every two answers of a turn with different scores are a pair (``pairs=scores``), or the answer that the
  user went on with beside each other one (``pairs=choices``). The prompt is the conversation so far, with the answers
  that the user chose.
- **Hold out by** ``prompt``: all turns of a conversation are one unit. A user of few conversations may have none left
  to train on, so such users are left out and counted (``partition.drop_small=true``).

Layout: ``conversations.jsonl``, one conversation a row; or ``utterances.jsonl``, the same one answer a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, combinations
from typing import Any, Literal

from fedvpa.data.expand import Candidate, Layout, column, expand, number, objects
from fedvpa.data.files import Row
from fedvpa.data.messages import Skip
from fedvpa.data.schema import PairTable
from fedvpa.data.sources.base import Source
from fedvpa.data.sources.published import Place, PublishedKeys
from fedvpa.data.text import ASSISTANT, HUMAN

PLACE = Place("HannahRoseKirk/prism-alignment", "conversations", stem="conversations")
SAME_SCORE, NO_SCORE = "both answers have the same score", "an answer has no score"
NO_CHOICE, NO_PROMPT = "no answer of the turn was chosen", "the turn has no prompt of the user"


class PrismKeys(PublishedKeys):
    """Keys of the source ``prism``, set as ``data.settings.turns=opening``.

    Attributes:
        pairs: ``scores``: every two answers of a turn whose scores differ. ``choices``: the chosen answer beside each
            other one, whatever the scores.
        turns: ``all``, or ``opening``: the first turn of each conversation, in which up to four models compete.
        texts: ``messages``, which a model's chat template writes; or ``transcript``, one string with the turns marked
            as in HH-RLHF, for a model without a template.
    """

    pairs: Literal["scores", "choices"] = "scores"
    turns: Literal["all", "opening"] = "all"
    texts: Literal["messages", "transcript"] = "messages"


def read(config: PrismKeys) -> PairTable:
    """Read the conversations.

    Args:
        config: The keys of this source.

    Returns:
        The pairs, with the participant as user, and the report of what was left out.

    Raises:
        DataError: If the files are missing, broken or in another layout.
    """
    columns = ("user_id", "conversation_id")
    layout = Layout("PRISM", columns, partial(_pairs, config), whole=_conversations, user="user_id")
    return expand(PLACE.shards(config), layout, what=PLACE.named(config), strict=config.strict, share=config.share)


def _conversations(rows: Iterator[Row], where: str) -> Iterator[Row]:
    """Conversations, one a row, also from a file that has one answer a row."""
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    if "model_response" not in first[1]:
        yield from rows
        return
    found: dict[str, Row] = {}
    for place, row in rows:
        at = f"{where}:{place}"
        name = column(row, "conversation_id", str, at)
        whole = {"user_id": row.get("user_id"), "conversation_id": name, "conversation_history": []}
        history: list[dict[str, Any]] = found.setdefault(name, (place, whole))[1]["conversation_history"]
        turn = {"turn": column(row, "turn", int, at)}
        answer = {key: row.get(key) for key in ("score", "if_chosen", "within_turn_id")}
        history.append(turn | {"role": "user", "content": row.get("user_prompt")})
        history.append(turn | answer | {"role": "model", "content": row.get("model_response")})
    yield from found.values()


def _pairs(keys: PrismKeys, row: Mapping[str, Any], where: str) -> Iterator[Candidate]:
    user, name = column(row, "user_id", str, where), column(row, "conversation_id", str, where)
    turns: dict[int, list[Mapping[str, Any]]] = {}
    for said in objects(row, "conversation_history", where):
        turns.setdefault(column(said, "turn", int, where), []).append(said)
    so_far: list[dict[str, Any]] = []
    for place in sorted(turns)[: 1 if keys.turns == "opening" else None]:
        asked = [said for said in turns[place] if said.get("role") == "user" and said.get("content")]
        if not asked:
            yield Skip(NO_PROMPT)
            return
        so_far.append({"role": "user", "content": asked[0]["content"]})
        answers = sorted(
            (said for said in turns[place] if said.get("role") == "model"),
            key=lambda said: number(said.get("within_turn_id")) or 0.0,
        )
        for pair in _ordered(answers, keys.pairs):
            if isinstance(pair, Skip):
                yield pair
            else:
                better, worse = pair
                texts = _texts(so_far, better.get("content"), worse.get("content"), keys.texts)
                yield {**texts, "user_id": user, "conversation": name}
        chosen = [said for said in answers if said.get("if_chosen")]
        if not chosen:
            return
        so_far.append({"role": "assistant", "content": chosen[0].get("content")})


def _texts(so_far: list[dict[str, Any]], better: Any, worse: Any, kind: str) -> dict[str, Any]:
    """Prompt and responses, in the way that is asked for; a response that is no text is left to be counted."""
    if kind == "messages":
        return {"prompt": list(so_far), "chosen": better, "rejected": worse}
    marks = {"user": HUMAN, "assistant": ASSISTANT}
    prompt = "".join(f"{marks[turn['role']]} {turn['content']}" for turn in so_far) + ASSISTANT
    said = [f" {text}" if isinstance(text, str) and text.strip() else text for text in (better, worse)]
    return {"prompt": prompt, "chosen": said[0], "rejected": said[1]}


def _ordered(answers: list[Mapping[str, Any]], by: str) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]] | Skip]:
    """Pairs of the answers of one turn, the better one first."""
    if by == "choices":
        chosen = [said for said in answers if said.get("if_chosen")]
        if not chosen:
            return [Skip(NO_CHOICE)] * (len(answers) - 1)
        return [(chosen[0], other) for other in answers if not other.get("if_chosen")]
    return [_by_score(one, other) for one, other in combinations(answers, 2)]


def _by_score(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | Skip:
    first, second = number(one.get("score")), number(other.get("score"))
    if first is None or second is None:
        return Skip(NO_SCORE)
    if first == second:
        return Skip(SAME_SCORE)
    return (one, other) if first > second else (other, one)


SOURCE = Source(PrismKeys, read, PLACE.check, fills={"partition": {"kind": "natural", "drop_small": True}})
