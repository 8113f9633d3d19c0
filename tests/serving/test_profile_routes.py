from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from fedvpa.serving.profile_routes import MOST_WAITING
from policy_fixtures import make_policy
from server_fixtures import Running, make_state, running

pytestmark = pytest.mark.end_to_end

PAIR = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}
SHOWN = {"prompt": "w1", "response_a": "w2", "response_b": "w3", "winner": "B"}


@pytest.fixture(scope="module")
def served(base_folder, tmp_path_factory) -> Iterator[Running]:
    policy = make_policy(base_folder)
    policy.preferences = {"brief": [1.0, 0.0, 0.0]}
    with running(make_state(policy, tmp_path_factory.mktemp("keys") / "keys.json")) as found:
        yield found


def test_a_profile_is_made_read_extended_exported_and_deleted(served: Running):
    with served.http() as http:
        made = http.post("/v1/profiles", json={"name": "ana", "pairs": [PAIR, SHOWN]})
        assert (made.status_code, made.json()["pairs"], made.json()["model"]) == (201, 2, "tiny:ana")
        assert http.get("/v1/profiles/ana").json() == made.json()
        assert [one["name"] for one in http.get("/v1/profiles").json()["data"]] == ["ana"]
        tie = {**PAIR, "winner": "tie", "prompt": [{"role": "developer", "content": "w5"}]}
        assert http.post("/v1/profiles/ana/pairs", json={"pairs": [tie]}).json()["ties"] == 1
        rows = http.get("/v1/profiles/ana/export").json()["judged"]
        assert [row["winner"] for row in rows] == ["A", "B", "tie"]
        assert rows[2]["prompt"] == [{"role": "system", "content": "w5"}]
        assert rows[0] == {"prompt": "w1", "response_a": "w2", "response_b": "w3", "winner": "A", "weight": 1.0}
        rewards = http.post("/v1/rewards", json={"profile": "ana", "prompt": "w1", "responses": ["w2", "w22"]})
        assert rewards.json()["data"] == [2.0, 3.0]
        assert http.get("/v1/profiles/ana/next").json() is None
        assert http.delete("/v1/profiles/ana").json()["deleted"] is True
        assert http.get("/v1/profiles/ana").status_code == 404


def test_an_export_is_what_a_profile_is_made_of(served: Running):
    with served.http() as http:
        http.post("/v1/profiles", json={"name": "one", "pairs": [PAIR, SHOWN]})
        rows = http.get("/v1/profiles/one/export").json()["judged"]
        assert http.post("/v1/profiles", json={"name": "two", "pairs": rows}).status_code == 201
        assert http.get("/v1/profiles/two/export").json()["judged"] == rows
        for name in ("one", "two"):
            http.delete(f"/v1/profiles/{name}")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": "brief", "pairs": [PAIR]}, 409, "name"),
        ({"name": "0", "pairs": [PAIR]}, 409, "name"),
        ({"name": "0.25", "pairs": [PAIR]}, 409, "name"),
        ({"name": "base", "pairs": [PAIR]}, 409, "name"),
        ({"name": "", "pairs": [PAIR]}, 400, "name"),
        ({"name": "x" * 101, "pairs": [PAIR]}, 400, "name"),
        ({"pairs": [PAIR]}, 400, "name"),
        ({"name": "ties", "pairs": [{**SHOWN, "winner": "tie"}] * 2}, 400, "pairs"),
        ({"name": "eve", "pairs": [{"prompt": "w1"}]}, 400, "pairs[0].chosen"),
        ({"name": "eve", "pairs": [PAIR, {**SHOWN, "winner": "C"}]}, 400, "pairs[1].winner"),
        ({"name": "eve", "pairs": [{**PAIR, "weight": 0}]}, 400, "pairs[0].weight"),
        ({"name": "eve", "pairs": [5]}, 400, "pairs[0]"),
        ({"name": "eve", "pairs": 5}, 400, "pairs"),
        ({"name": "eve", "pears": []}, 400, "pears"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_with_its_field(served: Running, body: dict, status: int, param: str):
    with served.http() as http:
        told = http.post("/v1/profiles", json=body)
    assert (told.status_code, told.json()["error"]["param"]) == (status, param), told.text
    assert not served.state.profiles.kept


def test_a_policy_without_a_preference_has_no_profiles_and_says_so(base_folder, tmp_path):
    with running(make_state(make_policy(base_folder, None), tmp_path / "keys.json")) as found, found.http() as http:
        chat = {"messages": [{"role": "user", "content": "w1"}]}
        assert http.post("/v1/chat/completions", json={"model": "tiny", "user": "ana", **chat}).status_code == 200
        assert not found.engine.asked[-1].base
        assert http.post("/v1/chat/completions", json={"model": "tiny:base", **chat}).status_code == 200
        assert found.engine.asked[-1].base
        for told in (
            http.post("/v1/profiles", json={"name": "ana", "pairs": [PAIR]}),
            http.get("/v1/profiles/ana"),
            http.post("/v1/rewards", json={"profile": "ana", "prompt": "w1", "responses": ["w2"]}),
            http.post("/v1/chat/completions", json={"model": "tiny:ana", **chat}),
        ):
            assert (told.status_code, told.json()["error"]["code"]) == (400, "no_preferences")
            assert "is the same for everybody" in told.json()["error"]["message"]
        assert http.get("/v1/profiles").json()["data"] == []


def test_too_many_that_read_pairs_are_told_to_come_again(served: Running):
    gate = served.state.reading
    with contextlib.ExitStack() as inside, served.http() as http:
        for _ in range(1 + MOST_WAITING):
            assert gate._places.acquire(blocking=False)
            inside.callback(gate._places.release)
        told = http.post("/v1/profiles", json={"name": "ana", "pairs": [PAIR]})
    assert (told.status_code, told.headers["Retry-After"]) == (429, "5")
