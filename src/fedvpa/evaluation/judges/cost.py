"""What asking an endpoint costs: estimated before, counted after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.pairwise import Question

CHARACTERS_PER_TOKEN = 4
"""For the estimate only: the usual rule of thumb for English text."""
TOKENS_PER_MESSAGE = 4
"""For the estimate only: what the chat format adds to a message, about."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What judging would take, before it starts; retries come on top.

    Attributes:
        calls: Calls that have to be made.
        cached: Calls whose answers are known already.
        tokens_in: About so many tokens in, by the number of characters.
        tokens_out: At most so many tokens out.
        cost: At most about so much; None if a price is not configured.
    """

    calls: int
    cached: int
    tokens_in: int
    tokens_out: int
    cost: float | None

    def __str__(self) -> str:
        """In words, for people."""
        known = f", {self.cached:,} known already" if self.cached else ""
        cost = "" if self.cost is None else f", at most about {self.cost:,.2f} in the currency of the prices"
        return (
            f"{self.calls:,} calls{known}; about {self.tokens_in:,} tokens in, at most {self.tokens_out:,} out{cost}; "
            "retries come on top"
        )


@dataclass(slots=True)
class Usage:
    """What a judge has done since it was made.

    Attributes:
        requests: Requests sent, retries and reminders included.
        retries: Requests that repeated a failed one.
        reminders: Requests after an answer that was neither A nor B.
        answers: Calls that ended with A or B.
        failures: Calls that ended without.
        cached: Calls that were not made because their answer was known.
        tokens_in: Tokens in, as the endpoint counted them.
        tokens_out: Tokens out, as the endpoint counted them.
    """

    requests: int = 0
    retries: int = 0
    reminders: int = 0
    answers: int = 0
    failures: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


def estimate_cost(questions: Sequence[Question], cached: int, config: EndpointConfig) -> Estimate:
    """What a call for each question would take.

    Args:
        questions: Those without an answer yet.
        cached: How many more have one already.
        config: The limits and the prices.
    """
    return _estimate(len(questions), cached, sum(map(tokens_of, questions)), config)


def planned_cost(calls: int, example: Question, config: EndpointConfig) -> Estimate:
    """What so many calls like one example would take, none of them known yet."""
    return _estimate(calls, 0, calls * tokens_of(example), config)


def tokens_of(question: Question) -> int:
    """About so many tokens in."""
    return sum(_tokens(message["content"]) for message in question.messages)


def _estimate(calls: int, cached: int, tokens_in: int, config: EndpointConfig) -> Estimate:
    tokens_out = calls * config.max_tokens
    cost = None
    if config.price_in is not None and config.price_out is not None:
        cost = (tokens_in * config.price_in + tokens_out * config.price_out) / 1e6
    return Estimate(calls, cached, tokens_in, tokens_out, cost)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE
