"""A federation of real processes on loopback: a SuperLink with TLS, and SuperNodes with keys of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.deployment.keys import make_keys, make_node_key

BIN = Path(sys.executable).parent
MUST_RUN = ("superlink", "server")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def write_pairs(folder: Path, users: int, nodes: int) -> list[Path]:
    """Users of the bundled world, dealt to nodes, each with a folder; all of them are in ``all.jsonl``."""
    table = load(DataConfig(source="world", population="two-groups", users=users, pairs_per_user=12, seed=3))
    names = sorted({pair.user_id for pair in table.pairs})
    rows = [
        (
            names.index(pair.user_id) % nodes,
            {key: getattr(pair, key) for key in ("user_id", "prompt", "chosen", "rejected")},
        )
        for pair in table.pairs
    ]
    paths = [folder / f"node{number}" / "pairs.jsonl" for number in range(nodes)]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for node, row in rows if node == number))
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for _, row in rows))
    return paths


class Processes:
    """Starts Flower's programs, each machine in a folder of its own, and ends them with the block.

    A machine's home, temporary files, caches and logs are in its folder, so that this is all of its disk. The server is
    in ``server``; a node makes its own key.

    Args:
        folder: Where everything is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.server = folder, free_port(), folder / "server"
        self.keys, self.running = self.server / "keys", dict[str, subprocess.Popen[bytes]]()
        make_keys(self.keys, host="127.0.0.1")
        (self.server / "home").mkdir()
        (self.server / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.keys / "ca.crt"}"\n'
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for started in self.running.values():
            started.terminate()
        for name in list(self.running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.running[name].wait(10)
            self.kill(name)

    def machine(self, number: int) -> Path:
        """The folder of a node's machine."""
        return self.folder / f"node{number}"

    def start(self, name: str, *command: str, machine: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a program in a process group of its own, on the server's machine or another one."""
        disk = machine or self.server
        (disk / "tmp").mkdir(parents=True, exist_ok=True)
        env = {
            **os.environ,
            "HOME": str(disk),
            "TMPDIR": str(disk / "tmp"),
            "FLWR_HOME": str(disk / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "OMP_NUM_THREADS": "1",
            "FEDVPA_CACHE": str(disk / "cache"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        with (disk / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                stdout=log, stderr=log, env=env, cwd=disk, start_new_session=True,
            )  # fmt: skip
        return self.running[name]

    def kill(self, name: str) -> None:
        """SIGKILL for a program and all that it started, as if its machine lost power."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running.pop(name).wait()

    def superlink(self) -> None:
        """Start the SuperLink and wait for its port; it remembers its nodes in a database."""
        files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
        tls = [f"--ssl-{flag}={self.keys / file}" for flag, file in files.items()]
        self.start(
            "superlink", "flower-superlink", "--host=127.0.0.1", f"--port={self.port}", "--enable-supernode-auth",
            "--disable-runtime-dependency-installation", f"--database={self.server / 'superlink.db'}", *tls,
        )  # fmt: skip
        self.wait_for(lambda: listening(self.port), "the SuperLink listens")

    def register(self, *numbers: int) -> None:
        """Let nodes make their keys, and tell the SuperLink the public ones, which is all of them that travels."""
        started = []
        for number in numbers:
            sent = self.keys / f"node{number}.pub"
            shutil.copyfile(make_node_key(self.machine(number)).public, sent)
            started.append(self.start(f"register{number}", "flwr", "supernode", "register", str(sent)))
        for number, process in zip(numbers, started, strict=True):
            assert process.wait(400) == 0, self.log(f"register{number}")

    def node(self, number: int, data: Path, *, name: str = "", ca: Path | None = None, key: Path | None = None) -> None:
        """Start a SuperNode with its own pairs, key and state; under another name it is a machine of its own."""
        machine = self.folder / name if name else self.machine(number)
        key = key or self.machine(number) / "node.key"
        self.start(
            name or f"node{number}", "flower-supernode", f"--root-certificates={ca or self.keys / 'ca.crt'}",
            f"--superlink=127.0.0.1:{self.port}", "--host=127.0.0.1", f"--port={free_port()}",
            f"--auth-supernode-private-key={key}",
            "--node-config", f'data-path="{data}" state-path="{machine / "state"}"', machine=machine,
        )  # fmt: skip

    def flwr(self, *arguments: str) -> None:
        """Run a command of ``flwr`` on the server to its end."""
        name = f"flwr-{arguments[0]}"
        code = self.start(name, "flwr", *arguments).wait(400)
        assert code == 0, self.log(name)

    def log(self, name: str) -> str:
        """What a program has said."""
        found = list(self.folder.glob(f"*/{name}.log"))
        return found[0].read_text(errors="replace") if found else ""

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 300.0) -> None:
        """Wait until something is so, while all programs run; a limit that only a defect reaches."""
        until = time.monotonic() + seconds
        while not condition():
            ended = [name for name, started in self.running.items() if name in MUST_RUN and started.poll() is not None]
            assert not ended, f"{what}: {ended[0]} has ended\n{self.said()}"
            assert time.monotonic() < until, f"{what}: not within {seconds} s\n{self.said()}"
            time.sleep(0.1)

    def said(self) -> str:
        """The end of every log, for a test that fails."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*/*.log")))


def history(out: Path) -> list[dict]:
    """The whole lines of a run's history so far."""
    path = out / "history.jsonl"
    lines: Sequence[str] = path.read_text().split("\n")[:-1] if path.exists() else ()
    return [json.loads(line) for line in lines]
