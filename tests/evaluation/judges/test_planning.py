import socket

import pytest

from evaluation.judges.endpoint import KEY, Raw, Status, completion, config
from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.data.schema import Message
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge
from fedvpa.evaluation.judges.planning import PROBE_PROMPT, check_plan, plan, probe
from fedvpa.world.prompts import prompts

GROUPS = ("harmless", "helpful")


@pytest.mark.unit
def test_a_plan_counts_both_orders_of_every_duel_and_the_trial(endpoint):
    judge = OpenAICompatibleJudge(config(endpoint, max_tokens=11, price_in=3.0, price_out=5.0))
    example = Duel("p" * 40, "x" * 80, "y" * 80, "helpful")
    estimate, exact = plan(judge, 60, example), judge.estimate([example])
    assert (estimate.calls, estimate.cached) == (122, 0)
    assert estimate.tokens_in == 61 * exact.tokens_in
    assert estimate.tokens_out == 122 * 11
    assert estimate.cost == pytest.approx(61 * exact.cost)
    assert str(estimate).startswith(
        f"122 calls; about {estimate.tokens_in:,} tokens in, at most 1,342 out, at most about"
    )
    assert plan(judge, 0).calls == 0
    assert endpoint.asked == []
    assert plan(make_judge("world"), 60) is None


@pytest.mark.unit
def test_a_price_of_nothing_is_a_price(endpoint):
    free = OpenAICompatibleJudge(config(endpoint, price_in=0, price_out=0))
    assert "at most about 0.00" in str(plan(free, 3))
    assert plan(free, 3).cost == 0.0


@pytest.mark.unit
def test_a_plan_of_more_calls_than_allowed_is_refused(endpoint):
    estimate = plan(OpenAICompatibleJudge(config(endpoint)), 2000)
    check_plan(estimate, None)
    check_plan(estimate, 4002)
    with pytest.raises(ConfigError, match=r"'policy\.judging\.max_calls': Judging takes 4,002 calls, and 4,001 are"):
        check_plan(estimate, 4001)


@pytest.mark.unit
def test_an_endpoint_is_asked_about_one_duel_in_both_orders_and_nothing_is_kept(endpoint, tmp_path):
    judge = OpenAICompatibleJudge(config(endpoint), tmp_path / "verdicts.jsonl")
    for asked in (2, 4):  # whatever was known before
        probe(judge, GROUPS)
        assert len(endpoint.asked) == judge.budget.made == asked
    assert {asked.prompt for asked in endpoint.asked} == {PROBE_PROMPT}
    assert {(asked.a, asked.b) for asked in endpoint.asked} == {(asked.b, asked.a) for asked in endpoint.asked}
    assert not (tmp_path / "verdicts.jsonl").exists()
    with pytest.raises(ConfigError, match="no rubric for the preference 'brief'"):
        probe(judge, ("helpful", "brief"))
    assert len(endpoint.asked) == 4


@pytest.mark.unit
@pytest.mark.parametrize(
    ("reaction", "message"),
    [
        (
            Status(401, f"wrong key {KEY}"),
            r"status 401: .*\*\*\*.*Check the key: the environment variable OPENAI_API_KEY",
        ),
        (Status(404, "no such model"), r"no such model.*Check the model's name \('m'\), and that base_url ends in"),
        (Status(402), "has no credit left"),
        (Status(400, "max_tokens"), "Check the model's name, max_tokens, token_limit_name"),
        (Raw(b"<html>busy</html>"), r"no JSON: '<html>busy</html>'.*Does base_url lead to the API"),
        ("I like the first.", r"cannot be read: .*One of them: 'I like the first\.' \(finish_reason: stop\)"),
        (completion(None, finish="length"), r"nothing \(finish_reason: length\).*max_tokens = 16: raise it"),
        (completion(None, finish="content_filter"), "content filter.*another endpoint"),
    ],
    ids=str,
)
def test_a_judge_that_cannot_judge_is_said_in_one_message(endpoint, reaction, message):
    endpoint.react = lambda asked: reaction
    with pytest.raises(JudgeError, match=message) as raised:
        probe(OpenAICompatibleJudge(config(endpoint)), GROUPS)
    assert len(endpoint.asked) <= 4  # two questions, with a reminder each; no retry
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)
    assert str(raised.value).startswith(endpoint.url)


@pytest.mark.unit
def test_half_a_verdict_of_the_trial_is_none(endpoint):
    endpoint.react = lambda asked: Status(400, "odd") if len(asked.a) > len(asked.b) else "B"
    with pytest.raises(JudgeError, match="'m', asked about a made-up pair, gave no answer: status 400"):
        probe(OpenAICompatibleJudge(config(endpoint)), GROUPS)


@pytest.mark.unit
def test_an_endpoint_that_says_it_is_busy_is_asked_again(endpoint):
    endpoint.react = lambda asked: "AB"[len(asked.a) < len(asked.b)] if asked.turn else Status(503)
    probe(OpenAICompatibleJudge(config(endpoint)), GROUPS)
    assert len(endpoint.asked) == 4


@pytest.mark.unit
def test_a_server_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        judge = OpenAICompatibleJudge(EndpointConfig(base_url=url, model="m", api_key_env="", backoff_s=9.0, retries=5))
        with pytest.raises(JudgeError, match=r"no connection: .*Does a server run at this address.*HTTPS_PROXY"):
            probe(judge, GROUPS)


@pytest.mark.unit
def test_the_worlds_judge_knows_its_own_prompts_and_groups_only():
    judge = make_judge("world")
    probe(judge, GROUPS, prompts("test")[0].text)
    probe(judge, GROUPS)
    for foreign in ("How do I bake bread?", (Message("user", "How do I bake bread?"),)):
        with pytest.raises(
            ConfigError, match=r"'policy\.judging\.judge': The judge 'world' .*bake bread.*reward-model"
        ):
            probe(judge, GROUPS, foreign)
    with pytest.raises(ConfigError, match="nobody"):
        probe(judge, ("nobody",))


class Short:
    """Rewards short responses, but knows the preference ``helpful`` only."""

    name = "short"

    def score(self, items, preference):
        return [float(-len(text)) if preference == "helpful" else "no model" for _, text in items]


@pytest.mark.unit
def test_other_judges_decide_a_made_up_duel_under_each_preference():
    probe(RewardJudge(Short()), ("helpful",))
    with pytest.raises(
        JudgeError, match="'short' gives no verdict on a made-up pair of responses under 'harmless': no model"
    ):
        probe(RewardJudge(Short()), ("helpful", "harmless"))
    asked = []

    class Always:
        name = "always"

        def compare(self, duels):
            asked.extend(duels)
            return [Verdict(1.0)] * len(duels)

    probe(Always(), GROUPS)
    assert [duel.preference for duel in asked] == list(GROUPS)
