"""Questions to an endpoint, many at a time, until each has an answer or a reason why it has none.

A judge that is out of order is not paid to the end: asking stops where so many calls in a row fail as
``give_up_after`` says, and where so many replies as ``unreadable_limit`` says came from the start and none could be
read. What came before is kept in the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from fedvpa.core.errors import JudgeError
from fedvpa.core.progress import say, track
from fedvpa.evaluation.judges.answer_cache import Answer, AnswerCache
from fedvpa.evaluation.judges.budget import CallBudget
from fedvpa.evaluation.judges.chat_client import ChatClient, connect
from fedvpa.evaluation.judges.completion import AttemptError, Completion
from fedvpa.evaluation.judges.cost import Usage
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.pairwise import REMINDER, Question
from fedvpa.evaluation.judges.replies import read_letter

NEITHER = "an answer that is neither A nor B"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no answer.

    Attributes:
        reason: In a few words, the same ones for the same reason.
        hint: What to do about it; empty where nothing is known.
        reply: A reply that could not be read; None if the endpoint gave none.
    """

    reason: str
    hint: str = ""
    reply: Completion | None = None


class Asker:
    """Asks one endpoint.

    Args:
        config: Where it is and how it is asked.
        api_key: Its key.
        usage: Where calls and tokens are counted.
        budget: How many calls may be made.
    """

    def __init__(self, config: EndpointConfig, api_key: str, usage: Usage, budget: CallBudget) -> None:
        self._config, self._api_key, self._usage, self._budget = config, api_key, usage, budget
        self._read = 0  # replies that could be read, since this was made
        self._unread: list[Completion] = []  # replies that could not be, before the first that could
        self._spent: JudgeError | None = None  # why no more calls are allowed

    async def ask_all(
        self, questions: Sequence[Question], answers: AnswerCache, *, patient: bool = True
    ) -> dict[str, Failure]:
        """Ask all questions, keep the answers as they come, and return key → reason of those without one.

        Args:
            questions: What to ask.
            answers: Where answers are kept.
            patient: Whether a server that cannot be reached, or replies with no completion, is asked again.

        Raises:
            JudgeError: If the endpoint is down, its replies cannot be read, or no more calls are allowed.
            ConfigError: If no client can be made.
        """
        slots = asyncio.Semaphore(self._config.concurrency)
        failures: dict[str, Failure] = {}
        in_a_row = replies = 0
        self._spent = None
        async with connect(self._config, self._api_key, self._usage, self._budget, patient=patient) as client:
            tasks = [asyncio.create_task(self._ask(client, question, slots)) for question in questions]
            what = f"judge {self._config.model}"
            try:
                for finished in track(asyncio.as_completed(tasks), what, len(tasks), unit="calls"):
                    question, outcome = await finished
                    if isinstance(outcome, Answer):
                        answers.add(outcome)
                        self._usage.answers += 1
                        self._read += 1
                    else:
                        self._usage.failures += 1
                        failures[question.key] = outcome
                    if self._spent is not None:  # calls in flight are paid for: their answers are waited for
                        continue
                    if isinstance(outcome, Answer) or outcome.reply is not None:
                        replies, in_a_row = replies + 1, 0
                        self._check_readable(outcome, answers)
                        continue
                    in_a_row += 1
                    if in_a_row >= self._config.give_up_after or (not replies and in_a_row == len(questions)):
                        raise self._down(in_a_row, outcome, answers)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if self._spent is not None:
            raise self._spent
        return failures

    def _check_readable(self, outcome: Answer | Failure, answers: AnswerCache) -> None:
        """Show the first reply that cannot be read; stop if none of so many could be."""
        if isinstance(outcome, Answer) or outcome.reply is None or self._read:
            return
        self._unread.append(outcome.reply)
        if len(self._unread) == 1:
            say(f"judge {self._config.model}: a reply that cannot be read: {outcome.reply.shown}")
        if len(self._unread) >= self._config.unreadable_limit:
            raise self.unreadable(outcome, f"the first {len(self._unread)} were neither A nor B", answers)

    def unreadable(self, failure: Failure, which: str, answers: AnswerCache) -> JudgeError:
        """The error of a judge whose replies cannot be read, with one of them."""
        reply = "" if failure.reply is None else f" One of them: {failure.reply.shown}."
        return JudgeError(
            f"The replies of the judge {self._config.model!r} cannot be read: {which}.{reply}",
            fix=f"{failure.hint} {_kept(answers)}".strip(),
            where=self._config.base_url,
        )

    def _down(self, calls: int, failure: Failure, answers: AnswerCache) -> JudgeError:
        hint = failure.hint or "Check address, model name and key, then judge again."
        return JudgeError(
            f"The judge's endpoint is out of order: {calls} calls in a row failed, the last one with: "
            f"{failure.reason}.",
            fix=f"{hint} {_kept(answers)}".strip(),
            where=self._config.base_url,
        )

    async def _ask(
        self, client: ChatClient, question: Question, slots: asyncio.Semaphore
    ) -> tuple[Question, Answer | Failure]:
        """Ask one question until A or B, or the end of all retries.

        The slot is kept during pauses: an endpoint that limits its rate is then asked less by all.
        """
        async with slots:
            return question, await self._converse(client, question)

    async def _converse(self, client: ChatClient, question: Question) -> Answer | Failure:
        """Ask, and remind while the answer is neither A nor B.

        A reply that was cut or filtered gets no reminder: the next one would end the same way, and costs as much.
        """
        messages = list(question.messages)
        reply: Completion | None = None
        tokens_in = tokens_out = 0
        for reminder in range(self._config.answer_retries + 1):
            self._usage.reminders += reminder > 0
            try:
                reply = await client.complete(question.key, messages)
            except AttemptError as error:
                return Failure(str(error), error.hint, reply)
            except JudgeError as error:
                self._spent = error
                return Failure("no more calls are allowed")
            tokens_in, tokens_out = tokens_in + reply.tokens_in, tokens_out + reply.tokens_out
            letter = None if reply.filtered else read_letter(reply.text, cut=reply.cut, numbered=question.numbered)
            if letter is not None:
                return Answer(question.key, letter, reply.text, tokens_in, tokens_out)
            if reply.cut or reply.filtered:
                break
            messages += [
                {"role": "assistant", "content": reply.text or "(nothing)"},
                {"role": "user", "content": REMINDER},
            ]
        return self._unread_failure(reply)

    def _unread_failure(self, reply: Completion | None) -> Failure:
        if reply is not None and reply.cut:
            hint = (
                f"Replies end at policy.judging.settings.max_tokens = {self._config.max_tokens}: raise it (a model "
                "that thinks needs a thousand or more), or switch thinking off by policy.judging.settings.extra_body."
            )
            return Failure(f"{NEITHER}, cut at max_tokens = {self._config.max_tokens}", hint, reply)
        if reply is not None and reply.filtered:
            hint = "The endpoint filters such texts: use another endpoint, or ask its operator."
            return Failure("no answer, because of the endpoint's content filter", hint, reply)
        instead = "" if reply is None or not reply.instead else ", but a refusal, a thought or a call of a tool"
        return Failure(f"{NEITHER}{instead}", "Choose a model that follows its instruction.", reply)


def _kept(answers: AnswerCache) -> str:
    """Where the answers are that were paid for; empty if there is none."""
    if not answers:
        return ""
    place = f"kept in {answers.path}" if answers.path else "given so far, kept in memory only"
    return f"Answers {place}: {len(answers)}."
