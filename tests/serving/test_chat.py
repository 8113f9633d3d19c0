"""Chats as the SDK of OpenAI asks for them, against a server that runs."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch

from fedvpa.core.errors import TrainingError
from fedvpa.data.messages import as_text
from fedvpa.serving.requests import ServingError
from policy_fixtures import make_policy
from server_fixtures import WORDS, Running, held, make_state, running

pytestmark = pytest.mark.end_to_end

HELLO = [{"role": "user", "content": "w1 w2"}]


@pytest.fixture(scope="module")
def served(base_folder, tmp_path_factory) -> Iterator[Running]:
    policy = make_policy(base_folder)
    policy.preferences = {"brief": [1.0, 0.0, 0.0], "long": [0.0, 1.0, 0.0]}
    policy.prototypes = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    state = make_state(policy, tmp_path_factory.mktemp("keys") / "keys.json", allow_z=True)
    with running(state) as found:
        yield found


@pytest.fixture
def sdk(served: Running) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False, verify=False) as http:
        yield openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", http_client=http, max_retries=0)


def test_a_chat_is_answered_with_text_usage_and_reason(served: Running, sdk: openai.OpenAI):
    found = sdk.chat.completions.create(model="tiny:brief", messages=HELLO, seed=5, temperature=0, max_tokens=9)
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason, choice.logprobs) == ("".join(WORDS), "stop", None)
    asked = served.engine.asked[-1]
    assert found.usage.prompt_tokens == len(asked.prompt)
    assert (found.usage.completion_tokens, found.usage.total_tokens) == (5, len(asked.prompt) + 5)
    assert (found.model, found.object) == ("tiny:brief", "chat.completion")
    assert (asked.seed, asked.sampling.temperature, asked.sampling.max_new_tokens) == (5, 0, 9)
    assert asked.z.tolist() == [1, 0, 0]
    assert not asked.base


def test_the_prompt_has_the_tokens_that_generate_has(served: Running, sdk: openai.OpenAI):
    policy = served.state.catalogue.one.policy
    messages = [{"role": "system", "content": "w7"}, *HELLO, {"role": "assistant", "content": "w3"}, *HELLO]
    sdk.chat.completions.create(model="tiny", messages=[{"role": "developer", "content": "w7"}, *messages[1:]])
    (expected,) = policy.tokenizer.prompts([as_text(messages)])
    assert served.engine.asked[-1].prompt.tolist() == expected.tolist()


def test_parts_of_text_are_joined_and_a_message_of_the_sdk_may_come_back(served: Running, sdk: openai.OpenAI):
    said = sdk.chat.completions.create(model="tiny", messages=HELLO).choices[0].message
    parts = [{"type": "text", "text": "w1 "}, {"type": "text", "text": "w2"}]
    sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    joined = served.engine.asked[-1].prompt.tolist()
    sdk.chat.completions.create(model="tiny", messages=HELLO)
    assert served.engine.asked[-1].prompt.tolist() == joined
    sdk.chat.completions.create(model="tiny", messages=[*HELLO, said, *HELLO])


def test_a_stream_says_the_same_and_ends_with_the_usage(served: Running, sdk: openai.OpenAI):
    chunks = list(
        sdk.chat.completions.create(
            model="tiny:long", messages=HELLO, stream=True, stream_options={"include_usage": True}, n=2
        )
    )
    said = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
        assert chunk.usage is None
    assert said == {0: "".join(WORDS), 1: "".join(WORDS)}
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert [one.finish_reason for chunk in chunks for one in chunk.choices if one.finish_reason] == ["stop"] * 2
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 10)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_done_and_has_no_usage_unless_asked(served: Running):
    with served.http() as http:
        told = http.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "stream": True})
    lines = [line for line in told.text.splitlines() if line]
    assert told.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") and '"usage"' not in line for line in lines[:-1])


def test_asynchronous_clients_stream_side_by_side(served: Running):
    async def ask(client: openai.AsyncOpenAI, model: str) -> str:
        stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> list[str]:
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", http_client=http)
            return list(await asyncio.gather(*(ask(client, f"tiny:{name}") for name in ("brief", "long", "0", "0.25"))))

    assert asyncio.run(main()) == ["".join(WORDS)] * 4
    latents = {tuple(one.z.tolist()) for one in served.engine.asked[-4:]}
    assert latents == {(1, 0, 0), (0, 1, 0), (2, 0, 0), (1.5, 0.5, 0)}


def test_several_answers_have_seeds_of_their_own_the_first_that_of_the_request(served: Running, sdk: openai.OpenAI):
    sdk.chat.completions.create(model="tiny", messages=HELLO, seed=11, n=3)
    seeds = [one.seed for one in served.engine.asked[-3:]]
    assert seeds[0] == 11
    assert len(set(seeds)) == 3
    sdk.chat.completions.create(model="tiny", messages=HELLO, seed=11, n=3)
    assert [one.seed for one in served.engine.asked[-3:]] == seeds
    sdk.chat.completions.create(model="tiny", messages=HELLO, n=2)
    assert not set(seeds) & {one.seed for one in served.engine.asked[-2:]}


def test_log_probabilities_are_those_of_the_tokens(served: Running, sdk: openai.OpenAI):
    found = sdk.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=2).choices[0]
    first = found.logprobs.content[0]
    assert [one.token for one in found.logprobs.content] == list(WORDS)
    assert (first.token, first.logprob, first.bytes) == ("w3", -0.5, [119, 51])
    assert [(one.token, one.logprob) for one in first.top_logprobs] == [("w3", -0.5), (" w", -2.0)]
    sdk.chat.completions.create(model="tiny", messages=HELLO, logprobs=True)
    assert served.engine.asked[-1].top_logprobs == 0


def test_stop_texts_and_limits_are_passed_on(served: Running, sdk: openai.OpenAI):
    found = sdk.chat.completions.create(model="tiny", messages=HELLO, stop=["w9", "\n"], max_completion_tokens=2)
    assert served.engine.asked[-1].stop == ("w9", "\n")
    assert (found.choices[0].finish_reason, found.choices[0].message.content) == ("length", "w3 w1")
    sdk.chat.completions.create(model="tiny", messages=HELLO, stop="w9")
    assert served.engine.asked[-1].stop == ("w9",)


def test_the_base_answers_under_the_plain_name_without_a_preference(served: Running, sdk: openai.OpenAI):
    assert sdk.chat.completions.create(model="tiny", messages=HELLO).model == "tiny"
    assert (served.engine.asked[-1].base, served.engine.asked[-1].z) == (True, None)


def test_the_profile_is_chosen_by_model_then_metadata_then_user(served: Running, sdk: openai.OpenAI):
    served.state.profiles.create("ana", [])
    ana = served.state.profiles.z("ana")
    for given in (
        {"model": "tiny:ana"},
        {"model": "tiny", "metadata": {"profile": "ana"}},
        {"model": "tiny", "user": "ana"},
        {"model": "tiny", "metadata": {"profile": "ana"}, "user": "somebody"},
        {"model": "tiny:ana", "user": "somebody"},
    ):
        assert sdk.chat.completions.create(messages=HELLO, **given).model == "tiny:ana"
        assert served.engine.asked[-1].z.tolist() == ana
    sdk.chat.completions.create(model="tiny", messages=HELLO, metadata={"profile": "brief"})
    assert served.engine.asked[-1].z.tolist() == [1, 0, 0]
    served.state.profiles.delete("ana")


def test_a_request_may_bring_its_z_where_that_is_allowed(served: Running, sdk: openai.OpenAI):
    sdk.chat.completions.create(model="tiny", messages=HELLO, extra_body={"z": [0.5, 1, -2]})
    assert torch.equal(served.engine.asked[-1].z, torch.tensor([0.5, 1.0, -2.0]))
    assert not served.engine.asked[-1].base


def test_pairs_of_a_request_become_its_z_and_are_not_kept(served: Running, sdk: openai.OpenAI):
    pairs = [{"prompt": "w1", "chosen": "w2", "rejected": "w3"}] * 2
    assert sdk.chat.completions.create(model="tiny", messages=HELLO, extra_body={"pairs": pairs}).model == "tiny"
    assert served.engine.asked[-1].z.tolist() == [2, 2, 2]
    assert not served.state.profiles.kept


ONE = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}
WRONG = {
    "no such model": (
        {"model": "huge"},
        "model",
        "There is no model 'huge'. Known: tiny, tiny:brief, tiny:long, tiny:0, tiny:1.",
    ),
    "no such profile": ({"model": "tiny:bob"}, "model", "There is no model 'tiny:bob'."),
    "no such profile in metadata": (
        {"metadata": {"profile": "bob"}},
        "metadata.profile",
        "There is no model 'tiny:bob'.",
    ),
    "no such user": ({"user": "bob"}, "user", "There is no model 'tiny:bob'."),
    "two profiles": ({"model": "tiny:long", "metadata": {"profile": "brief"}}, "metadata.profile", "'long'"),
    "a prototype that is none": ({"model": "tiny:7"}, "model", "There is no model"),
    "no messages": ({"messages": []}, "messages", "at least 1 item"),
    "a role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'system', 'developer'"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content",
        "reads text only, and part 0 is of the type 'image_url'",
    ),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "string"),
    "temperature": ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
    "temperature that overflows": ({"temperature": 0.001}, "temperature", "greater than or equal to 0.01"),
    "a number as text": ({"temperature": "1"}, "temperature", "valid number"),
    "top_p": ({"top_p": 0}, "top_p", "greater than 0"),
    "n": ({"n": 17}, "n", "less than or equal to 16"),
    "stop": ({"stop": [""]}, "stop[0]", "at least 1 character"),
    "five stops": ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4 items"),
    "seed": ({"seed": 2**63}, "seed", "less than or equal"),
    "penalty": ({"frequency_penalty": 0.5}, "frequency_penalty", "less than or equal to 0"),
    "bias": ({"logit_bias": {"5": 1}}, "logit_bias", "at most 0 items"),
    "tools": ({"tools": [{"type": "function"}]}, "tools", "at most 0 items"),
    "format": ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
    "unknown field": ({"reasoning_effort": "high"}, "reasoning_effort", "is not supported by this server"),
    "name of a message": ({"messages": [{**HELLO[0], "name": "ana"}]}, "messages[0].name", "is not supported"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
    "stream_options alone": ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
    "two limits": ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "max_completion_tokens = 4 differ"),
    "prompt too long": (
        {"messages": [{"role": "user", "content": "w1 " * 200}]},
        "messages",
        "The prompt has 204 tokens, and this model has room for 97, answer included",
    ),
    "answer too long": ({"max_tokens": 96}, "max_tokens", "Give at most 9"),
    "z of the wrong size": ({"z": [1.0]}, "z", "z has 1 numbers, and this policy reads 3."),
    "z and a profile": ({"model": "tiny:brief", "z": [1.0, 2.0, 3.0]}, "z", "two preferences"),
    "z and pairs": (
        {"z": [1.0], "pairs": [{"prompt": "a", "chosen": "b", "rejected": "c"}]},
        "z",
        "z and pairs are two",
    ),
    "pairs that are none": ({"pairs": [{"prompt": "a"}]}, "pairs[0].chosen", "is required"),
    "pairs and a profile": ({"model": "tiny:brief", "pairs": [ONE]}, "pairs", "two preferences"),
    "z that is no number": ({"z": [1e300, 0, 0]}, "z[0]", "less than or equal"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_met_is_refused_with_its_field(served: Running, case: str):
    change, param, said = WRONG[case]
    before = len(served.engine.asked)
    with served.http() as http:
        told = http.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO} | change)
    error = told.json()["error"]
    assert told.status_code == (404 if "There is no model" in said else 400), error
    assert error["param"] == param, error
    assert said in error["message"]
    assert len(served.engine.asked) == before


def test_what_changes_no_answer_is_accepted(served: Running, sdk: openai.OpenAI):
    sdk.chat.completions.create(
        model="tiny",
        messages=HELLO,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        store=True,
        service_tier="auto",
        parallel_tool_calls=True,
        user=None,
        n=None,
    )


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b'{"model": NaN}', b"[" * 100_000, b"\xff\xfe", b'"\\ud800"']
)
def test_a_body_that_is_no_request_is_refused(served: Running, body: bytes):
    with served.http() as http:
        told = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert told.status_code == 400
        assert set(told.json()["error"]) == {"message", "type", "param", "code"}
        typed = http.post("/v1/chat/completions", content=b'{"model": "tiny"}', headers={"Content-Type": "text/plain"})
        assert "Content-Type: application/json" in typed.json()["error"]["message"]


HALF = "\ud800"


@pytest.mark.parametrize(
    "change", [{"model": HALF}, {HALF: 1}, {"messages": [HELLO[0] | {"content": HALF}]}, {"stop": HALF}]
)
def test_half_surrogates_are_refused_wherever_they_stand(served: Running, change: dict):
    body = json.dumps({"model": "tiny", "messages": HELLO} | change).encode()
    with served.http() as http:
        told = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert told.status_code in (400, 404), told.text


def test_a_full_queue_says_when_to_come_again(served: Running, sdk: openai.OpenAI):
    served.engine.full = True
    with pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(model="tiny", messages=HELLO)
    served.engine.full = False
    assert caught.value.response.headers["Retry-After"] == "3"
    assert caught.value.code == "queue_full"


def test_a_client_that_goes_away_ends_its_stream(served: Running):
    with held(served.engine), served.http() as http:
        with http.stream("POST", "/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "stream": True}):
            pass
        assert served.engine.begun[-1].gone.wait(30)


def test_a_client_that_goes_away_ends_its_answer(served: Running):
    host, _, port = served.url.removeprefix("http://").partition(":")
    body = json.dumps({"model": "tiny", "messages": HELLO})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with held(served.engine), socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert served.engine.submitted.wait(10)
    assert served.engine.begun[-1].gone.wait(30)


def test_whoever_went_away_is_counted(base_folder, tmp_path):
    # A server of its own, asked once it has ended: answers of other tests may be counted late.
    state = make_state(make_policy(base_folder), tmp_path / "keys.json")
    with running(state) as own, held(own.engine), own.http() as http:
        with http.stream("POST", "/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "stream": True}):
            pass
        assert own.engine.begun[-1].gone.wait(30)
    assert cancelled(own) == 1


def cancelled(served: Running) -> float:
    """How many clients went away, by the server's count."""
    return served.state.metrics.cancelled._value.get()


@pytest.mark.parametrize(
    ("error", "said"), [(TrainingError("no finite numbers"), "no finite numbers"), (ServingError("broken"), "broken")]
)
def test_an_engine_that_fails_in_a_stream_says_so_in_it(served: Running, sdk: openai.OpenAI, error: Any, said: str):
    with held(served.engine):
        stream = sdk.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        next(iter(stream))
        served.engine.begun[-1].fail(error)
    with pytest.raises(openai.APIError, match=said):
        list(stream)


def test_an_engine_that_can_draw_nothing_is_no_error_of_the_server(served: Running, sdk: openai.OpenAI):
    with held(served.engine):
        asking = threading.Thread(target=lambda: served.engine.submitted.wait(30) and fail())

        def fail() -> None:
            served.engine.begun[-1].fail(TrainingError("no finite numbers under this z"))

        asking.start()
        with pytest.raises(openai.BadRequestError, match="no finite numbers under this z"):
            sdk.chat.completions.create(model="tiny", messages=HELLO, extra_body={"z": [1e6, 0, 0]})
        asking.join()
