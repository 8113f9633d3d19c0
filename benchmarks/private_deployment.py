"""A deployment with noise on real processes, killed in the middle and started again: what then holds.

A SuperLink with TLS and three SuperNodes with keys of their own on loopback, each with three users of the bundled world
and a folder that is all of its disk, as docs/flower.md says it. After its first round SuperLink and server are killed;
both are started again and go on. Checked, once without secure aggregation and once with it: the key and the lines of
history that were there stay, every round is there once, ε is that of all rounds, no file but ``privacy.key`` has the
key, and neither a log of the server nor its run directory, but for ``members.json``, has the id of a user.

    python benchmarks/private_deployment.py
    python benchmarks/private_deployment.py --rounds 3 --ways secure

One JSON object is printed. The processes are those of the tests (``tests/flower_processes.py``); needs
``fedvpa[flower,privacy]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _machine import machine_facts
from fedvpa.api.export import export_flower
from fedvpa.core.progress import say
from fedvpa.runs.config import read_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from flower_processes import Processes, history, write_pairs

USERS, NODES = 9, 3

WAYS = {"plain": (), "secure": ("engine.secure_aggregation=true",)}


def deployed(folder: Path, overrides: list[str], rounds: int, limit: float) -> dict[str, Any]:
    """Run a deployment that is killed after its first round, check it, and say what it cost.

    Args:
        folder: Where everything is written.
        overrides: The run.
        rounds: How many rounds it has.
        limit: Seconds that the first round may take.

    Raises:
        RuntimeError: If something does not hold.
    """
    pairs = write_pairs(folder, USERS, NODES)
    app, out = folder / "server" / "app", folder / "server" / "out"
    key = out / "checkpoints" / "privacy.key"
    with Processes(folder) as federation:
        export_flower(read_config(None, overrides), app, out=out, nodes=NODES, deadline=limit)
        federation.superlink()
        federation.register(*range(NODES))
        for number, path in enumerate(pairs):
            federation.node(number, path)
        federation.start("server", "flwr", "run", str(app), "here", "--stream")
        federation.wait_for(lambda: history(out), "the first round ends", limit)
        federation.kill("superlink")
        federation.kill("server")
        before, secret = history(out), key.read_bytes()
        federation.superlink()
        federation.start("again", "flwr", "run", str(app), "here", "--stream")
        federation.wait_for((out / "metrics.json").is_file, "the run ends", limit * rounds)
        logs = federation.log("server") + federation.log("again")
    lines = history(out)
    found = json.loads((out / "metrics.json").read_text())["privacy"]
    server = [path for path in out.rglob("*") if path.is_file() and path.name != "members.json"]
    ids = [f"user-{number:05d}" for number in range(USERS)]
    holds = {
        "every round is there once": [line["round"] for line in lines] == list(range(rounds)),
        "what was there stays": lines[: len(before)] == before,
        "the key stays": key.read_bytes() == secret,
        "epsilon is of all rounds": found["rounds"] == rounds and found["clients"] == USERS,
        "nobody else has the key": not any(has(path, secret, key) for path in folder.rglob("*")),
        "nobody is named": not any(name in logs or has(path, name.encode()) for name in ids for path in server),
    }
    failed = [name for name, so in holds.items() if not so]
    if failed:
        raise RuntimeError(f"{folder}: does not hold: {', '.join(failed)}\n{logs}")
    return {
        "checked": list(holds),
        "rounds_before_the_kill": len(before),
        "rounds": rounds,
        "seconds_of_a_round": [round(line["seconds"], 2) for line in lines],
        "median_seconds": round(statistics.median(line["seconds"] for line in lines), 2),
        "uplink_bytes": lines[-1]["uplink_bytes"],
        "downlink_bytes": lines[-1]["downlink_bytes"],
        "epsilon_released": found["epsilon_released"],
        "epsilon_server": found["epsilon_server"],
        "noise_multiplier": found["noise_multiplier"],
    }


def has(path: Path, secret: bytes, itself: Path | None = None) -> bool:
    """Whether a file, which is not the secret's own, holds it, as it is or in hexadecimal digits."""
    if path == itself or not path.is_file():
        return False
    content = path.read_bytes()
    return secret in content or secret.hex().encode() in content


def main() -> None:
    """Deploy in each way, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--cohort", type=int, default=8, help="Expected users of a round, of nine.")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--limit", type=float, default=1500.0, help="Seconds that a round may take on a busy machine.")
    options = parser.parse_args()
    overrides = [f"server.rounds={options.rounds}", f"engine.cohort={options.cohort}", "local.steps=2"]
    overrides += [f"privacy.epsilon={options.epsilon}", f"privacy.delta={options.delta}"]
    found = {}
    for name in options.ways:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = deployed(Path(folder), [*overrides, *WAYS[name]], options.rounds, options.limit)
        say(f"{name}: {json.dumps(found[name])}")
    print(json.dumps({"machine": machine_facts(), "ways": found}, indent=2))


if __name__ == "__main__":
    main()
