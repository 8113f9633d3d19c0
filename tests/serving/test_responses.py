"""The Responses API, as the SDK of OpenAI asks for it."""

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
    policy = make_policy(base_folder)
    policy.preferences = {"brief": [1.0, 0.0, 0.0]}
    with running(make_state(policy, tmp_path_factory.mktemp("keys") / "keys.json")) as found:
        yield found


@pytest.fixture
def sdk(served: Running) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False, verify=False) as http:
        yield openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", http_client=http, max_retries=0)


def test_an_input_is_answered_with_text_and_usage(served: Running, sdk: openai.OpenAI):
    found = sdk.responses.create(
        model="tiny:brief", input="w1 w2", instructions="w7", metadata={"kind": "test"}, temperature=0
    )
    assert (found.output_text, found.status, found.error) == ("".join(WORDS), "completed", None)
    asked = served.engine.asked[-1]
    assert (found.usage.input_tokens, found.usage.output_tokens) == (len(asked.prompt), 5)
    assert (found.temperature, found.top_p, found.metadata) == (0, 1, {"kind": "test"})
    messages = [{"role": "system", "content": "w7"}, {"role": "user", "content": "w1 w2"}]
    sdk.chat.completions.create(model="tiny:brief", messages=messages)
    assert served.engine.asked[-1].prompt.tolist() == asked.prompt.tolist()


def test_the_output_of_a_response_may_be_the_input_of_the_next(served: Running, sdk: openai.OpenAI):
    turn = {"role": "user", "content": [{"type": "input_text", "text": "w1"}]}
    first = sdk.responses.create(model="tiny", input=[turn])
    sdk.responses.create(model="tiny", input=[turn, *(item.model_dump() for item in first.output), turn])
    assert len(served.engine.asked[-1].prompt) > len(served.engine.asked[-2].prompt) + len(WORDS)


def test_an_answer_that_was_cut_says_so(sdk: openai.OpenAI):
    found = sdk.responses.create(model="tiny", input="w1", max_output_tokens=2)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert found.output[0].status == "incomplete"


def test_a_stream_has_the_events_of_the_api_in_order(sdk: openai.OpenAI):
    events = list(sdk.responses.create(model="tiny", input="w1", stream=True))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == "".join(WORDS) == events[-1].response.output_text


def test_the_streaming_helper_of_the_sdk_reads_it(sdk: openai.OpenAI):
    with sdk.responses.stream(model="tiny", input="w1") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "".join(WORDS)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 97}, "max_output_tokens"),
        ({"seed": 5}, "seed"),
        ({"input": "w1 " * 300}, "input"),
    ],
)
def test_what_cannot_be_met_is_refused_with_its_field(served: Running, change: dict, param: str):
    with served.http() as http:
        told = http.post("/v1/responses", json={"model": "tiny", "input": "w1"} | change)
    assert (told.status_code, told.json()["error"]["param"]) == (400, param), told.text
