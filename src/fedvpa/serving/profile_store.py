"""Where users' profiles lie: one SQLite file, which a kill or a second process cannot leave half-written.

Every change is one transaction with the write-ahead log and ``synchronous=FULL``: it is on the disk when the call
returns, or it did not happen. Deleted rows are overwritten with zeros (``secure_delete``), and the log, which has the
earlier pages, is emptied. What a file system or a disk keeps of overwritten blocks is beyond it, and so are backups.
SQLite's locks do not hold on network file systems: the file belongs on a local disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedvpa.core.errors import ConfigError, RunError, StorageError
from fedvpa.core.files import storing
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Message, Pair, Text

WAIT = 30.0
"""Seconds to wait for another process that writes. Chosen by us."""

SCHEMA = """
CREATE TABLE profiles (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    selector TEXT NOT NULL,
    posterior BLOB NOT NULL
) STRICT;
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY,
    profile INTEGER NOT NULL REFERENCES profiles(id) ON DELETE CASCADE,
    prompt TEXT NOT NULL,
    chosen TEXT NOT NULL,
    rejected TEXT NOT NULL,
    tie INTEGER NOT NULL,
    weight REAL NOT NULL,
    features BLOB NOT NULL,
    read_as TEXT NOT NULL
) STRICT;
CREATE INDEX pairs_of_profile ON pairs(profile);
"""


class UnknownProfile(ConfigError):
    """There is no profile of that name."""


class ProfileExists(ConfigError):
    """There is a profile of that name already."""


@dataclass(frozen=True, slots=True, repr=False)
class StoredPair:
    """A pair that a user judged.

    Attributes:
        pair: Its texts, weight and whether it is a tie.
        features: Of both responses, as ``float32`` in the machine's order of bytes.
        read_as: Names what they are features of: the language model and how it reads.
    """

    pair: Pair
    features: bytes
    read_as: str

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class StoredProfile:
    """A profile as it is kept.

    Attributes:
        name: Its name.
        created: When it was made, as ISO 8601 in UTC.
        updated: When a pair was last added, or the posterior inferred again.
        selector: Names the selector that the posterior is of.
        posterior: As whoever inferred it wrote it.
        pairs: In the order in which they came.
    """

    name: str
    created: str
    updated: str
    selector: str
    posterior: bytes
    pairs: tuple[StoredPair, ...]

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Inference:
    """What is inferred from all pairs of a profile.

    Attributes:
        selector: Names the selector.
        posterior: Over z.
        pairs: The pairs, those of other features with the present ones.
    """

    selector: str
    posterior: bytes
    pairs: Sequence[StoredPair]

    __repr__ = short_repr


Infer = Callable[[Sequence[StoredPair]], Inference]


class ProfileStore:
    """A file of profiles, for all threads of a process and for several processes.

    Args:
        path: The file; it is made, readable by its owner alone, if it is not there.

    Raises:
        RunError: If the file is none of profiles, is damaged, or has another schema version.
        StorageError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._speaking():
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._prepare()

    def close(self) -> None:
        """Close the file; the log of the last process that closes it is gone then."""
        with self._lock:
            self._connection.close()

    def names(self) -> list[str]:
        """The names of all profiles, sorted."""
        with self._reading() as connection:
            return [name for (name,) in connection.execute("SELECT name FROM profiles ORDER BY name")]

    def read(self, name: str) -> StoredProfile:
        """A profile.

        Raises:
            UnknownProfile: If there is none of that name.
        """
        with self._reading() as connection:
            return self._read(connection, name)

    def create(self, name: str, pairs: Sequence[StoredPair], infer: Infer) -> StoredProfile:
        """Make a profile.

        Args:
            name: Its name.
            pairs: Its pairs.
            infer: Gives the posterior from all pairs.

        Raises:
            ProfileExists: If there is one of that name.
        """
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM profiles WHERE name = ?", (name,)).fetchone():
                raise ProfileExists(f"There is a profile {name!r} already.", fix="Add pairs to it, or delete it first.")
            now = _now()
            connection.execute(
                "INSERT INTO profiles (name, created, updated, selector, posterior) VALUES (?, ?, ?, '', x'')",
                (name, now, now),
            )
            return self._inferred(connection, name, pairs, infer, now)

    def add(self, name: str, pairs: Sequence[StoredPair], infer: Infer) -> StoredProfile:
        """Add pairs to a profile, maybe none, and infer its posterior again.

        Raises:
            UnknownProfile: If there is none of that name.
        """
        with self._writing() as connection:
            return self._inferred(connection, name, pairs, infer, _now())

    def delete(self, name: str) -> None:
        """Delete a profile, so that no byte of it is left in the file or its log.

        Raises:
            UnknownProfile: If there is none of that name.
            StorageError: If another process kept reading for so long that the log could not be emptied; the profile is
                gone, and the log is emptied the next time the file is opened.
        """
        with self._lock:
            with self._writing() as connection:
                connection.execute("DELETE FROM profiles WHERE id = ?", (self._id(connection, name),))
            with self._speaking():
                self._empty_log()

    def _inferred(
        self, connection: sqlite3.Connection, name: str, pairs: Sequence[StoredPair], infer: Infer, now: str
    ) -> StoredProfile:
        """The profile with further pairs and with what is inferred from all; inside a transaction."""
        number, before = self._id(connection, name), self._read(connection, name).pairs
        found = infer([*before, *pairs])
        if tuple(found.pairs) != (*before, *pairs):
            connection.execute("DELETE FROM pairs WHERE profile = ?", (number,))
            before = ()
        rows = [(number, *_row(pair)) for pair in found.pairs[len(before) :]]
        connection.executemany(
            "INSERT INTO pairs (profile, prompt, chosen, rejected, tie, weight, features, read_as) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        connection.execute(
            "UPDATE profiles SET updated = ?, selector = ?, posterior = ? WHERE id = ?",
            (now, found.selector, found.posterior, number),
        )
        return self._read(connection, name)

    def _id(self, connection: sqlite3.Connection, name: str) -> int:
        found = connection.execute("SELECT id FROM profiles WHERE name = ?", (name,)).fetchone()
        if found is None:
            # Who else has a profile is nobody's business, so the message names none.
            raise UnknownProfile(f"There is no profile {name!r}.", fix="The command 'profiles list' names all.")
        return int(found[0])

    def _read(self, connection: sqlite3.Connection, name: str) -> StoredProfile:
        number = self._id(connection, name)
        rows = connection.execute(
            "SELECT prompt, chosen, rejected, tie, weight, features, read_as FROM pairs WHERE profile = ? ORDER BY id",
            (number,),
        )
        pairs = tuple(
            StoredPair(
                Pair(_text(prompt), _text(chosen), _text(rejected), weight=weight, tie=bool(tie)), features, read_as
            )
            for prompt, chosen, rejected, tie, weight, features, read_as in rows
        )
        created, updated, selector, posterior = connection.execute(
            "SELECT created, updated, selector, posterior FROM profiles WHERE id = ?", (number,)
        ).fetchone()
        return StoredProfile(name, created, updated, selector, posterior, pairs)

    def _prepare(self) -> None:
        """Settings of the connection, the tables, and an empty log: a process may have been killed before it was."""
        execute = self._connection.execute
        for setting in ("secure_delete = ON", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
            execute(f"PRAGMA {setting}").fetchall()
        (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StorageError(str(self.path), f"the journal is {mode!r} and not 'wal'", fix="Choose a local disk.")
        with self._writing() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not version and not tables:
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSIONS['profiles']}")
                version = VERSIONS["profiles"]
        check_version(
            "profiles", version, where=str(self.path), fix="Use the fedvpa that wrote it, or give another file."
        )
        execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # busy where another process reads, which is as good

    def _empty_log(self) -> None:
        (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageError(
                f"{self.path}-wal",
                f"another process has read it for {WAIT:.0f} s; the profile is deleted, and its texts stay in this log",
                fix="End that process and open the profiles again, which empties the log.",
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the file, whatever others write."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A change that is made as a whole or not at all; no other process writes meanwhile."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._speaking():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself rolls back where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            fix = "Wait for the process that writes to it, or end it." if "locked" in str(error) else ""
            raise StorageError(str(self.path), str(error), fix=fix) from error
        except sqlite3.DatabaseError as error:
            raise RunError(
                f"holds no profiles that can be read ({error}).", fix="Restore the file.", where=str(self.path)
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row(stored: StoredPair) -> tuple[object, ...]:
    pair = stored.pair
    texts = (json.dumps(plain(text), ensure_ascii=False) for text in (pair.prompt, pair.chosen, pair.rejected))
    return (*texts, int(pair.tie), pair.weight, stored.features, stored.read_as)


def plain(text: Text) -> str | list[dict[str, str]]:
    """A text as JSON has it: a string, or messages."""
    return text if isinstance(text, str) else [{"role": turn.role, "content": turn.content} for turn in text]


def _text(stored: str) -> Text:
    found: str | list[Mapping[str, str]] = json.loads(stored)
    return found if isinstance(found, str) else tuple(Message(turn["role"], turn["content"]) for turn in found)
