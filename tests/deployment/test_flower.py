"""The exported app on real processes, on loopback: TLS, node keys, what becomes of it, and what can go wrong."""

import contextlib
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedvpa.algorithms.registry import make
from fedvpa.core.tree import Tree
from fedvpa.data.partition import Partition
from fedvpa.engines.checkpoint import load_clients
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.features.standardise import Standardiser
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare
from fedvpa.selector.selector import Selector
from fedvpa.world.prompts import prompts
from run_fixtures import TINY_POLICY
from tests_shared import replay

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from disk_traces import contents, texts_held, tokens_of
from fedvpa.api.align import align
from fedvpa.api.export import export_flower, export_release
from fedvpa.api.generate import generate
from fedvpa.api.personalize import personalize
from fedvpa.deployment.keys import make_keys, make_node_key
from flower_processes import Processes, history, write_pairs

COMPARED = ("head.base", "head.personal", "prototypes")
ROUNDS = 2
"""So many that mixture weights are learned: there is no prior to mix in the first round."""

LONGEST_ANSWER = 13
"""Tokens of an answer under ``TINY_POLICY``."""

# Features of other batches differ in the last bit of fp16, so equality is not exact.
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def add_small_user(path: Path) -> None:
    """A further user of a node, with a single pair: none of its own is left where pairs are held out."""
    first = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps({**first, "user_id": "small"}) + "\n")


def together(app: Path, folder: Path) -> RunConfig:
    """The run of an app, with all pairs on one machine."""
    return read_config(app / "fedvpa_app" / "run.yaml", (f"data.path={folder / 'all.jsonl'}", "engine.workers=1"))


@pytest.mark.end_to_end
def test_a_federation_on_real_processes_becomes_a_policy_that_serves_a_user_on_their_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1 equals that of one machine; then the server aligns, and a node serves; no text of a user comes along."""
    paths = write_pairs(tmp_path, users=7, nodes=3)
    add_small_user(paths[0])
    server, node = tmp_path / "server", tmp_path / "node0"
    app, out = server / "app", server / "out"
    config = read_config(None, (f"server.rounds={ROUNDS}", "engine.cohort=5", "local.steps=2", "selector.latent=5"))
    make_keys(tmp_path / "other", host="127.0.0.1")
    unknown = make_node_key(tmp_path / "other", "unknown").private
    with Processes(tmp_path) as federation:
        export_flower(config, app, out=out, nodes=3, deadline=300)
        federation.superlink()
        federation.register(0, 1, 2)
        for number, path in enumerate(paths):
            federation.node(number, path)
        federation.node(3, paths[0], name="unknown-key", key=unknown)
        federation.node(0, paths[0], name="wrong-ca", ca=tmp_path / "other" / "ca.crt")
        federation.flwr("run", str(app), "here", "--stream")
        # Were one of these two let in, its users would be on two nodes, and the server would have refused to start.
        for name in ("unknown-key", "wrong-ca"):
            assert "attempt failed" in federation.log(name), f"a node with {name} is refused"
        assert "left out, with too few pairs to learn from: 'small'" in federation.log("node0")
        assert "1 further users are left out by their nodes" in federation.log("flwr-run")
        assert "'small'" not in federation.log("flwr-run"), "the server is not told who"
    check_stage1(together(app, tmp_path), out, federation)
    assert not list(server.rglob("node*.key")), "a private key stays where it was made"

    monkeypatch.setenv("FEDVPA_CACHE", str(server / "cache"))
    (server / "public.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in public_prompts(tmp_path)))
    align(out, overrides=(*TINY_POLICY, f"policy.candidates.prompt_file={server / 'public.jsonl'}"))
    made = export_release(out, server / "release").release

    monkeypatch.setenv("FEDVPA_CACHE", str(node / "cache"))
    release = Path(shutil.copytree(made, node / "release"))
    found = personalize(release, paths[0], user="user-00000")
    assert found.pairs == 12
    answered = generate(release, "how do i plan a picnic ?", f"@{paths[0]}", user="user-00000", max_new_tokens=7)
    assert answered.z == pytest.approx(found.mean)
    check_disks(tmp_path)


def check_stage1(config: RunConfig, out: Path, federation: Processes) -> None:
    """All rounds are over, and their selector is that of the same pairs on one machine."""
    lines = history(out)
    assert [line["round"] for line in lines] == list(range(ROUNDS)), federation.said()
    assert not any(line["dropped"] or line["rejected"] for line in lines)
    here, there = fit(config, prepare(config)).selector, Selector.from_pretrained(out / "selector")
    for name in COMPARED:
        torch.testing.assert_close(there.params[name], here.params[name], **CLOSE)


def public_prompts(folder: Path) -> list[str]:
    """Prompts of the world that no user has."""
    theirs = {json.loads(line)["prompt"] for line in (folder / "all.jsonl").read_text().splitlines()}
    return [prompt.text for prompt in prompts("train") if prompt.text not in theirs][:60]


def check_disks(folder: Path) -> None:
    """What the server's machine holds of users, in all files of it, those of Flower included.

    No text: those of a node are found where they are. Nothing of their private state.
    """
    server, texts = folder / "server", some_texts(folder)
    (own,) = texts_held(folder / "node0", texts[:1]).values()
    assert folder / "node0" / "pairs.jsonl" in own
    assert texts_held(server, texts) == {}
    vacuum(server / "superlink.db")
    files, kept = list(contents(server)), private_state(folder)
    found = {name: {path for leaf in leaves for path, content in files if leaf in content} for name, leaves in kept}
    assert found == {"scores": set(), "curvature": set()}, "nowhere"


def vacuum(database: Path) -> None:
    """As docs/flower.md says it: of what Flower deletes, SQLite leaves the bytes in free pages and in its log."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as opened:
        opened.execute("VACUUM")
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def private_state(folder: Path) -> list[tuple[str, list[bytes]]]:
    """What nodes keep of their users after the last round, by name, as bytes; without the clock, which all are told."""
    users = [
        private
        for number in range(3)
        for private in load_clients(folder / f"node{number}" / "state" / f"{ROUNDS - 1}.safetensors").values()
    ]
    names = [name for name, leaf in users[0].items() if leaf.is_floating_point() and leaf.ndim]
    return [(name, [tree[name].numpy().tobytes() for tree in users if tree[name].any()]) for name in names]


