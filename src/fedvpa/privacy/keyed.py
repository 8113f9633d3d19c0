"""Coins and noise from a secret key: the same for a round that is run again, and unknown to whoever lacks the key.

Whoever knows a run's seed could repeat its cohorts and take its noise away. So neither follows from the seed. Both
follow from 32 bytes of the operating system's, in a file of mode 0600 beside the server's checkpoint. A round that is
resumed draws the same coins and the same noise, so that nothing is released twice.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import RunError
from fedvpa.core.seeds import Label, entropy

KEY_FILE = "privacy.key"
"""Its name, beside the checkpoint."""

KEY_BYTES = 32


@dataclass(frozen=True, repr=False)
class Key:
    """A secret from which coins and noise follow.

    Attributes:
        secret: 32 bytes.
    """

    secret: bytes

    def __repr__(self) -> str:
        """Nothing of the secret."""
        return "Key(…)"

    @classmethod
    def new(cls) -> Key:
        """From the operating system."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def of_seed(cls, seed: int, *path: Label) -> Key:
        """For a simulation that is to be repeated: no secret to anyone who knows the seed.

        Args:
            seed: Of the run.
            *path: Which of the run's trainings it is for; nothing for stage 1.
        """
        return cls(entropy(seed, "privacy", *path).to_bytes(16, "big") * 2)

    @property
    def name(self) -> str:
        """Says which key it is, and nothing of what it gives."""
        return hashlib.blake2b(self.secret, digest_size=8, person=b"fedvpa-name").hexdigest()

    def uniform(self, round_: int, client_ids: Sequence[str]) -> Float[np.ndarray, " n"]:
        """A number in [0, 1) for each client in a round, independent of every other."""
        start = hashlib.blake2b(round_.to_bytes(8, "big"), digest_size=8, key=self.secret, person=b"fedvpa-coin")
        values = np.empty(len(client_ids), dtype=np.uint64)
        for row, name in enumerate(client_ids):
            one = start.copy()
            one.update(name.encode("utf-8", "surrogatepass"))
            values[row] = int.from_bytes(one.digest(), "big")
        return (values >> np.uint64(11)) * 2.0**-53

    def generator(self, round_: int, purpose: str) -> np.random.Generator:
        """What noise of a round and purpose is drawn from."""
        data = round_.to_bytes(8, "big") + purpose.encode()
        state = hashlib.blake2b(data, digest_size=16, key=self.secret, person=b"fedvpa-noise").digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(state, "big")))


def write_key(path: Path, key: Key) -> None:
    """Write a key to a file that nobody but its owner may read.

    Raises:
        FileExistsError: If there is one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.secret)
        file.flush()
        os.fsync(file.fileno())


def read_key(path: Path) -> Key:
    """The key of a run that goes on.

    Raises:
        RunError: If it is gone or no key: another one would release the round again under other noise.
    """
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"cannot be read ({error.strerror}), and the run's noise and cohorts follow from it.",
            fix="Restore it, or start again with another folder.",
            where=str(path),
        ) from error
    if len(secret) != KEY_BYTES:
        raise RunError(f"holds {len(secret)} bytes and no key.", fix="Restore it.", where=str(path))
    return Key(secret)
