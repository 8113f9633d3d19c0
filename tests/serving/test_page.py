"""The page: what a browser is given, and that its parts fit each other and the server's API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import fedvpa.serving
from policy_fixtures import make_policy
from server_fixtures import make_state, running

pytestmark = pytest.mark.unit

PAGE = Path(fedvpa.serving.__file__).parent / "page"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}


@pytest.fixture(scope="module")
def policy(base_folder):
    policy = make_policy(base_folder)
    policy.prototypes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    policy.preferences = {"brief": [1.0, 0.0, 0.0]}
    return policy


@pytest.fixture(scope="module")
def client(policy, tmp_path_factory) -> Iterator[httpx.Client]:
    state = make_state(policy, tmp_path_factory.mktemp("keys") / "keys.json")
    state.keys.add("somebody")
    with running(state) as found, found.http() as http:
        yield http


def test_a_browser_is_given_the_page_without_a_key_and_takes_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for name in TEXTS.keys() - {"index.html"}:
        given = client.get(f"/page/{name}")
        assert given.text == TEXTS[name]
        assert given.headers["content-type"].startswith("text/css" if name.endswith(".css") else "text/javascript")
    assert client.get("/page/../keys.py").status_code == 401
    assert client.get("/page/none.js").status_code == 404


def test_what_the_page_asks_needs_a_key(client):
    for path in ("/v1/map", "/v1/models", "/v1/profiles"):
        assert client.get(path).status_code == 401


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_file_names_another_host(name):
    assert not [
        found for found in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"]*", TEXTS[name]) if "w3.org" not in found
    ]


def test_every_element_that_a_script_asks_for_is_there_and_every_one_with_a_name_is_used():
    there = set(re.findall(r'\bid="([\w-]+)"', TEXTS["index.html"]))
    asked = {found for text in SCRIPTS.values() for found in re.findall(r'(?:at|show)\("([\w-]+)"\)', text)}
    looped = {"left", "right"}  # talk.js goes through both by name
    labelled = set(re.findall(r'aria-(?:controls|labelledby)="([\w-]+)"|list="(\w+)"|for="(\w+)"', TEXTS["index.html"]))
    named = {name for names in labelled for name in names if name}
    styled = set(re.findall(r"#([\w-]+)", TEXTS["style.css"]))
    assert asked | looped <= there
    assert there <= asked | looped | named | styled


def test_scripts_import_what_is_there():
    for name, text in SCRIPTS.items():
        for wanted, module in re.findall(r'import (?:\* as \w+|\{ ([\w, ]+) \}) from "\./([\w.]+)"', text):
            exported = set(re.findall(r"export (?:async )?(?:const|function|class) (\w+)", TEXTS[module]))
            assert set(filter(None, wanted.split(", "))) <= exported, name
        for used in re.findall(r"\bapi\.(\w+)\(", text):
            assert re.search(rf"export (?:async )?(?:const|function) {used}\b", TEXTS["api.js"]), (name, used)


def test_the_page_asks_nothing_that_the_api_does_not_have(client, policy):
    paths = client.get("/openapi.json").json()["paths"]
    profile = "v1/profiles/{name}"
    named = TEXTS["api.js"].replace("${named(name)}", profile).replace("named(name))", f'"{profile}")')
    asked = re.findall(r'(?:json|send)\("([A-Z]+)", ["`]([\w/{}]+)', named)
    assert len(asked) == 10
    for method, path in asked:
        assert method.lower() in paths[f"/{path}"]


def test_the_map_has_the_prototypes_by_their_groups(policy, tmp_path):
    with running(make_state(policy, tmp_path / "keys.json")) as found, found.http() as http:
        told = http.get("/v1/map").json()["map"]
        assert [one["name"] for one in told["prototypes"]] == ["brief", "prototype 1"]
        assert len(told["axes"]) == 2
        assert {len(axis) for axis in told["axes"]} == {3}
        with found.http(found.state.keys.add("ana's", "ana")) as bound:  # which may not see groups
            told = bound.get("/v1/map").json()["map"]
        assert [one["name"] for one in told["prototypes"]] == ["prototype 0", "prototype 1"]


def test_a_policy_without_z_has_no_map(base_folder, tmp_path):
    plain = make_policy(base_folder, kind=None)
    with running(make_state(plain, tmp_path / "keys.json")) as found, found.http() as http:
        assert http.get("/v1/map").json() == {"map": None}
