"""A run directory: where its files lie, its configuration, its history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from fedvpa.core.config import flat
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import (
    output_folder,
    read_own_lines,
    read_own_object,
    read_own_text,
    user_path,
    write_json,
    write_text,
)
from fedvpa.core.options import option
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.runs.config import RunConfig, dump, read_config, with_overrides
from fedvpa.runs.earlier import RUN_VERSIONS, as_today

SCHEMA_LINE = "# schema_version: "
"""The first line of ``config.yaml``: a comment, so that the file can be given to ``--config`` as it is."""

FOLDERS = ("policy", "selector", "clients", "checkpoints", "figures")
FILES = (
    "config.yaml",
    "environment.json",
    "history.jsonl",
    "scores.jsonl",
    "metrics.json",
    "audit.json",
    "forgotten.json",
    "report.html",
    "pool.jsonl",
)
"""What a run writes, and all that ``overwrite`` removes. Profiles stay: they are users', and are inferred again."""

TRAINED = (
    *("method", "partition", "selector", "local", "variational", "biscuit", "lore", "eb", "server", "engine"),
    "privacy",
)
"""The sections that a trained run cannot change any more; the others say where things are, or are stage 2's."""


@dataclass(frozen=True)
class RunFolder:
    """The directory of one run.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Self:
        """The directory of a run that is there.

        Raises:
            RunError: If there is none, or one of another schema version.
        """
        folder = cls(user_path(path))
        if not folder.config_file.is_file():
            raise RunError(
                "holds no run (config.yaml is missing).", fix="Give the folder that train wrote.", where=str(path)
            )
        if folder.version not in RUN_VERSIONS:
            fix = "Use the fedvpa that wrote it, or train again."
            check_version("run", folder.version, where=str(folder.config_file), fix=fix)
        return folder

    @classmethod
    def at(cls, path: str | PathLike[str]) -> Self:
        """The place of a run that may not be there yet.

        Raises:
            RunError: If something else than a folder is there.
            StorageError: If no file can be written there.
        """
        return cls(output_folder(path, "a run"))

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def locked(self, wait: float = 0.0) -> Iterator[Self]:
        """Hold the run directory, so that no two programs write to it; the system frees it when its holder dies.

        Args:
            wait: Seconds to wait for another holder.

        Raises:
            RunError: If another program still holds it then.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            fix = "Stop it, or wait until it has ended, or choose another folder."
            raise RunError("another program writes to it.", fix=fix, where=str(self)) from error
        try:
            yield self
        finally:
            lock.release()

    @property
    def version(self) -> str | None:
        """The schema version of the configuration; None where it says none."""
        first = read_own_text(self.config_file).partition("\n")[0]
        return first.removeprefix(SCHEMA_LINE) if first.startswith(SCHEMA_LINE) else None

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        """A line per round."""
        return self.path / "history.jsonl"

    @property
    def checkpoint(self) -> Path:
        """All that is needed to go on with stage 1."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def selector(self) -> Path:
        """The trained selector."""
        return self.path / "selector"

    @property
    def clients(self) -> Path:
        """The "devices" of a simulation; never to be shared."""
        return self.path / "clients"

    @property
    def users(self) -> Path:
        """See :mod:`fedvpa.runs.users`."""
        return self.clients / "users.safetensors"

    @property
    def profiles(self) -> Path:
        """The profiles of the users that it serves; see :mod:`fedvpa.serving.profile_store`. Never to be shared."""
        return self.path / "profiles" / "profiles.sqlite3"

    @property
    def pool(self) -> Path:
        """Pairs of responses to public prompts that users can be asked about."""
        return self.path / "pool.jsonl"

    @property
    def audit(self) -> Path:
        """What ``fedvpa audit`` found."""
        return self.path / "audit.json"

    @property
    def keys(self) -> Path:
        """Hashes of the keys of its server; see :mod:`fedvpa.serving.keys`."""
        return self.path / "profiles" / "keys.json"

    @property
    def members(self) -> Path:
        """The users that the training of a deployment with noise began with."""
        return self.checkpoint.with_name("members.json")

    @property
    def forgotten(self) -> Path:
        """Says that users of the run were forgotten, and nothing of them; see :mod:`fedvpa.runs.forgetting`."""
        return self.path / "forgotten.json"

    def check_whole(self, purpose: str, fix: str = "") -> None:
        """Raise RunError where users were forgotten, for a purpose that needs all whom the run was trained on.

        Args:
            purpose: What cannot be done, as the end of "so …".
            fix: What else can be done; by default to train again.
        """
        if self.forgotten.is_file():
            raise RunError(
                f"does not hold all users any more whom it was trained on (fedvpa forget took some out), so {purpose}.",
                fix=fix or "Train another run, on data without the rows of those users.",
                where=str(self),
            )

    @property
    def policy(self) -> Path:
        """What stage 2 left."""
        return self.path / "policy"

    def policy_history(self, name: str) -> Path:
        """A line per step, or round, of the training of one policy.

        Args:
            name: A true group, or empty for the one policy of all.
        """
        return self.policy / f"history{f'-{name}' if name else ''}.jsonl"

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.exists()

    def config(self, overrides: Sequence[str] = ()) -> RunConfig:
        """The configuration of the run, with overrides applied; that of an earlier release under today's names.

        Raises:
            ConfigError: As ``read_config``, and for an override of what the run was trained with.
        """
        fixed = next((key for key in overrides if key.partition("=")[0].partition(".")[0] in TRAINED), None)
        if fixed is not None:
            raise ConfigError(
                f"{fixed.partition('=')[0]} cannot be changed: the run was trained with what it says.",
                fix="Leave it out, or train another run.",
            )
        config = as_today(read_config(self.config_file), self.version or "", str(self))
        return with_overrides(config, overrides)

    def trained_clients(self) -> set[str]:
        """The clients that took part in a round, by the history; empty where a method needs no federation."""
        rounds = read_own_lines(self.history) if self.history.is_file() else []
        return {name for line in rounds for name in line["cohort"] if name not in line["dropped"]}

    def clients_trained(self) -> int:
        """How many clients there were: by the files, or, where noise hides who took part, all of the federation."""
        noise = self.metrics().get("privacy")
        return int(noise["clients"]) if noise else len(self.trained_clients())

    def begin(self, config: RunConfig, environment: Mapping[str, Any]) -> None:
        """Remove an earlier run and write the files that a run starts with."""
        self.remove()
        write_text(self.config_file, f"{SCHEMA_LINE}{VERSIONS['run']}\n{dump(config)}")
        write_json(self.path / "environment.json", environment)
        write_text(self.history, "")

    def lengthen(self, config: RunConfig) -> None:
        """Write the configuration of a run that goes on to more rounds than it was begun with.

        Raises:
            RunError: If a policy stands on its selector, which would not be the one that it was aligned with.
        """
        if self.policy.is_dir():
            raise RunError(
                "holds a policy that was aligned with its selector as it is.",
                fix="Move its policy folder away first, or train another run.",
                where=str(self),
            )
        self.audit.unlink(missing_ok=True)  # of the shorter training
        write_text(self.config_file, f"{SCHEMA_LINE}{VERSIONS['run']}\n{dump(config)}")

    def remove(self) -> None:
        """Remove an earlier run, checkpoints first: a new run that is killed early must not go on from the old one's.

        Files that no run writes stay.
        """
        for name in reversed(FOLDERS):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)

    def check_config(self, config: RunConfig, saved: Mapping[str, Any]) -> None:
        """Compare the configuration with the one in a checkpoint.

        A key that the release which wrote the checkpoint did not have counts as its default, as it does when the run's
        configuration is read.

        Raises:
            RunError: Naming the first key that differs.
        """
        whole = RunConfig.parse(saved)
        now, then = (dict(flat(one.model_dump(mode="json"))) for one in (config, whole))
        for key in sorted(now.keys() | then.keys()):
            if now.get(key) != then.get(key):
                raise RunError(
                    f"says {key} = {now.get(key)}, and the checkpoint was made with {then.get(key)}.",
                    fix="Restore it, or start another run.",
                    where=str(self.config_file),
                )

    def lines(self) -> list[dict[str, Any]]:
        """The history."""
        return read_own_lines(self.history)

    def metrics(self) -> Mapping[str, Any]:
        """What training found; empty while it is not finished.

        Raises:
            RunError: If the file is damaged.
        """
        path = self.path / "metrics.json"
        return read_own_object(path) if path.is_file() else {}

    def rewind(self, rounds: int) -> list[dict[str, Any]]:
        """Keep the history of the rounds that a checkpoint holds; what a killed run wrote after them is dropped.

        Raises:
            RunError: If one of those lines is missing or broken.
        """
        kept = read_own_lines(self.history, rounds) if self.history.is_file() else []
        if [line.get("round") for line in kept] != list(range(rounds)):
            raise RunError(
                f"the history does not hold the {rounds} rounds of the checkpoint.",
                fix=f"Restore it, or start again with {option('overwrite', 'True')}.",
                where=str(self.history),
            )
        write_text(self.history, "".join(json.dumps(line) + "\n" for line in kept))
        return kept
