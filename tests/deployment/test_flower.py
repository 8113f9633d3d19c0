"""The exported app on real processes: a SuperLink with TLS and three authenticated SuperNodes, on loopback."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedvpa.api.config import read_config
from fedvpa.api.prepare import prepare
from fedvpa.api.train import fit
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.data import DataConfig, load
from fedvpa.selector.selector import Selector

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower
from fedvpa.api.keys import make_keys

BIN = Path(sys.executable).parent
OVERRIDES = ("server.rounds=2", "engine.cohort=5", "local.steps=2", "selector.latent=5")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_pairs(folder: Path) -> list[Path]:
    """Seven users of the bundled world, on three nodes."""
    table = load(DataConfig(source="world", population="two-groups", users=7, pairs_per_user=12, seed=3))
    users = sorted({pair.user_id for pair in table.pairs})
    rows = [
        (
            users.index(pair.user_id) % 3,
            {key: getattr(pair, key) for key in ("user_id", "prompt", "chosen", "rejected")},
        )
        for pair in table.pairs
    ]
    paths = [folder / f"node{number}.jsonl" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_text("".join(json.dumps(row) + "\n" for node, row in rows if node == number))
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for _, row in rows))
    return paths


@contextlib.contextmanager
def process(folder: Path, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Flower process with its log in ``folder``; ended with the block."""
    env = {
        **os.environ,
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "FEDVPA_CACHE": str(folder / "cache"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    with (folder / f"{name}.log").open("wb") as log:
        started = subprocess.Popen([str(BIN / command[0]), *command[1:]], stdout=log, stderr=log, env=env, cwd=folder)
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def wait_for(condition, seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} after {seconds} s"
        time.sleep(0.2)


def listening(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def flwr(folder: Path, *arguments: str) -> str:
    with process(folder, f"flwr-{arguments[0]}-{len(list(folder.glob('flwr-*')))}", "flwr", *arguments) as done:
        assert done.wait(120) == 0, max(folder.glob("flwr-*.log"), key=lambda path: path.stat().st_mtime).read_text()
    return ""


@pytest.mark.end_to_end
def test_a_federation_on_real_processes_learns_what_one_machine_learns(tmp_path: Path) -> None:
    paths = write_pairs(tmp_path)
    keys, app, out, port = tmp_path / "keys", tmp_path / "app", tmp_path / "out", free_port()
    make_keys(keys, host="127.0.0.1", nodes=4)
    export_flower(read_config(None, OVERRIDES), app, out=out, nodes=3, deadline=60)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{keys / "ca.crt"}"\n'
    )
    files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
    tls = [f"--ssl-{flag}={keys / file}" for flag, file in files.items()]
    link = ("--host=127.0.0.1", f"--port={port}", "--enable-supernode-auth")
    offline = "--disable-runtime-dependency-installation"

    def node(number: int, data: Path, certificate: Path) -> tuple[str, ...]:
        return (
            "flower-supernode", f"--root-certificates={certificate}", f"--superlink=127.0.0.1:{port}",
            "--host=127.0.0.1", f"--port={free_port()}", f"--auth-supernode-private-key={keys / f'node-{number}.key'}",
            "--node-config", f'data-path="{data}" state-path="{tmp_path / f"state{number}"}"',
        )  # fmt: skip

    with contextlib.ExitStack() as stack:
        stack.enter_context(process(tmp_path, "superlink", "flower-superlink", *link, *tls, offline))
        wait_for(lambda: listening(port), 60, "no SuperLink")
        for number in range(3):
            flwr(tmp_path, "supernode", "register", str(keys / f"node-{number}.pub"))
            stack.enter_context(process(tmp_path, f"node{number}", *node(number, paths[number], keys / "ca.crt")))
        stack.enter_context(process(tmp_path, "unknown-key", *node(3, paths[0], keys / "ca.crt")))
        make_keys(tmp_path / "other", host="127.0.0.1", nodes=1)
        stack.enter_context(process(tmp_path, "wrong-ca", *node(0, paths[0], tmp_path / "other" / "ca.crt")))
        flwr(tmp_path, "run", str(app), "here", "--stream")

    # Were one of these two let in, its users would be on two nodes, and the server would have refused to start.
    for name in ("unknown-key", "wrong-ca"):
        assert "attempt failed" in (tmp_path / f"{name}.log").read_text(), f"a node with {name} is refused"
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert not any(line["dropped"] or line["rejected"] for line in lines)
    config = read_config(app / "fedvpa_app" / "run.yaml", (f"data.path={tmp_path / 'all.jsonl'}", "engine.workers=1"))
    here = fit(config, prepare(config)).selector
    there = Selector.from_pretrained(out / "selector")
    for name in ("head.base", "head.personal", "prototypes"):
        # Features of other batches differ in the last bit of fp16, so equality is not exact.
        torch.testing.assert_close(there.params[name], here.params[name], rtol=1e-3, atol=1e-5)
    assert len(list((tmp_path / "state0").glob("*.safetensors"))) > 0, "private state is on the node's disk"


@pytest.mark.unit
def test_only_what_can_be_deployed_is_exported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="users of its nodes"):
        export_flower(read_config(None, ("partition.unseen=3",)), tmp_path / "a", out=tmp_path, nodes=2)
    for method in ("oracle", "local"):
        with pytest.raises(ConfigError, match=f"'{method}' cannot be deployed"):
            export_flower(read_config(None, (f"method={method}",)), tmp_path / "a", out=tmp_path, nodes=2)
    assert not (tmp_path / "a").exists()
    export_flower(read_config(None, ()), tmp_path / "a", out=tmp_path, nodes=2)
    with pytest.raises(RunError, match="holds files already"):
        export_flower(read_config(None, ()), tmp_path / "a", out=tmp_path, nodes=2)
    make_keys(tmp_path / "keys", host="example.org", nodes=1)
    assert (tmp_path / "keys" / "node-0.key").stat().st_mode & 0o077 == 0, "private keys are private"
    with pytest.raises(RunError, match="holds files already"):
        make_keys(tmp_path / "keys", host="example.org", nodes=1)
