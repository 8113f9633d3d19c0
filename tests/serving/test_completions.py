"""Texts and tokens that are continued, as the SDK of OpenAI asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from policy_fixtures import make_policy
from server_fixtures import WORDS, Running, make_state, running

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def served(base_folder, tmp_path_factory) -> Iterator[Running]:
    policy = make_policy(base_folder, template="chat")
    policy.preferences = {"brief": [1.0, 0.0, 0.0]}
    with running(make_state(policy, tmp_path_factory.mktemp("keys") / "keys.json")) as found:
        yield found


@pytest.fixture
def sdk(served: Running) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False, verify=False) as http:
        yield openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", http_client=http, max_retries=0)


def test_a_text_is_continued_as_it_is_also_by_a_policy_of_conversations(served: Running, sdk: openai.OpenAI):
    found = sdk.completions.create(model="tiny:brief", prompt="w1 w2", max_tokens=7)
    policy = served.state.catalogue.one.policy
    assert served.engine.asked[-1].prompt.tolist() == [*policy.tokenizer.before, *policy.tokenizer.encode("w1 w2")]
    assert (found.choices[0].text, found.choices[0].finish_reason) == ("".join(WORDS), "stop")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 5)


def test_prompts_may_be_several_and_may_be_tokens(served: Running, sdk: openai.OpenAI):
    sdk.completions.create(model="tiny", prompt=[5, 6, 7])
    assert served.engine.asked[-1].prompt.tolist() == [5, 6, 7]
    found = sdk.completions.create(model="tiny", prompt=[[5], [6, 7]], n=2)
    assert [one.prompt.tolist() for one in served.engine.asked[-4:]] == [[5], [5], [6, 7], [6, 7]]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.usage.prompt_tokens == 3
    sdk.completions.create(model="tiny", prompt=["w1", "w2"])
    assert len({one.prompt.tobytes() for one in served.engine.asked[-2:]}) == 2


def test_log_probabilities_and_offsets_follow_the_text(served: Running, sdk: openai.OpenAI):
    told = sdk.completions.create(model="tiny", prompt="w1", logprobs=2).choices[0].logprobs
    assert told.tokens == list(WORDS)
    assert told.token_logprobs == [-0.5, -1.0, -1.5, -2.0, -2.5]
    assert told.text_offset == [0, 2, 5, 8, 11]
    assert told.top_logprobs[0] == {"w3": -0.5, " w": -2.0}


def test_a_stream_says_the_same(served: Running, sdk: openai.OpenAI):
    options = {"include_usage": True}
    chunks = list(sdk.completions.create(model="tiny", prompt="w1", stream=True, stream_options=options, logprobs=0))
    assert "".join(one.text for chunk in chunks for one in chunk.choices) == "".join(WORDS)
    assert [one for chunk in chunks for part in chunk.choices for one in part.logprobs.text_offset] == [0, 2, 5, 8, 11]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 7


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [10_000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["w1", 5]}, "prompt[1]"),
        ({"prompt": ["w1"] * 33}, "prompt"),
        ({"prompt": ["w1"] * 5, "n": 7}, "prompt"),
        ({"prompt": "w1 " * 300}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"z": [1.0, 2.0, 3.0]}, "z"),
    ],
)
def test_what_cannot_be_met_is_refused_with_its_field(served: Running, change: dict, param: str):
    with served.http() as http:
        told = http.post("/v1/completions", json={"model": "tiny", "prompt": "w1"} | change)
    assert (told.status_code, told.json()["error"]["param"]) == (400, param), told.text
