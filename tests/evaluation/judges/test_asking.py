import pytest

from evaluation.judges.endpoint import DUELS, SAID, completion, config, longer, scores
from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.evaluation.judges.base import Duel
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge

MANY = [Duel(f"question {n}?", "tiny", "a good deal longer", "helpful") for n in range(30)]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("reply", "requests", "message"),
    [
        (completion(None, finish="length"), 4, r"nothing \(finish_reason: length\).*max_tokens = 16"),
        (completion(None, finish="content_filter"), 4, r"nothing \(finish_reason: content_filter\)"),
        ("I \x1b[31mlike both.", 8, r"One of them: 'I \\x1b\[31mlike both\.' \(finish_reason: stop\)"),
        (completion("") | {"choices": [{"finish_reason": "stop", "message": {"content": None, "refusal": "No."}}]}, 8,
         r"a refusal, 'No\.'"),
    ],
    ids=["cut", "filtered", "prose", "refused"],
)  # fmt: skip
def test_a_judge_that_never_answers_is_not_paid_to_the_end(endpoint, capfd, reply, requests, message):
    """A cut or filtered reply gets no reminder; others get one."""
    endpoint.react = lambda asked: reply
    judge = OpenAICompatibleJudge(config(endpoint, concurrency=1, unreadable_limit=4))
    with pytest.raises(JudgeError, match=rf"replies of the judge 'm' cannot be read: the first 4 .*{message}"):
        judge.compare(MANY)
    assert requests <= len(endpoint.asked) <= requests + 1  # one more may be on its way; not all 60 calls
    shown = [line for line in capfd.readouterr().err.splitlines() if "a reply that cannot be read" in line]
    assert len(shown) == 1
    assert "\x1b" not in shown[0]


@pytest.mark.unit
def test_replies_that_cannot_be_read_later_do_not_stop_the_run(endpoint):
    endpoint.react = lambda asked: longer(asked) if len(endpoint.asked) == 1 else completion("Hm.", finish="length")
    judge = OpenAICompatibleJudge(config(endpoint, concurrency=1, unreadable_limit=2))
    verdicts = judge.compare(DUELS)
    assert scores(verdicts) == [None] * 5
    assert len(endpoint.asked) == 10
    endpoint.react = longer
    assert judge.compare(DUELS) == SAID


@pytest.mark.unit
def test_what_the_environment_holds_is_said_in_one_message(endpoint, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "nonsense://\x01")
    with pytest.raises(ConfigError, match=r"No connection can be prepared: .*HTTPS_PROXY"):
        OpenAICompatibleJudge(config(endpoint)).compare(DUELS)
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/at/all.pem")
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        OpenAICompatibleJudge(config(endpoint, base_url="https://127.0.0.1:1/v1")).compare(DUELS)
    for key in ("two words", "schlüssel", "line\nbreak"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ConfigError, match=r"api_key_env.*OPENAI_API_KEY holds what cannot be a key") as raised:
            OpenAICompatibleJudge(config(endpoint))
        assert key not in str(raised.value)


@pytest.mark.unit
def test_a_text_that_no_request_can_hold_is_asked_about_as_it_would_be_written(endpoint):
    verdicts = OpenAICompatibleJudge(config(endpoint)).compare(
        [Duel("why \ud83d?", "x\udc00", "a longer one", "helpful")]
    )
    assert scores(verdicts) == [0.0]
    assert {asked.prompt for asked in endpoint.asked} == {"why \ufffd?"}
