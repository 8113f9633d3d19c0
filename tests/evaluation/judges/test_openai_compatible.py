import asyncio
import json
import socket
import threading

import pytest

from evaluation.judges.endpoint import (
    DUELS,
    KEY,
    LONG,
    SAID,
    SCORES,
    SHORT,
    Status,
    completion,
    config,
    longer,
    said,
    scores,
)
from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.data.schema import Message
from fedvpa.evaluation.judges import openai_compatible as module
from fedvpa.evaluation.judges.answer_cache import AnswerCache
from fedvpa.evaluation.judges.base import Duel, Verdict, check_missing
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge


@pytest.mark.unit
def test_a_sound_endpoint_is_asked_twice_per_duel_in_both_orders(endpoint):
    judge = OpenAICompatibleJudge(config(endpoint))
    assert judge.compare(DUELS) == SAID
    assert len(endpoint.asked) == judge.usage.requests == judge.usage.answers == 10
    assert {(each.prompt, each.a, each.b) for each in endpoint.asked} == {
        (duel.prompt, *pair) for duel in DUELS for pair in ((SHORT, LONG), (LONG, SHORT))
    }
    assert (judge.usage.retries, judge.usage.reminders, judge.usage.failures) == (0, 0, 0)
    assert (judge.usage.tokens_in, judge.usage.tokens_out) == (1010, 30)
    assert judge.name == "m"


@pytest.mark.unit
def test_a_judge_that_always_prefers_one_place_gives_ties_that_say_so(endpoint):
    endpoint.react = lambda asked: "A" if asked.prompt == "question 3?" else longer(asked)
    verdicts = OpenAICompatibleJudge(config(endpoint)).compare(DUELS)
    assert verdicts[3] == Verdict(0.5, "A in both orders", flipped=True, first_seat=1.0)
    assert scores(verdicts) == [0.0, 1.0, 0.0, 0.5, 0.0]
    assert [verdict.flipped for verdict in verdicts] == [False, False, False, True, False]


@pytest.mark.unit
def test_answers_that_are_neither_a_nor_b_get_a_reminder_and_then_stay_missing(endpoint):
    answers = {"question 0?": "C", "question 2?": "Response A is better than Response B.", "question 4?": ""}
    endpoint.react = lambda asked: answers.get(asked.prompt) if asked.prompt in answers else longer(asked)
    judge = OpenAICompatibleJudge(config(endpoint, answer_retries=2))
    verdicts = judge.compare(DUELS)
    assert scores(verdicts) == [None, 1.0, None, 1.0, None]
    assert {verdict.reason for verdict in verdicts if verdict.score is None} == {"an answer that is neither A nor B"}
    assert (judge.usage.requests, judge.usage.reminders, judge.usage.retries) == (4 + 6 * 3, 12, 0)
    assert (judge.usage.answers, judge.usage.failures) == (4, 6)
    last = next(each for each in endpoint.asked if each.prompt == "question 0?" and each.turn == 2).body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert last[2]["content"] == "C"


@pytest.mark.unit
def test_an_answer_after_the_reminder_counts(endpoint):
    endpoint.react = lambda asked: longer(asked) if asked.turn else "Hm."
    judge = OpenAICompatibleJudge(config(endpoint))
    assert scores(judge.compare(DUELS)) == SCORES
    assert (judge.usage.requests, judge.usage.reminders, judge.usage.answers) == (20, 10, 10)


@pytest.mark.unit
def test_an_answer_cut_by_the_token_limit_says_so(endpoint):
    endpoint.react = lambda asked: completion("<think>Let me", finish="length")
    verdicts = OpenAICompatibleJudge(config(endpoint, max_tokens=3)).compare(DUELS[:1])
    assert verdicts == [Verdict(None, "an answer that is neither A nor B, cut at max_tokens = 3")]


@pytest.mark.unit
def test_nobody_is_asked_about_identical_responses_or_twice_about_the_same(endpoint):
    duels = [Duel("why?", LONG, LONG, "helpful"), DUELS[0], DUELS[0], Duel(DUELS[0].prompt, LONG, SHORT, "helpful")]
    judge = OpenAICompatibleJudge(config(endpoint))
    assert judge.compare(duels) == [Verdict(0.5, "identical responses"), said(0.0), said(0.0), said(1.0)]
    assert len(endpoint.asked) == 2


