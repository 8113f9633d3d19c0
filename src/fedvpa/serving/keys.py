"""API keys: who may ask, and for which profile.

A key is 256 random bits, so a plain hash of it cannot be inverted by guessing, and no slow one is needed. The file
holds hashes, names and profiles, never a key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from fedvpa.core.errors import ConfigError, RunError, nearest
from fedvpa.core.files import check_folder_name, read_own_object, storing, write_json
from fedvpa.core.schema import VERSIONS, check_version

PREFIX = "fedvpa-"
"""In front of every key, so that one that stands where it should not can be found."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept.

    Attributes:
        name: What its owner calls it.
        digest: SHA-256 of the key, in hexadecimal digits.
        profile: The one profile that it may see; None for all.
        created: When, in UTC.
    """

    name: str
    digest: str
    profile: str | None
    created: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        profile: The one profile that they may see; None for all.
    """

    profile: str | None = None

    def may(self, profile: str) -> bool:
        """Whether they may see this profile."""
        return self.profile is None or self.profile == profile


class Keys:
    """The keys in a file, read again whenever it has changed.

    Args:
        file: May not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._seen: tuple[int, ...] | None = None
        self._kept: Sequence[Key] = ()

    def all(self) -> Sequence[Key]:
        """The keys, oldest first.

        Raises:
            RunError: If the file is damaged.
        """
        try:
            state = self.file.stat()
        except FileNotFoundError:
            self._seen, self._kept = None, ()
            return self._kept
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen != self._seen:
            self._kept, self._seen = self._read(), seen
        return self._kept

    def add(self, name: str, profile: str | None = None) -> str:
        """Make a key.

        Args:
            name: What to call it.
            profile: The one profile that it may see; None for all.

        Returns:
            The key, which is kept nowhere.

        Raises:
            ConfigError: If there is a key of this name.
            DataError: If the name is none.
            StorageError: If the file cannot be written.
        """
        check_folder_name(name, "the name of a key")
        token = PREFIX + secrets.token_urlsafe(32)
        with self._locked():
            keys = list(self.all())
            if any(key.name == name for key in keys):
                raise ConfigError(f"There is a key {name!r} already.", fix="Choose another name, or remove it first.")
            created = datetime.now(UTC).isoformat(timespec="seconds")
            self._write([*keys, Key(name, _digest(token), profile, created)])
        return token

    def remove(self, name: str) -> None:
        """Make a key worthless.

        Raises:
            ConfigError: If there is none of this name.
            StorageError: If the file cannot be written.
        """
        with self._locked():
            keys = list(self.all())
            if all(key.name != name for key in keys):
                known = nearest(name, [key.name for key in keys]) if keys else "There are none."
                raise ConfigError(f"There is no key {name!r}.", fix=known)
            self._write([key for key in keys if key.name != name])

    def caller(self, token: str) -> Caller | None:
        """Who has this key; None for nobody. Takes as long for a wrong key as for a right one."""
        digest, found = _digest(token), None
        for key in self.all():
            if hmac.compare_digest(key.digest, digest):
                found = Caller(key.profile)
        return found

    def _locked(self) -> FileLock:
        with storing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.file.with_suffix(".lock"))

    def _read(self) -> list[Key]:
        saved = read_own_object(self.file)
        check_version("keys", saved.get("schema_version"), where=str(self.file), fix="Make new keys.")
        try:
            return [Key(**entry) for entry in saved["keys"]]
        except (KeyError, TypeError) as error:
            raise RunError("is damaged.", fix="Remove it, and make new keys.", where=str(self.file)) from error

    def _write(self, keys: Sequence[Key]) -> None:
        write_json(self.file, {"schema_version": VERSIONS["keys"], "keys": [asdict(key) for key in keys]})
        with storing(self.file):
            self.file.chmod(0o600)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
