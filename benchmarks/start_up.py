"""How long the command line takes before it computes anything: help, and input that cannot work.

Each command runs in a process of its own. One run of each comes after one run of each, and the medians are over five
such turns, so that a busy minute of the machine slows all of them alike. Prints JSON: seconds of each command, and its
difference to ``python -c pass``.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from _machine import machine_facts

TURNS = 5

FEDVPA = ("-m", "fedvpa")

COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    "import fedvpa": ("-c", "import fedvpa"),
    "fedvpa --help": (*FEDVPA, "--help"),
    "unknown key": (*FEDVPA, "train", "sever.rounds=3"),
    "wrong --config": (*FEDVPA, "train", "--config", "no.yaml"),
    "wrong data.path": (*FEDVPA, "train", "data.source=table", "data.path=no.jsonl"),
    "wrong run directory": (*FEDVPA, "evaluate", "no", "--pairs", "no.jsonl"),
}
BASELINE = "python -c pass"


def seconds(arguments: tuple[str, ...], folder: str) -> float:
    """Wall-clock seconds of one process.

    Raises:
        RuntimeError: If it ends in another way than with success or an input error.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, check=False)
    taken = time.perf_counter() - start
    expected = 2 if "train" in arguments or "evaluate" in arguments else 0
    if done.returncode != expected:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return taken


def main() -> None:
    """Measure, and print JSON."""
    runs: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for arguments in COMMANDS.values():  # the first time of each compiles and reads from disk
            seconds(arguments, folder)
        for _ in range(TURNS):
            for name, arguments in COMMANDS.items():
                runs[name].append(seconds(arguments, folder))
    medians = {name: median(taken) for name, taken in runs.items()}
    found = {
        "machine": machine_facts(),
        "load": os.getloadavg()[0],
        "turns": TURNS,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "over_python": {
            name: round(value - medians[BASELINE], 3) for name, value in medians.items() if name != BASELINE
        },
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
