"""Users' profiles: what each has labelled, the posterior over z that follows, and which pair to ask them next.

Profiles belong to a run and are bound to its selector by a hash of its files: under another selector a posterior is
inferred again from the pairs that are kept, and that is said. Texts of users and their features are in the profiles'
file alone, and in no cache, so that deleting a profile deletes all of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load, save

from fedvpa.algorithms.registry import make
from fedvpa.core.content import hash_files
from fedvpa.core.errors import ConfigError
from fedvpa.core.files import user_path
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.data.messages import Prompt, as_text, storable_text
from fedvpa.data.schema import PairTable
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_user import shares_of
from fedvpa.runs.stage1 import open_selector
from fedvpa.selector.information import expected_information
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.serving.judged_pairs import PairReader, judged_rows
from fedvpa.serving.pool import Pool, Question, QuestionKey, key_of, open_pool
from fedvpa.serving.profile_store import (
    Inference,
    ProfileExists,
    ProfileStore,
    StoredPair,
    StoredProfile,
    UnknownProfile,
    plain,
)

__all__ = ["Profile", "ProfileExists", "Profiles", "Question", "UnknownProfile"]

NAME = re.compile(r"[^\W_][\w.@+-]{0,99}")
"""What a profile may be called: letters, digits, and ``_ . @ + -`` behind the first of them."""

Rows = Iterable[Mapping[str, Any]] | PairTable
"""Labelled pairs: rows with ``prompt``, ``chosen`` and ``rejected``, or with ``prompt``, ``response_a``,
``response_b`` and ``winner`` (A, B or tie), or a table that was read from a file."""


@dataclass(frozen=True, repr=False)
class Profile:
    """What is known of a user.

    Attributes:
        name: Of the profile.
        pairs: How many pairs it holds, ties included.
        ties: How many of them are ties.
        mean: The z that serves the user, k numbers.
        std: The posterior's standard deviations, k numbers.
        responsibilities: Over the prototypes.
        prototype: The likeliest of them.
        created: When it was made, as ISO 8601 in UTC.
        updated: When a pair was last added, or the posterior inferred again.
        selector: A hash of the selector that it is of.
    """

    name: str
    pairs: int
    ties: int
    mean: Sequence[float]
    std: Sequence[float]
    responsibilities: Sequence[float]
    prototype: int
    created: str
    updated: str
    selector: str

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Profiles:
    """The profiles of a run. Safe for several threads, and for several processes on one file.

    Args:
        store: Where they lie.
        reader: The selector and its language model.
        selector: A hash of the selector.
        personal: Whether the selector's z lies among prototypes.
        pool: Gives the pairs that can be asked.
    """

    def __init__(self, store: ProfileStore, reader: PairReader, selector: str, *, personal: bool, pool: Pool) -> None:
        self._store, self._reader, self._hash = store, reader, selector
        self._personal, self._pool = personal, pool

    @classmethod
    def open(
        cls, run: RunFolder, store: Path | None = None, overrides: Sequence[str] = (), *, pool: Path | None = None
    ) -> Self:
        """The profiles of a run.

        Args:
            run: The run directory, or a release.
            store: Their file; by default ``profiles/profiles.sqlite3`` in the run.
            overrides: Where the language model is now.
            pool: A table of pairs that can be asked; see :func:`fedvpa.serving.pool.open_pool`.

        Raises:
            ConfigError: If the run's method infers no z from a user's pairs, or its selectors are one for each client.
            RunError: If the run holds no trained selector, or the file is none of profiles.
            ModelError: If the language model is not the one that the selector was trained on.
            StorageError: If the file cannot be written.
        """
        config = run.config(overrides)
        selector = open_selector(run, config)
        algorithm = make(config.method, config.method_config)
        if not selector.way.reads_pairs:
            raise ConfigError(
                f"{config.method!r} serves every user alike, so a profile would change nothing.",
                fix="Use a run of a method that infers z, such as fedeb.",
                where=str(run),
            )
        place = run.profiles if store is None else user_path(store)
        files = [run.selector / name for name in ("config.json", "selector.safetensors")]
        return cls(
            ProfileStore(place),
            PairReader(run, config, selector),
            hash_files(files)[:16],
            personal=algorithm.personal,
            pool=open_pool(run, config, pool),
        )

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """The names of all profiles, sorted."""
        return self._store.names()

    def create(self, name: str, pairs: Rows = ()) -> Profile:
        """Make a profile.

        Args:
            name: Letters, digits and ``_ . @ + -``; at most 100 characters.
            pairs: Labelled pairs; of none, the posterior is what is known of anybody.

        Raises:
            ProfileExists: If there is one of that name.
            ConfigError: If it cannot be a name.
            DataError: If a pair cannot be used, with its number.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a profile.",
                fix="Give up to 100 letters and digits; _ . @ + - may stand behind the first.",
            )
        if name in self.names():  # before the language model reads anything; the store asks again
            raise ProfileExists(f"There is a profile {name!r} already.", fix="Add pairs to it, or delete it first.")
        return self._profile(self._store.create(name, self._read(pairs), self._infer))

    def add(self, name: str, pairs: Rows) -> Profile:
        """Add labelled pairs to a profile and infer its posterior again.

        Raises:
            UnknownProfile: If there is none of that name.
            DataError: If a pair cannot be used, with its number.
        """
        self._store.read(name)
        return self._profile(self._store.add(name, self._read(pairs), self._infer))

    def get(self, name: str) -> Profile:
        """A profile, inferred again if it is of another selector.

        Raises:
            UnknownProfile: If there is none of that name.
        """
        return self._profile(self._current(name))

    def delete(self, name: str) -> None:
        """Delete a profile: its pairs, features and posterior, of which no byte stays in the file or its log.

        Raises:
            UnknownProfile: If there is none of that name.
        """
        self._store.delete(name)

    def export(self, name: str) -> dict[str, Any]:
        """All that is kept of a user, for JSON: the profile, and its pairs as rows that :meth:`create` reads.

        Raises:
            UnknownProfile: If there is none of that name.
        """
        stored = self._current(name)
        rows = [
            {
                "prompt": plain(pair.prompt),
                "chosen": plain(pair.chosen),
                "rejected": plain(pair.rejected),
                "weight": pair.weight,
                "winner": "tie" if pair.tie else "A",
            }
            for pair in (one.pair for one in stored.pairs)
        ]
        return {**self._profile(stored).to_dict(), "judged": rows}

    def next(self, name: str | None = None, *, skip: int = 0, without: Collection[QuestionKey] = ()) -> Question | None:
        """The pair whose label is expected to say most about a user's z; None if all of the pool were asked.

        Args:
            name: The user's profile; None for somebody of whom nothing is known.
            skip: Leave out so many of the pairs that say most.
            without: Leave out these (``Question.key``), such as those that the user did not want to answer.

        Raises:
            UnknownProfile: If there is no such profile.
            DataError: If there are no pairs to ask.
        """
        context, posterior, asked = self._known(name)
        table, pairs = self._pool.pairs(self._reader)
        left = [row for row, pair in enumerate(table.pairs) if key_of(pair) not in asked]
        told = expected_information(self._reader.selector, posterior, context, pairs)
        wanted = [row for row in left if key_of(table.pairs[row]) not in without]
        ranked = sorted(wanted, key=lambda row: -float(told[row]))[skip:]
        if not ranked:
            return None
        pair = table.pairs[ranked[0]]
        return Question(pair.prompt, pair.chosen, pair.rejected, float(told[ranked[0]]), len(left))

    def z_of(self, pairs: Rows) -> list[float]:
        """The z of somebody with these labelled pairs, k numbers; nothing is kept.

        Raises:
            DataError: If a pair cannot be used, with its number.
        """
        posterior = self._reader.selector.infer(self._reader.context(self._read(pairs)))
        found: list[float] = posterior.mean.tolist()
        return found

    def rewards(self, name: str | None, prompt: Prompt, responses: Sequence[str]) -> list[float]:
        """What responses to one prompt are worth to a user: E[r(h; z)] under the posterior, in nats.

        Only differences between responses to one prompt mean something.

        Args:
            name: The user's profile; None for somebody of whom nothing is known.
            prompt: A text, or messages.
            responses: The responses.

        Raises:
            UnknownProfile: If there is no such profile.
            DataError: If a text cannot be read.
        """
        _, posterior, _ = self._known(name)
        text = storable_text(as_text(prompt))
        h = self._reader.scaled(text, [str(storable_text(response)) for response in responses])
        found: list[float] = self._reader.selector.rewards(posterior, h).tolist()
        return found

    def _known(self, name: str | None) -> tuple[Pairs, Posterior, set[QuestionKey]]:
        """The labelled pairs of a user, the posterior, and which pairs were asked."""
        if name is None:
            context = self._reader.context(())
            return context, self._reader.selector.infer(context), set()
        stored = self._current(name)
        asked = {key_of(one.pair) for one in stored.pairs}
        return self._reader.context(stored.pairs), _loaded(stored.posterior), asked

    def _current(self, name: str) -> StoredProfile:
        """A profile under this selector."""
        stored = self._store.read(name)
        if stored.selector == self._hash:
            return stored
        say(f"profile {name!r} is of another selector and is inferred again from its {len(stored.pairs)} pairs")
        return self._store.add(name, (), self._infer)

    def _read(self, pairs: Rows) -> list[StoredPair]:
        table = pairs if isinstance(pairs, PairTable) else judged_rows(pairs)
        return self._reader.read(table)

    def _infer(self, pairs: Sequence[StoredPair]) -> Inference:
        current = self._reader.renewed(pairs)
        posterior = self._reader.selector.infer(self._reader.context(current))
        tensors = {"weights": posterior.weights, "means": posterior.means, "log_vars": posterior.log_vars}
        return Inference(self._hash, save({name: leaf.contiguous() for name, leaf in tensors.items()}), current)

    def _profile(self, stored: StoredProfile) -> Profile:
        posterior = _loaded(stored.posterior)
        mean, log_var = posterior.gaussian()
        shares = shares_of(self._reader.selector, posterior, self._reader.context(stored.pairs), self._personal)
        return Profile(
            name=stored.name,
            pairs=len(stored.pairs),
            ties=sum(one.pair.tie for one in stored.pairs),
            mean=mean.tolist(),
            std=(0.5 * log_var).exp().tolist(),
            responsibilities=shares.tolist(),
            prototype=int(shares.argmax()),
            created=stored.created,
            updated=stored.updated,
            selector=stored.selector,
        )


def _loaded(posterior: bytes) -> Posterior:
    tensors = load(posterior)
    return Posterior(tensors["weights"], tensors["means"], tensors["log_vars"])
