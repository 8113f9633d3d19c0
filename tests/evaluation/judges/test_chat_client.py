import asyncio
import re

import pytest

from evaluation.judges.endpoint import DUELS, KEY, LONG, SAID, SCORES, Raw, Silence, Status, config, longer, scores
from fedvpa.core.errors import JudgeError
from fedvpa.evaluation.judges import chat_client, pauses
from fedvpa.evaluation.judges.base import Duel
from fedvpa.evaluation.judges.endpoint_config import DEFAULT_RUBRICS
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge


@pytest.mark.unit
def test_the_request_holds_what_the_configuration_says(endpoint):
    settings = {"max_tokens": 23, "extra_body": {"seed": 7}, "rubric": {"brief": "The shorter one."}}
    OpenAICompatibleJudge(config(endpoint, **settings)).compare([Duel("why?", "x", "yy", "brief")])
    for asked in endpoint.asked:
        assert (asked.body["model"], asked.body["max_tokens"], asked.body["seed"]) == ("m", 23, 7)
        assert asked.body["temperature"] == 0
        assert "Criterion: The shorter one." in asked.body["messages"][1]["content"]
        assert asked.headers["authorization"] == f"Bearer {KEY}"
    endpoint.asked.clear()
    changed = config(endpoint, temperature=None, token_limit_name="max_completion_tokens", api_key_env="")
    OpenAICompatibleJudge(changed).compare([Duel("why?", "x", "yy", "harmless")])
    for asked in endpoint.asked:
        assert asked.body["max_completion_tokens"] == 16
        assert not {"temperature", "max_tokens"} & set(asked.body)
        assert DEFAULT_RUBRICS["harmless"] in asked.body["messages"][1]["content"]
        assert KEY not in asked.headers["authorization"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "fault",
    [
        Status(429),
        Status(500),
        Status(503),
        Status(408),
        Raw(b'{"choices": [{"index": 0, "mess'),
        Raw(b'{"choices": [{"index": 0, "mess', announced=999),
        Raw(b"<html>busy</html>"),
        {"choices": []},
        {"choices": None},
        {"choices": [{"message": {"content": ["A"]}}]},
        {"error": {"message": "inside a 200"}},
        Silence(),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{getattr(fault, 'code', '')}{str(getattr(fault, 'body', ''))[:9]}",
)
def test_faults_that_pass_are_retried_and_leave_no_trace(endpoint, fault):
    endpoint.react = lambda asked: fault if asked.turn == 0 and asked.prompt == "question 1?" else longer(asked)
    judge = OpenAICompatibleJudge(config(endpoint, timeout_s=1.5 if isinstance(fault, Silence) else 30.0))
    assert judge.compare(DUELS) == SAID
    assert (judge.usage.requests, judge.usage.retries, judge.usage.answers, judge.usage.failures) == (12, 2, 10, 0)
    assert len(endpoint.asked) == 12


@pytest.mark.unit
@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        (Status(429, "slow down"), "status 429: .*slow down", 3),
        (Status(500), "status 500", 3),
        (Status(400, "too long"), "status 400: .*too long", 1),
        (Raw(b'{"choi'), "a reply that is no JSON", 3),
        (Silence(), "no reply within 1.5 s", 2),
        (Raw(b'{"choi', announced=99), "no connection: .*", 3),
    ],
)
def test_faults_that_stay_leave_the_verdict_missing(endpoint, fault, reason, requests):
    """Only one of the two orders fails: half a verdict is none."""
    endpoint.react = lambda asked: fault if asked.prompt == "question 1?" and asked.a == LONG else longer(asked)
    judge = OpenAICompatibleJudge(
        config(endpoint, timeout_s=1.5 if isinstance(fault, Silence) else 30.0, retries=max(requests - 1, 1))
    )
    verdicts = judge.compare(DUELS)
    assert scores(verdicts) == [0.0, None, 0.0, 1.0, 0.0]
    assert re.fullmatch(f"{reason}.*", verdicts[1].reason)
    assert (judge.usage.failures, judge.usage.answers) == (1, 9)
    assert len(endpoint.asked) == judge.usage.requests == 9 + requests
    assert judge.usage.retries == requests - 1


@pytest.mark.unit
def test_the_key_never_shows(endpoint):
    endpoint.react = lambda asked: Status(401, f"wrong key {KEY}")
    with pytest.raises(JudgeError, match=r"status 401: .*wrong key \*\*\*"):
        OpenAICompatibleJudge(config(endpoint)).compare(DUELS)


@pytest.fixture
def clock(monkeypatch):
    """Sleeping takes no time, but the clock says that it did; gives what was slept."""
    slept, sleep = [], asyncio.sleep

    async def recorded(seconds, *args):
        if seconds:
            slept.append(seconds)
        await sleep(0, *args)

    monkeypatch.setattr(chat_client.asyncio, "sleep", recorded)
    monkeypatch.setattr(pauses, "monotonic", lambda: sum(slept))
    return slept


@pytest.mark.unit
def test_pauses_double_with_jitter_up_to_a_limit(endpoint, clock):
    endpoint.react = lambda asked: Status(503)
    settings = {"backoff_s": 2.0, "backoff_limit_s": 12.0, "retries": 5, "concurrency": 1, "give_up_after": 1}
    with pytest.raises(JudgeError):
        OpenAICompatibleJudge(config(endpoint, **settings)).compare(DUELS)
    assert len(clock) >= 5
    for attempt, pause in enumerate(clock[:5]):
        assert min(2.0 * 2**attempt / 2, 12.0) <= pause <= min(2.0 * 2**attempt, 12.0)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("headers", "longest", "waited"),
    [
        ({"Retry-After": "7"}, 60.0, 7.0),
        ({"retry-after-ms": "2500"}, 60.0, 2.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m1s"}, 90.0, 61.0),
        ({"Retry-After": "7000"}, 12.0, 12.0),
    ],
    ids=str,
)
def test_the_pause_that_an_endpoint_asks_for_is_kept_up_to_the_limit(endpoint, clock, headers, longest, waited):
    endpoint.react = lambda asked: longer(asked) if asked.turn else Status(429, headers=headers)
    judge = OpenAICompatibleJudge(config(endpoint, concurrency=1, backoff_limit_s=longest))
    assert scores(judge.compare(DUELS[:1])) == [0.0]
    assert sum(clock) == pytest.approx(2 * waited)  # the two orders, one after the other


@pytest.mark.unit
def test_a_pause_is_everybodys(endpoint, clock):
    """One call is sent away; the others, already in line, ask nobody before the pause has passed."""
    times = []

    def react(asked):
        times.append(sum(clock))
        return Status(429, headers={"Retry-After": "7"}) if len(times) == 1 else longer(asked)

    endpoint.react = react
    assert scores(OpenAICompatibleJudge(config(endpoint, concurrency=1)).compare(DUELS)) == SCORES
    assert times == [0.0] + [7.0] * 10


@pytest.mark.unit
def test_all_callers_wait_for_the_longest_pause_that_was_agreed(clock):
    woken = []

    async def call(shared):
        await shared.wait()
        woken.append(sum(clock))

    async def four():
        shared = pauses.SharedPause("m", 60.0)
        shared.extend(7.0)
        shared.extend(3.0)  # a shorter one changes nothing
        await asyncio.gather(*(call(shared) for _ in range(4)))

    asyncio.run(four())
    assert len(woken) == 4
    assert min(woken) >= 7.0
