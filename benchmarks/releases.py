"""The default method of this release beside that of an earlier one: seconds, bytes, peak memory, in turns.

Each tree trains the same world in a process of its own, with features in the cache; the first training of each fills
the cache and is not counted. Seconds are those of the rounds, as ``history.jsonl`` has them. Prints JSON.

    git worktree add ../earlier 8f4f3be
    python benchmarks/releases.py --earlier ../earlier --clients 100
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _machine import machine_facts

HERE = Path(__file__).resolve().parents[1]

CODE = """
import json, resource, sys
from pathlib import Path
import fedvpa
out, overrides = Path(sys.argv[1]), sys.argv[2:]
fedvpa.train(fedvpa.read_config(overrides=overrides), out)
lines = [json.loads(line) for line in (Path(out) / "history.jsonl").read_text().splitlines()]
total = lambda name: sum(line.get(name, 0) for line in lines)
print(json.dumps({
    "seconds": total("seconds"), "rounds": len(lines), "up": total("uplink_bytes"), "down": total("downlink_bytes"),
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "accuracy": json.loads((Path(out) / "metrics.json").read_text()).get("accuracy"),
}))
"""


def train(tree: Path, out: Path, overrides: list[str], threads: int) -> dict[str, Any]:
    """One training of a tree in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", CODE, str(out), *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{tree} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Train both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--earlier", type=Path, required=True, help="a checkout of the earlier release")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=50, help="pairs per user")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    overrides = ["data.source=world", "data.population=two-groups", f"data.pairs_per_user={options.pairs}"]
    overrides += ["partition.kind=natural", f"partition.clients={options.clients}"]
    trees = {"this": HERE, "earlier": options.earlier.resolve()}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats + 1):
            for name, tree in trees.items():
                result = train(tree, Path(folder) / f"{name}-{repeat}", overrides, options.threads)
                say = f"{name}, {repeat or 'warm-up'}: {json.dumps(result)}"
                print(say, file=sys.stderr, flush=True)
                if repeat:
                    found[name].append(result)
    pairs = list(zip(found["this"], found["earlier"], strict=True))
    ratios = {
        key: {"median": statistics.median(some), "least": min(some), "most": max(some)}
        for key in ("seconds", "up", "down", "peak_mib")
        for some in [[ours[key] / max(theirs[key], 1e-9) for ours, theirs in pairs]]
    }
    print(
        json.dumps({"machine": machine_facts(), "clients": options.clients, "runs": found, "ratios": ratios}, indent=1)
    )


if __name__ == "__main__":
    main()
