"""Kills a process that writes profiles, again and again, and counts what is lost or half-written.

A child makes profiles and adds and deletes, as fast as it can, and says each change on a pipe once the call has
returned. It is killed (SIGKILL) after a random number of changes and a random part of the next one; the next child goes
on with the same file. After each kill the file is opened and compared: every change that was said must be there, one
that was begun may be there as a whole or not at all, and each profile must hold as many pairs as its posterior is of.
Prints JSON.

    python benchmarks/serving_kills.py --kills 200
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedvpa.data.schema import Pair
from fedvpa.serving.profile_store import Inference, ProfileStore, StoredPair

WORDS = 200
"""Of each text, so that a change needs several pages."""


def changes(seed: int) -> Iterator[tuple[str, str, int]]:
    """An endless list of (verb, profile, pairs), the same for the same seed."""
    rng, counts = np.random.default_rng(seed), dict[str, int]()
    for number in iter(int, 1):
        del number
        name = f"user-{int(rng.integers(7))}"
        verb = "create" if name not in counts else "delete" if rng.random() < 0.15 else "add"
        pairs = 0 if verb == "delete" else int(rng.integers(1, 5))
        counts[name] = counts.get(name, 0) + pairs
        if verb == "delete":
            del counts[name]
        yield verb, name, pairs


def state_after(seed: int, done: int) -> dict[str, int]:
    """Profile → pairs, after so many changes."""
    found: dict[str, int] = {}
    for (verb, name, pairs), _ in zip(changes(seed), range(done), strict=False):
        found[name] = found.get(name, 0) + pairs
        if verb == "delete":
            del found[name]
    return found


def pair(number: int) -> StoredPair:
    """A pair of some size."""
    texts = (" ".join([f"{side}{number}"] * WORDS) for side in ("prompt", "chosen", "rejected"))
    return StoredPair(Pair(*texts), np.zeros((2, 128), dtype=np.float32).tobytes(), "benchmark")


def counted(pairs: Sequence[StoredPair]) -> Inference:
    """A posterior that says how many pairs it is of."""
    return Inference("benchmark", str(len(pairs)).encode(), pairs)


def write(path: Path, seed: int, done: int) -> None:
    """What a child does, until it is killed: a byte on stdout for each change."""
    store = ProfileStore(path)
    for number, (verb, name, pairs) in enumerate(changes(seed)):
        if number < done:
            continue
        new = [pair(each) for each in range(pairs)]
        if verb == "create":
            store.create(name, new, counted)
        elif verb == "add":
            store.add(name, new, counted)
        else:
            store.delete(name)
        os.write(1, b".")


def measure(path: Path, *, kills: int, seed: int) -> dict[str, int | float]:
    """Kill so many children, one after the other.

    Args:
        path: The file of profiles.
        kills: How often.
        seed: Names the changes and the moments.

    Returns:
        ``kills``, ``acknowledged`` (changes that a call returned from), ``unsaid`` (kills that came between a change
        and its byte), ``lost`` (changes that were said and are not there) and ``broken`` (states of the file that are
        no whole number of changes, or that SQLite finds damaged).
    """
    rng, done = np.random.default_rng([seed, 1]), 0
    found: dict[str, int | float] = dict.fromkeys(("kills", "acknowledged", "unsaid", "lost", "broken"), 0)
    for _ in range(kills):
        said = _killed(path, seed, done, int(rng.integers(1, 15)), float(rng.random()))
        found["kills"] += 1
        found["acknowledged"] += said
        now = _state(path)
        if now == state_after(seed, done + said + 1):
            found["unsaid"] += 1
            done += 1
        elif now != state_after(seed, done + said):
            earlier = any(now == state_after(seed, done + before) for before in range(said))
            found["lost" if earlier else "broken"] += 1
            break
        done += said
    return found


def _killed(path: Path, seed: int, done: int, changes_until: int, part: float) -> int:
    """Start a child, kill it within the change after so many; how many it said."""
    arguments = [sys.executable, __file__, "--write", str(path), "--seed", str(seed), "--done", str(done)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said, last, took = 0, time.perf_counter(), 0.0
        while said < changes_until and os.read(child.stdout.fileno(), 1):
            said, took, last = said + 1, time.perf_counter() - last, time.perf_counter()
        while time.perf_counter() < last + part * took:  # too short a time to sleep for
            pass
        child.send_signal(signal.SIGKILL)
        return said + len(child.stdout.read())


def _state(path: Path) -> dict[str, int]:
    """Profile → pairs, as the file has it; raises if the file is damaged or a profile half-written."""
    found = {}
    store = ProfileStore(path)
    try:
        for name in store.names():
            profile = store.read(name)
            whole = int(profile.posterior) == len(profile.pairs)
            found[name] = len(profile.pairs) if whole else -1
    finally:
        store.close()
    check = sqlite3.connect(path)
    try:
        return found if check.execute("PRAGMA integrity_check").fetchone() == ("ok",) else {"damaged": -1}
    finally:
        check.close()


def main() -> None:
    """Kill, or be the child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--done", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write(options.write, options.seed, options.done)
        return
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        found = measure(Path(folder) / "profiles.sqlite3", kills=options.kills, seed=options.seed)
    print(json.dumps({**found, "seconds": round(time.monotonic() - begun, 1), "sqlite": sqlite3.sqlite_version}))


if __name__ == "__main__":
    main()
