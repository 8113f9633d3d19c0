"""Who may ask what: keys, keys with one profile, strange hosts, long bodies; and every endpoint behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from policy_fixtures import make_policy
from server_fixtures import Running, make_state, running

pytestmark = pytest.mark.end_to_end

HELLO = [{"role": "user", "content": "w1"}]
PAIR = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}


@pytest.fixture(scope="module")
def keyless(base_folder, tmp_path_factory) -> Iterator[Running]:
    state = make_state(make_policy(base_folder), tmp_path_factory.mktemp("keys") / "keys.json")
    with running(state, max_body=2_000) as found:
        yield found


@pytest.fixture(scope="module")
def served(base_folder, tmp_path_factory) -> Iterator[Running]:
    policy = make_policy(base_folder)
    policy.preferences = {"brief": [1.0, 0.0, 0.0]}
    with running(make_state(policy, tmp_path_factory.mktemp("keys") / "keys.json", allow_z=True)) as found:
        yield found


@pytest.fixture(scope="module")
def whole(served: Running) -> str:
    served.state.profiles.create("ana", [])
    served.state.profiles.create("bob", [])
    return served.state.keys.add("operator")


@pytest.fixture(scope="module")
def bound(served: Running, whole: str) -> str:
    return served.state.keys.add("ana's", "ana")


def requests_for(profile: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """A request to every endpoint that is about a profile."""
    asked = [
        {"model": f"tiny:{profile}"},
        {"model": "tiny", "metadata": {"profile": profile}},
        {"model": "tiny", "user": profile},
    ]
    return [
        ("GET", f"/v1/models/tiny:{profile}", None),
        *(("POST", "/v1/chat/completions", {"messages": HELLO, **one}) for one in asked),
        *(("POST", "/v1/completions", {"prompt": "w1", **one}) for one in asked),
        *(("POST", "/v1/responses", {"input": "w1", **one}) for one in asked),
        ("GET", f"/v1/profiles/{profile}", None),
        ("GET", f"/v1/profiles/{profile}/export", None),
        ("GET", f"/v1/profiles/{profile}/next", None),
        ("POST", f"/v1/profiles/{profile}/pairs", {"pairs": [PAIR]}),
        ("POST", "/v1/profiles", {"name": profile, "pairs": [PAIR]}),
        ("POST", "/v1/rewards", {"profile": profile, "prompt": "w1", "responses": ["w2"]}),
        ("DELETE", f"/v1/profiles/{profile}", None),
    ]


def test_every_endpoint_with_a_profile_is_among_those_that_are_tried(served: Running):
    with served.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
    tried = {(method.lower(), re.sub("/who(?=/|$)|tiny:who", "X", path)) for method, path, _ in requests_for("who")}
    known = {(method, re.sub(r"/?\{\w+\}", "X", path)) for path, methods in paths.items() for method in methods}
    known = {(method, path.replace("modelsX", "models/X")) for method, path in known}
    others = {("get", path) for path in ("/v1/models", "/v1/profiles", "/v1/map", "/health", "/metrics")}
    assert known - others == {(method, path) for method, path in tried}


def test_a_bound_key_gets_the_same_answer_for_others_and_for_nobody(served: Running, whole: str, bound: str):
    before, asked = dict(served.state.profiles.kept), len(served.engine.asked)
    with served.http(bound) as http:
        for (method, path, body), (_, other, other_body) in zip(requests_for("bob"), requests_for("zed"), strict=True):
            known, nobody = http.request(method, path, json=body), http.request(method, other, json=other_body)
            assert (known.status_code, nobody.status_code) == (404, 404), (path, known.text)
            assert known.text.replace("bob", "…") == nobody.text.replace("zed", "…")
        for group in requests_for("brief")[:-1]:
            assert http.request(group[0], group[1], json=group[2]).status_code == 404
        assert http.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO}).status_code == 404
        z = {"model": "tiny", "messages": HELLO, "z": [1.0, 0.0, 0.0]}
        assert http.post("/v1/chat/completions", json=z).status_code == 403
        assert http.get("/metrics").status_code == 403
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["tiny:ana"]
        assert [one["name"] for one in http.get("/v1/profiles").json()["data"]] == ["ana"]
        for path in (
            "/v1/profiles/../profiles/bob",
            "/v1/profiles/ana%2F..%2Fbob",
            "/v1/profiles/bob%00",
            "/v1/profiles/",
        ):
            assert http.get(path).status_code in (307, 404)
    assert served.state.profiles.kept == before
    assert len(served.engine.asked) == asked


def test_a_bound_key_has_all_of_its_own(served: Running, bound: str):
    with served.http(bound) as http:
        for method, path, body in requests_for("ana"):
            found = http.request(method, path, json=body)
            assert found.status_code == (409 if path == "/v1/profiles" else 200), (path, found.text)
        assert http.get("/v1/models").json()["data"] == []
        assert "There is none yet" in http.get("/v1/models/tiny:ana").json()["error"]["message"]
        assert http.post("/v1/profiles", json={"name": "ana", "pairs": [PAIR]}).status_code == 201


def test_a_key_without_a_profile_sees_all(served: Running, whole: str):
    with served.http(whole) as http:
        names = [one["id"] for one in http.get("/v1/models").json()["data"]]
        assert names == ["tiny", "tiny:brief", "tiny:ana", "tiny:bob"]
        assert http.get("/metrics").status_code == 200


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer nonsense", "Basic abc", "bearer fedvpa-"])
def test_without_a_right_key_nothing_is_told(served: Running, whole: str, header: str | None):
    headers = {} if header is None else {"Authorization": header}
    with httpx.Client(base_url=served.url, trust_env=False, verify=False, headers=headers) as http:
        for method, path, body in (*requests_for("bob"), ("GET", "/v1/models", None), ("GET", "/metrics", None)):
            told = http.request(method, path, json=body)
            assert (told.status_code, told.json()["error"]["type"]) == (401, "authentication_error")
            assert told.headers["WWW-Authenticate"] == "Bearer"
            assert "bob" not in told.text
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/openapi.json").status_code == 200


def test_a_key_that_is_removed_is_refused_at_once_and_the_last_one_opens_nothing(base_folder, tmp_path):
    state = make_state(make_policy(base_folder), tmp_path / "keys.json")
    with running(state) as found:
        with found.http() as http:
            assert http.get("/v1/models").status_code == 200
            key = state.keys.add("a")
            assert http.get("/v1/models").status_code == 401
        with found.http(key) as http:
            assert http.get("/v1/models").status_code == 200
            state.keys.remove("a")
            assert http.get("/v1/models").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80", "[::1"])
def test_without_keys_a_page_of_another_host_gets_nothing(keyless: Running, host: str):
    with keyless.http() as http:
        assert http.get("/v1/models", headers={"Host": host}).status_code == 403
        assert http.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200
        assert http.get("/v1/models", headers={"Host": "[::1]:8000"}).status_code == 200


def test_no_origin_may_ask_from_a_browser_unless_it_is_named(keyless: Running, base_folder, tmp_path):
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    with keyless.http() as http:
        assert "access-control-allow-origin" not in http.options("/v1/models", headers=asked).headers
    state = make_state(make_policy(base_folder), tmp_path / "keys.json")
    with running(state, origins=["https://page.example"], needs_key=True) as found, found.http() as http:
        told = http.options("/v1/models", headers=asked)
        assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, "https://page.example")
        assert http.get("/v1/models").status_code == 401


def test_a_body_over_the_limit_is_refused_however_it_is_sent(keyless: Running):
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "w1 " * 1000}]}).encode()
    long = [b" " * 500_000] * 4
    with keyless.http() as http:
        for content in (body, iter([body[:1500], body[1500:]]), b"".join(long), iter(long)):
            told = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
            assert (told.status_code, told.json()["error"]["code"]) == (413, "body_too_large")
        assert http.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO}).status_code == 200


def test_what_is_not_there_is_said_in_the_same_form(keyless: Running):
    with keyless.http() as http:
        assert http.get("/v2").json()["error"]["type"] == "not_found_error"
        assert http.put("/v1/models").status_code == 405
        assert http.get("/docs").status_code == 404


def test_the_counters_name_nobody(keyless: Running):
    with keyless.http() as http:
        http.post("/v1/profiles", json={"name": "secretive", "pairs": [PAIR]})
        http.post("/v1/chat/completions", json={"model": "tiny:secretive", "messages": HELLO})
        http.get("/v1/profiles/secretive")
        told = http.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'fedvpa_requests_total{endpoint="/v1/profiles/{name}",status="200"} 1.0' in told.text
    assert "fedvpa_generated_tokens_total" in told.text
    assert "secretive" not in told.text