@pytest.mark.unit
def test_answers_are_kept_on_disk_and_failures_are_not(endpoint, tmp_path):
    cache = tmp_path / "deep" / "judge.jsonl"
    endpoint.react = lambda asked: Status(400) if asked.prompt == "question 1?" else longer(asked)
    first = OpenAICompatibleJudge(config(endpoint), cache)
    assert scores(first.compare(DUELS)) == [0.0, None, 0.0, 1.0, 0.0]
    assert len(cache.read_text().splitlines()) == 8
    assert KEY not in cache.read_text()
    endpoint.react = longer
    endpoint.asked.clear()
    second = OpenAICompatibleJudge(config(endpoint, concurrency=3, timeout_s=9, retries=1, price_in=1), cache)
    assert second.estimate(DUELS).calls == 2
    assert scores(second.compare(DUELS)) == SCORES
    assert {asked.prompt for asked in endpoint.asked} == {"question 1?"}
    assert (second.usage.requests, second.usage.cached) == (2, 8)
    assert scores(second.compare(DUELS)) == SCORES
    assert (second.usage.requests, second.usage.cached) == (2, 18)


@pytest.mark.unit
@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"max_tokens": 17},
        {"temperature": 0.5},
        {"extra_body": {"seed": 1}},
        {"token_limit_name": "max_completion_tokens"},
        {"rubric": {"helpful": "Otherwise."}},
    ],
    ids=str,
)
def test_the_cache_is_asked_for_exactly_the_same_question(endpoint, tmp_path, change):
    OpenAICompatibleJudge(config(endpoint), tmp_path / "c").compare(DUELS)
    judge = OpenAICompatibleJudge(config(endpoint, **change), tmp_path / "c")
    estimate = judge.estimate(DUELS)
    assert (estimate.calls, estimate.cached) == (10, 0)


@pytest.mark.unit
@pytest.mark.parametrize("field", ["prompt", "first", "second", "preference"])
def test_the_cache_tells_duels_apart(endpoint, tmp_path, field):
    judge = OpenAICompatibleJudge(config(endpoint))
    judge.compare(DUELS[:1])
    values = {name: getattr(DUELS[0], name) for name in ("prompt", "first", "second", "preference")}
    values[field] = "harmless" if field == "preference" else values[field] + "!"
    assert judge.estimate([Duel(**values)]).cached == 0
    assert judge.estimate([DUELS[0]]).cached == 2


@pytest.mark.unit
def test_another_address_is_another_judge(endpoint, tmp_path):
    OpenAICompatibleJudge(config(endpoint), tmp_path / "c").compare(DUELS)
    same = OpenAICompatibleJudge(config(endpoint, base_url=endpoint.url + "/"), tmp_path / "c")
    other = OpenAICompatibleJudge(config(endpoint, base_url=endpoint.url + "/x"), tmp_path / "c")
    assert (same.estimate(DUELS).cached, other.estimate(DUELS).cached) == (10, 0)