def some_texts(folder: Path) -> list[str]:
    """A prompt of each user, and a response that is longer than what the base model may have said by itself."""
    rows = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    found = []
    for user in sorted({row["user_id"] for row in rows}):
        own = [row for row in rows if row["user_id"] == user]
        said = max((row[name] for row in own for name in ("chosen", "rejected")), key=lambda text: len(tokens_of(text)))
        assert len(tokens_of(said)) > LONGEST_ANSWER, user
        found += [own[0]["prompt"], said]
    return found


@pytest.mark.end_to_end
def test_a_node_comes_late_another_dies_and_the_server_is_killed(tmp_path: Path) -> None:
    paths = write_pairs(tmp_path, users=5, nodes=3)
    hosted = [("user-00000", "user-00003"), ("user-00001", "user-00004"), ("user-00002",)]
    app, out = tmp_path / "server" / "app", tmp_path / "server" / "out"
    given = ("method=fedvpa_gp", "server.rounds=4", "engine.cohort=5", "local.steps=2", "selector.latent=5")
    config = read_config(None, (*given, "selector.rotation=none"))
    with Processes(tmp_path) as federation:
        export_flower(config, app, out=out, nodes=2, deadline=300)
        federation.superlink()
        federation.register(0, 1, 2)
        federation.node(0, paths[0])
        federation.node(1, paths[1])
        federation.start("server", "flwr", "run", str(app), "here", "--stream")
        federation.wait_for(lambda: "4 clients on 2 nodes" in federation.log("server"), "two nodes are there")
        federation.node(2, paths[2])
        federation.wait_for(lambda: "joined: user-00002" in federation.log("server"), "the late node joins")
        done = len(history(out))
        federation.wait_for(lambda: len(history(out)) > done, "a round ends")
        killed = len(history(out))
        federation.kill("node1")
        federation.wait_for(lambda: len(history(out)) > killed, "the next round ends without the node")
        federation.kill("superlink")
        federation.kill("server")
        federation.superlink()
        federation.flwr("run", str(app), "here", "--stream")
        assert f"resuming {out} at round {killed + 1}" in federation.log("flwr-run")
    lines = history(out)
    assert [line["round"] for line in lines] == [0, 1, 2, 3], federation.said()
    joined = next(line["round"] for line in lines if set(hosted[2]) & set(line["cohort"]))
    assert 0 < joined <= killed < 3
    for line in lines:
        before, after = line["round"] < joined, line["round"] > killed
        there = sorted(hosted[0] + (() if after else hosted[1]) + (() if before else hosted[2]))
        drawn = draw_cohort(there, identities(there), 5, config.seed, line["round"])
        assert line["cohort"] == drawn, "drawn by id from those who had joined when the run was started"
        assert line["dropped"] == (sorted(hosted[1]) if line["round"] == killed else []), federation.said()
    there = Selector.from_pretrained(out / "selector")
    here = alone(together(app, tmp_path), hosted[0] + hosted[1], lines)
    for name in COMPARED:
        torch.testing.assert_close(there.params[name], here[name], **CLOSE)


def alone(config: RunConfig, first: tuple[str, ...], lines: list[dict]) -> Tree:
    """The weights of the same history on one machine, with features scaled by those who were there at the start."""
    whole = prepare(config).federation
    start = Partition(tuple(client for client in whole.partition.clients if client.client_id in first))
    standardiser = Standardiser.from_moments(replace(whole, partition=start).moments)
    scaled = replace(whole, scaling=replace(whole.scaling, standardiser=standardiser))
    algorithm = make(config.method, config.method_config)
    return algorithm.selector(replay(algorithm, scaled, config.seed, lines)).params
