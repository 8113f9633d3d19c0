"""A judge behind any endpoint that speaks OpenAI's chat completions: a language model compares the two responses.

Nothing else ever stands in for the endpoint: a call that fails leaves its verdict missing. The questions are in
:mod:`fedvpa.evaluation.judges.pairwise`, what replies mean in :mod:`fedvpa.evaluation.judges.replies`, the retries in
:mod:`fedvpa.evaluation.judges.chat_client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.evaluation.judges.answer_cache import AnswerCache
from fedvpa.evaluation.judges.asking import Asker
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.budget import CallBudget
from fedvpa.evaluation.judges.cost import Estimate, Usage, estimate_cost, planned_cost
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig, read_api_key
from fedvpa.evaluation.judges.pairwise import Question, all_questions, both_orders, read_verdict
from fedvpa.evaluation.judges.planning import PROBE_CALLS
from fedvpa.rewards.base import SETTINGS

Result = TypeVar("Result")


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
        self.budget = CallBudget(path=None if cache is None else cache.with_suffix(".calls"))
        self._asker = Asker(config, self._api_key, self.usage, self.budget)

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
            JudgeError: If the endpoint is down or its replies cannot be read (:mod:`fedvpa.evaluation.judges.asking`),
                or no more calls are allowed. Answers that came before are in the cache.
        """
        todo, cached = self._open_questions(duels)
        self.usage.cached += cached
        failures = _run(self._asker.ask_all(todo, self._cache)) if todo else {}
        reasons = {key: failure.reason for key, failure in failures.items()}
        return [read_verdict(duel, self._config, self._cache, reasons) for duel in duels]

    def _open_questions(self, duels: Sequence[Duel]) -> tuple[list[Question], int]:
        """The questions without an answer in the cache, and how many have one."""
        questions = all_questions(duels, self._config)
        todo = [question for question in questions if question.key not in self._cache]
        return todo, len(questions) - len(todo)

    def plan(self, duels: int, example: Duel) -> Estimate:
        """What judging so many duels like ``example`` would take, and trying the judge. Calls nobody.

        Raises:
            ConfigError: If the preference of the example has no rubric.
        """
        questions = both_orders(example, self._config)
        if questions is None:
            raise ConfigError("A duel of identical responses is no example: nobody is asked about it.")
        calls = len(questions) * duels
        return planned_cost(calls + PROBE_CALLS if duels else 0, questions[0], self._config)

    def probe(self, duel: Duel, preferences: Sequence[str]) -> None:
        """Ask about one duel in both orders, whatever the cache knows, and keep nothing of it.

        Only an endpoint that says it is busy is asked again: a wrong address must be said at once.

        Raises:
            ConfigError: If one of the preferences has no rubric.
            JudgeError: If the endpoint gives no verdict; with the reason, and what it replied.
        """
        for preference in preferences:
            self._config.rubric_of(preference)
        answers = AnswerCache()
        failures = _run(self._asker.ask_all(all_questions([duel], self._config), answers, patient=False))
        for failure in failures.values():
            if failure.reply is not None:
                raise self._asker.unreadable(failure, f"asked about a made-up pair, it gave {failure.reason}", answers)
            raise JudgeError(
                f"The judge {self.name!r}, asked about a made-up pair, gave no answer: {failure.reason}.",
                fix=failure.hint,
                where=self._config.base_url,
            )

    def limit_calls(self, most: int) -> None:
        """Stop with a JudgeError before more than ``most`` calls are made, earlier ones into this cache included."""
        self.budget.limit = most


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