@pytest.mark.unit
def test_an_endpoint_that_nobody_serves_is_an_error_with_its_url(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        settings = EndpointConfig(base_url=url, model="m", api_key_env="", backoff_s=0, retries=1)
        judge = OpenAICompatibleJudge(settings)
        with pytest.raises(JudgeError, match=r"6 calls in a row failed, the last one with: no connection: .") as raised:
            judge.compare(DUELS[:3])
    assert str(raised.value).startswith(f"{url}: ")
    assert raised.value.exit_code == 1
    assert (judge.usage.requests, judge.usage.failures) == (12, 6)


@pytest.mark.unit
def test_an_endpoint_that_goes_down_keeps_what_it_said(endpoint, tmp_path):
    cache = tmp_path / "judge.jsonl"
    down = threading.Event()

    def react(asked):
        if len(endpoint.asked) > 6:
            down.set()
        return Status(503, "gone") if down.is_set() else longer(asked)

    endpoint.react = react
    duels = [Duel(f"question {n}?", SHORT, LONG, "helpful") for n in range(29)]
    judge = OpenAICompatibleJudge(config(endpoint, concurrency=1, give_up_after=4), cache)
    with pytest.raises(JudgeError, match=r"4 calls in a row failed.*status 503.*Answers kept in .*judge\.jsonl: 6"):
        judge.compare(duels)
    assert (judge.usage.answers, judge.usage.failures) == (6, 4)
    assert len(endpoint.asked) <= 6 + 4 * 3 + 1  # one more may be on its way; not all 58 calls
    assert len(AnswerCache(cache)) == 6
    endpoint.react = longer
    resumed = OpenAICompatibleJudge(config(endpoint), cache)
    assert scores(resumed.compare(duels)) == [0.0] * 29
    assert (resumed.usage.requests, resumed.usage.cached) == (52, 6)


@pytest.mark.unit
def test_scattered_failures_do_not_stop_the_run_but_too_many_of_them_are_an_error(endpoint):
    endpoint.react = lambda asked: Status(400) if asked.a == LONG else longer(asked)
    judge = OpenAICompatibleJudge(config(endpoint, concurrency=1, give_up_after=3))
    verdicts = judge.compare(DUELS)
    assert scores(verdicts) == [None] * 5
    with pytest.raises(JudgeError, match=r"5 of 5 verdicts are missing.*status 400.*\(5\)"):
        check_missing(verdicts)


@pytest.mark.unit
def test_no_more_calls_are_in_flight_than_allowed(endpoint):
    gate = threading.Barrier(3, timeout=20)

    def react(asked):
        gate.wait()  # opens only when three calls are here at once
        return longer(asked)

    endpoint.react = react
    duels = [Duel(f"question {n}?", SHORT, LONG, "helpful") for n in range(6)]
    assert scores(OpenAICompatibleJudge(config(endpoint, concurrency=3)).compare(duels)) == [0.0] * 6
    assert endpoint.most_in_flight == 3


@pytest.mark.unit
def test_judging_works_inside_a_running_event_loop(endpoint):
    async def notebook():
        return OpenAICompatibleJudge(config(endpoint)).compare(DUELS)

    assert scores(asyncio.run(notebook())) == SCORES


@pytest.mark.unit
def test_wrong_input_is_named(endpoint, monkeypatch):
    with pytest.raises(ConfigError, match=r"no rubric for the preference 'helpfull'. Did you mean 'helpful'?"):
        OpenAICompatibleJudge(config(endpoint)).compare([Duel("why?", "x", "y", "helpfull")])
    assert endpoint.asked == []
    for url in (
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://u:k@host/v1",
        "http://",
        "http://h:99999/v1",
        "http://[::1/v1",
    ):
        with pytest.raises(ConfigError, match="is no address of an endpoint"):
            EndpointConfig.parse({"base_url": url, "model": "m"})
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds no key"):
        OpenAICompatibleJudge(config(endpoint))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fedvpa\[judges\]'"):
        OpenAICompatibleJudge(config(endpoint))


@pytest.mark.unit
def test_a_cache_line_can_be_read_by_anything(endpoint, tmp_path):
    OpenAICompatibleJudge(config(endpoint), tmp_path / "c.jsonl").compare(DUELS[:1])
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert sorted(line["letter"] for line in lines) == ["A", "B"]
    assert [(line["text"], line["tokens_in"], line["tokens_out"]) for line in lines] == [
        (line["letter"], 101, 3) for line in lines
    ]


@pytest.mark.unit
def test_addresses_are_read_as_they_are_pasted(endpoint):
    for pasted in ("", "/", "/chat/completions", "/chat/completions/"):
        assert config(endpoint, base_url=endpoint.url + pasted).base_url == endpoint.url
    for nothing in ("", None):  # as ``api_key_env:`` in YAML
        assert config(endpoint, api_key_env=nothing).api_key_env == ""


@pytest.mark.unit
def test_a_conversation_is_shown_turn_by_turn(endpoint):
    talk = (Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "Who?"))
    OpenAICompatibleJudge(config(endpoint)).compare([Duel(talk, SHORT, LONG, "helpful")])
    assert {asked.prompt for asked in endpoint.asked} == {"user: Hi.\n\nassistant: Hello.\n\nuser: Who?"}
