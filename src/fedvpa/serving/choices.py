"""What answers are made of: the objects of OpenAI's API that chats and completions share."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from fedvpa.serving.requests import TokenLogprob


class Usage(BaseModel):
    """Numbers of tokens. Answers that are several count together, and their prompt once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt: int, answers: int) -> Usage:
    """The numbers of tokens of prompts and answers."""
    return Usage(prompt_tokens=prompt, completion_tokens=answers, total_tokens=prompt + answers)


class TopLogprob(BaseModel):
    """A token that could have been drawn."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """A token that was drawn, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The log-probabilities of an answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """As ``/v1/chat/completions`` has them."""
    return ChatLogprobs(
        content=[
            ChatLogprob(
                token=one.text,
                logprob=one.logprob,
                bytes=utf8(one.text),
                top_logprobs=[TopLogprob(token=text, logprob=value, bytes=utf8(text)) for text, value in tops(one)],
            )
            for one in tokens
        ],
        refusal=None,
    )


def tops(token: TokenLogprob) -> list[tuple[str, float]]:
    """(text, log-probability) of the likeliest tokens in the place of one."""
    return [(text, value) for _, text, value in token.top]


def utf8(text: str) -> list[int] | None:
    """The bytes of a token; None for a part of a letter, whose text does not tell them."""
    return None if "\ufffd" in text else list(text.encode())
