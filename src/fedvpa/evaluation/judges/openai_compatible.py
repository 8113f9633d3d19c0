"""A judge behind any endpoint that speaks OpenAI's chat completions: a language model compares the two responses.

Nothing else ever stands in for the endpoint: a call that fails leaves its verdict missing. The questions are in
:mod:`fedvpa.evaluation.judges.pairwise`, the retries in :mod:`fedvpa.evaluation.judges.chat_client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.core.progress import track
from fedvpa.evaluation.judges.answer_cache import Answer, AnswerCache
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.chat_client import AttemptError, ChatClient, connect
from fedvpa.evaluation.judges.cost import Estimate, Usage, estimate_cost
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig, read_api_key
from fedvpa.evaluation.judges.pairwise import REMINDER, Question, all_questions, read_letter, read_verdict
from fedvpa.rewards.base import SETTINGS

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a call gave no answer; ``replied`` if the endpoint works and the answer was neither A nor B."""

    reason: str
    replied: bool


class OpenAICompatibleJudge:
    """Asks a chat model which of two responses is better, in both orders.

    Identical responses are a tie that nobody is asked about.

    Args:
        config: Where the judge is and how it is asked.
        cache: A file that keeps every answer as soon as it comes; None keeps them in memory.

    Raises:
        ConfigError: If the openai SDK is not installed or the key is not in the environment.
        DataError: If the cache is no cache.
    """

    def __init__(self, config: EndpointConfig, cache: Path | None = None) -> None:
        if find_spec("openai") is None:
            raise ConfigError(
                "A judge behind an endpoint needs the openai SDK, not installed here.",
                fix="pip install 'fedvpa[judges]'.",
            )
        self._config = config
        self._api_key = read_api_key(config)
        self._cache = AnswerCache(cache)
        self.usage = Usage()

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._config.model

    def estimate(self, duels: Sequence[Duel]) -> Estimate:
        """How many calls judging ``duels`` would make, and what they would cost. Calls nobody.

        Raises:
            ConfigError: If a preference has no rubric.
        """
        todo, cached = self._open_questions(duels)
        return estimate_cost(todo, cached, self._config)

    def compare(self, duels: Sequence[Duel]) -> list[Verdict]:
        """One verdict per duel, in the order of the duels.

        Raises:
            ConfigError: If a preference has no rubric.
            JudgeError: If the endpoint is down: so many calls in a row failed as ``give_up_after`` says, or all of
                them. Answers that came before are in the cache.
        """
        todo, cached = self._open_questions(duels)
        self.usage.cached += cached
        failures = _run(self._ask_all(todo)) if todo else {}
        return [read_verdict(duel, self._config, self._cache, failures) for duel in duels]

    def _open_questions(self, duels: Sequence[Duel]) -> tuple[list[Question], int]:
        """The questions without an answer in the cache, and how many have one."""
        questions = all_questions(duels, self._config)
        todo = [question for question in questions if question.key not in self._cache]
        return todo, len(questions) - len(todo)

    async def _ask_all(self, questions: Sequence[Question]) -> dict[str, str]:
        """Ask all questions, keep the answers as they come, and return key → reason of those without one."""
        slots = asyncio.Semaphore(self._config.concurrency)
        failures: dict[str, str] = {}
        in_a_row = replies = 0
        async with connect(self._config, self._api_key, self.usage) as client:
            tasks = [asyncio.create_task(self._ask(client, question, slots)) for question in questions]
            try:
                for finished in track(asyncio.as_completed(tasks), f"judge {self.name}", len(tasks), unit="calls"):
                    question, failure = await finished
                    if failure is not None:
                        failures[question.key] = failure.reason
                    if failure is None or failure.replied:
                        replies, in_a_row = replies + 1, 0
                        continue
                    in_a_row += 1
                    if in_a_row >= self._config.give_up_after or (not replies and in_a_row == len(questions)):
                        raise self._down(in_a_row, failure.reason)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return failures

    def _down(self, calls: int, reason: str) -> JudgeError:
        kept = f"kept in {self._cache.path}" if self._cache.path else "given so far, kept in memory only"
        return JudgeError(
            f"The judge's endpoint is out of order: {calls} calls in a row failed, the last one with: {reason}.",
            fix=f"Check address, model name and key, then judge again. Answers {kept}: {len(self._cache)}.",
            where=self._config.base_url,
        )

    async def _ask(
        self, client: ChatClient, question: Question, slots: asyncio.Semaphore
    ) -> tuple[Question, _Failure | None]:
        """Ask one question until A or B, or the end of all retries.

        The slot is kept during pauses: an endpoint that limits its rate is then asked less by all.
        """
        async with slots:
            outcome = await self._converse(client, question)
        if isinstance(outcome, _Failure):
            self.usage.failures += 1
            return question, outcome
        self._cache.add(outcome)
        self.usage.answers += 1
        return question, None

    async def _converse(self, client: ChatClient, question: Question) -> Answer | _Failure:
        """Ask, and remind while the answer is neither A nor B."""
        messages = list(question.messages)
        reply = None
        tokens_in = tokens_out = 0
        for reminder in range(self._config.answer_retries + 1):
            self.usage.reminders += reminder > 0
            try:
                reply = await client.complete(question.key, messages)
            except AttemptError as error:
                return _Failure(str(error), replied=reminder > 0)
            tokens_in, tokens_out = tokens_in + reply.tokens_in, tokens_out + reply.tokens_out
            letter = read_letter(reply.text)
            if letter is not None:
                return Answer(question.key, letter, reply.text, tokens_in, tokens_out)
            messages += [
                {"role": "assistant", "content": reply.text or "(nothing)"},
                {"role": "user", "content": REMINDER},
            ]
        cut = f", cut at max_tokens = {self._config.max_tokens}" if reply is not None and reply.cut else ""
        return _Failure(f"an answer that is neither A nor B{cut}", replied=True)


def make_openai_compatible_judge(settings: Mapping[str, Any], cache: Path | None) -> OpenAICompatibleJudge:
    """The judge behind an endpoint, from the fields of :class:`EndpointConfig`.

    Raises:
        ConfigError: For an unknown or unusable setting, and as :class:`OpenAICompatibleJudge` says.
        DataError: If the cache is no cache.
    """
    return OpenAICompatibleJudge(EndpointConfig.parse(settings, *SETTINGS), cache)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, in a thread of its own where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()
