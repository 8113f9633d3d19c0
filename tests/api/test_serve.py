"""``fedvpa serve`` from a run directory to answers over HTTP, with the engine and the profiles that users get."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from command_line import fedvpa as command
from fedvpa.api.generate import generate
from fedvpa.api.serve import Listening, serve
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import write_json
from fedvpa.policy.policy import new_policy
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import save_policy
from fedvpa.serving import pool
from fedvpa.serving.keys import Caller, Keys
from fedvpa.serving.opening import opened
from fedvpa.world.generate import generate_world
from policy_fixtures import disturb, world_config

pytestmark = pytest.mark.end_to_end

PAIRS = [
    {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    for pair in generate_world("two-groups", 1, 5, 77)
]
PROMPT = str(PAIRS[0]["prompt"])
LATENT = 13


def with_policies(run: Path, method: str, names: tuple[str, ...], latent: int | None) -> Path:
    """Leave policies in a run whose weights are noise, so that a wrong preference shows."""
    folder = RunFolder.open(run)
    settings = world_config(candidates={"max_new_tokens": 9}, conditioning="soft_prefix")
    for place, name in enumerate(names):
        policy = disturb(new_policy(settings, "bundled", latent, place, device="cpu"), seed=place, scale=0.15)
        save_policy(folder, policy, method, name, settings.model_copy(update={"model": "bundled"}), {})
    groups = {"brief": [1.5] * LATENT, "long": [-1.5] * LATENT}
    write_json(folder.policy / "preferences.json", groups if latent else {})
    write_json(folder.policy / "metrics.json", {"policies": {name: {} for name in names}, "method": method})
    return run


@pytest.fixture(scope="module")
def aligned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("serve") / "mine"
    return with_policies(Path(shutil.copytree(finished, run)), "fedeb", ("",), LATENT)


def talk(run: Path, say: Callable[[openai.OpenAI, httpx.Client], Any], **options: Any) -> Any:
    """What is said to a server of a run, which a SIGTERM to this process ends."""
    found: list[Any] = []

    def speak(listening: Listening) -> None:
        try:
            with httpx.Client(base_url=listening.address, trust_env=False, verify=False, timeout=60) as http:
                sdk = openai.OpenAI(base_url=f"{listening.address}/v1", api_key="none", http_client=http)
                found.append(say(sdk, http))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def ready(listening: Listening) -> None:
        threads.append(threading.Thread(target=speak, args=(listening,)))
        threads[0].start()

    threads: list[threading.Thread] = []
    ended = serve(run, port=0, ready=ready, **options)
    threads[0].join()
    assert ended.unfinished == 0
    return found[0]


def test_the_server_answers_as_generate_does_and_learns_a_user(aligned: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "POOL", 11)

    def chat(sdk: openai.OpenAI, model: str, temperature: float) -> str:
        asked = {"messages": [{"role": "user", "content": PROMPT}], "temperature": temperature, "seed": 5}
        return sdk.chat.completions.create(model=model, **asked).choices[0].message.content

    def say(sdk: openai.OpenAI, http: httpx.Client) -> dict[str, Any]:
        made = http.post("/v1/profiles", json={"name": "ana", "pairs": PAIRS}).json()
        asked = http.get("/v1/profiles/ana/next").json()
        answer = {key: asked[key] for key in ("prompt", "response_a", "response_b")}
        more = http.post("/v1/profiles/ana/pairs", json={"pairs": [{**answer, "winner": "tie"}]}).json()
        rewards = http.post("/v1/rewards", json={"profile": "ana", "prompt": PROMPT, "responses": ["Yes.", "No."]})
        names = ("brief", "long", "ana", "0.5")
        answers = {(name, t): chat(sdk, f"mine:{name}", t) for name in names for t in (0.0, 1.0)}
        stream = sdk.completions.create(model="mine:brief", prompt=PROMPT, temperature=0, stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in stream)
        base = chat(sdk, "mine", 0.0)
        plain = {"model": "mine", "prompt": PROMPT, "temperature": 0}
        own = [http.post("/v1/completions", json=plain | one).json() for one in ({"pairs": PAIRS}, {"z": made["z"]})]
        return {"made": made, "more": more, "rewards": rewards.json()["data"], "answers": answers} | {
            "left": asked["left"],
            "left_then": http.get("/v1/profiles/ana/next").json()["left"],
            "streamed": streamed,
            "own": {one["choices"][0]["text"] for one in own},
            "base": base,
            "models": [one.id for one in sdk.models.list()],
            "waiting": http.get("/metrics").text,
        }

    found = talk(aligned, say, allow_z=True)
    assert (found["made"]["pairs"], found["more"]["pairs"], found["more"]["ties"]) == (5, 6, 1)
    assert found["left_then"] == found["left"] - 1
    assert found["rewards"][0] != found["rewards"][1]
    assert found["models"][:3] == ["mine", "mine:brief", "mine:long"]
    assert found["models"][-1] == "mine:ana"
    preferences = {"brief": "brief", "long": "long", "0.5": "0.5", "ana": found["more"]["z"]}
    for (name, temperature), said in found["answers"].items():
        (expected,) = generate(aligned, [PROMPT], preferences[name], temperature=temperature, seed=5).answers
        assert said == expected.response, (name, temperature)
    greedy = {name: said for (name, temperature), said in found["answers"].items() if not temperature}
    assert len({*greedy.values(), found["base"]}) >= 3
    assert found["streamed"] == greedy["brief"]
    assert len(found["own"]) == 1
    assert "fedvpa_answers_running 0.0" in found["waiting"]


def test_a_run_of_clients_policies_and_one_of_groups_have_no_profiles(finished: Path, tmp_path: Path):
    for method, names, listed in (
        ("feddpo", ("",), ["mine", "mine:base"]),
        ("oracle", ("brief", "long"), ["mine", "mine:brief", "mine:long"]),
    ):
        run = with_policies(Path(shutil.copytree(finished, tmp_path / method)), method, names, None)
        with opened(RunFolder.open(run), "mine", Keys(run / "keys.json")) as state:
            assert state.profiles is None
            assert state.no_profiles
            assert list(state.catalogue.visible(Caller())) == listed
            policies = {id(state.catalogue.find(name, Caller()).served.policy) for name in listed}
            assert len(policies) == len(names)


def test_a_policy_whose_selector_is_gone_is_served_without_profiles(aligned: Path, tmp_path: Path):
    run = Path(shutil.copytree(aligned, tmp_path / "mine"))
    shutil.rmtree(run / "selector")
    with opened(RunFolder.open(run), "mine", Keys(run / "keys.json")) as state:
        assert "holds no selector" in state.no_profiles
        assert "mine:brief" in list(state.catalogue.visible(Caller()))


def test_a_run_without_a_policy_says_how_to_get_one(finished: Path):
    with pytest.raises(RunError, match=f"holds no policy. Run: fedvpa align {finished}"):
        serve(finished, port=0)


def test_other_machines_need_a_key(aligned: Path):
    with pytest.raises(ConfigError, match=f"there is no key yet. Make one: fedvpa keys {aligned} add NAME"):
        serve(aligned, host="0.0.0.0", port=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a:b"}, "'a:b' cannot be the name of a model"),
        ({"name": ""}, "cannot be the name of a model"),
        ({"max_rows": 0}, "max_rows=0 cannot be"),
        ({"drain_seconds": float("nan")}, "drain_seconds=nan cannot be"),
        ({"pool": "no.jsonl"}, r"no\.jsonl: no such file"),
    ],
)
def test_what_cannot_be_served_is_said_first(aligned: Path, options: dict[str, Any], said: str):
    with pytest.raises((ConfigError, RunError, ValueError), match=said):
        serve(aligned, **options)


def test_a_missing_package_is_said_with_its_extra(aligned: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedvpa.api.serve.find_spec", lambda package: None if package == "uvicorn" else package)
    with pytest.raises(ConfigError, match=r"needs uvicorn, not installed here. pip install 'fedvpa\[serve\]'"):
        serve(aligned, port=0)


def test_the_command_line_makes_lists_and_removes_keys(aligned: Path, tmp_path: Path):
    run = Path(shutil.copytree(aligned, tmp_path / "run"))
    made = command("keys", run, "add", "phone", "--profile", "ana", "--json")
    key = json.loads(made.stdout)["key"]
    assert Keys(RunFolder(run).keys).caller(key) == Caller("ana")
    assert command("keys", run, "list").stdout.startswith("phone: ana; made 20")
    assert command("keys", run, "remove", "phone").stdout == "no keys\n"
    assert command("keys", run, "remove", "phone").returncode == 2
    assert command("keys", tmp_path, "list").returncode == 2


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals mean what they meant, whatever a test did."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
