"""A server of a run in a process of its own, for benchmarks that ask it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil


@dataclass(frozen=True)
class Started:
    """A server that answers.

    Attributes:
        url: Its address.
        name: Of its model.
        process: In which it runs.
        said: What it wrote to stderr.
    """

    url: str
    name: str
    process: subprocess.Popen[str]
    said: IO[str]

    def memory(self) -> float:
        """Its resident memory, in MB."""
        return round(psutil.Process(self.process.pid).memory_info().rss / 1e6, 1)

    def tracebacks(self) -> int:
        """How many errors of its own it has logged."""
        self.said.seek(0)
        return self.said.read().count("Traceback (most recent call last)")


@contextlib.contextmanager
def started(run: Path, *options: str) -> Iterator[Started]:
    """A server of a run with profiles of its own, ended by SIGTERM.

    Raises:
        RuntimeError: If it does not start, or ends in another way than it should.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "fedvpa", "serve", str(run), "--port", "0", "--json", "--name", "served"]
        command += ["--profiles", f"{folder}/profiles.sqlite3", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            first = process.stdout.readline() if process.stdout else ""
            if not first:
                said.seek(0)
                raise RuntimeError(f"{' '.join(command)} did not start: {said.read()}")
            yield Started(json.loads(first)["address"], "served", process, said)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=90)
        if code:
            raise RuntimeError(f"the server ended with {code}")
