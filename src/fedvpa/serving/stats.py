"""What an engine has done, for whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """What an engine has done, and does.

    Attributes:
        running: Rows that are drawn now.
        waiting: Requests that wait for a row.
        finished: Answers that came to their end.
        cancelled: Answers that nobody waited for any more.
        failed: Answers that broke off by an error.
        refused: Requests for which the queue was full.
        generated_tokens: Tokens drawn.
        prompt_tokens: Tokens of prompts computed, virtual ones included.
        steps: Tokens drawn for the whole batch.
        cache_tokens: Places for keys and values in use, padding included.
        busy_seconds: Time in which something was computed.
        seconds_per_answer: Mean time that a row is held, the latest ones weighing most; 0 before the first.
    """

    running: int = 0
    waiting: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    steps: int = 0
    cache_tokens: int = 0
    busy_seconds: float = 0.0
    seconds_per_answer: float = 0.0
