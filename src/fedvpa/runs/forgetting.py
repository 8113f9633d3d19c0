"""What a run directory holds of one user, and how each file is written again without it.

A file is replaced as a whole or not at all. ``users.safetensors`` comes last: it says which pairs were the user's, so
a removal that was killed can be given again and finds the rest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fedvpa.alignment.stage1 import named_latents
from fedvpa.core.files import read_own_object, read_own_text, write_json, write_text
from fedvpa.core.schema import VERSIONS
from fedvpa.core.short_repr import short_repr
from fedvpa.engines.forgetting import clients_in, cut_client, holding
from fedvpa.policy.files import PREFERENCES
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.held import prompt_hash
from fedvpa.runs.users import SPLITS, RunUsers, load_users, save_users
from fedvpa.selector.selector import Selector

LISTS = ("cohort", "dropped", "rejected")
"""The keys of a history's line that name clients."""

ALL_ANSWERS = "the whole file: answers to prompts of users' pairs, and which of them were this user's is not known"


@dataclass(frozen=True)
class Removal:
    """What of a user goes out of one file.

    Attributes:
        file: The file, below the run directory.
        what: What goes.
        carry_out: Writes the file again without it, or removes the file.
    """

    file: str
    what: str
    carry_out: Callable[[], None] = field(repr=False, compare=False)


@dataclass(frozen=True, repr=False)
class Holdings:
    """What a run directory holds of its users.

    Attributes:
        run: The run directory.
        config: Of the run.
    """

    run: RunFolder
    config: RunConfig

    __repr__ = short_repr

    @cached_property
    def users(self) -> RunUsers | None:
        """The users of the run; None where they are on other machines."""
        return load_users(self.run.users) if self.run.users.is_file() else None

    @cached_property
    def known(self) -> frozenset[str]:
        """Everybody whom some file of the run names."""
        found = set() if self.users is None else {client.client_id for client in self.users.partition.clients}
        for path in self._tensor_files():
            found |= clients_in(path)
        for path in self._histories():
            found |= {name for _, line in _lines(path) for names in _lists(line).values() for name in names}
        for path, key in self._records():
            found |= {line[key] for _, line in _lines(path) if line.get(key)}
        return frozenset(found | set(self._members()))

    def removals(self, user: str) -> list[Removal]:
        """All that goes when a user is forgotten, in the order in which it has to go."""
        found = [*self._pictures(), *self._named(user), *self._answers(user), *self._groups(user)]
        for path in self._tensor_files():
            held = holding(path, user)
            what = "private state" if held == "a part" else "the whole file, whose state names the user throughout"
            if held != "nothing":
                found.append(self._removal(path, what, partial(cut_client, path, user)))
        for path in sorted(self.run.checkpoint.parent.glob("refresh-*")):
            found.append(self._removal(path, "the whole file: samples that align --resume alone reads", path.unlink))
        for path in sorted(self.run.path.rglob(".*.tmp")):
            found.append(self._removal(path, "the whole file: what a killed program left", path.unlink))
        if self.users is not None and self._client(user) is not None:
            what = "id, group, posterior, which pairs were held, and their hashes"
            save = partial(save_users, self.run.users, self.users.without(user))
            found.append(self._removal(self.run.users, what, save))
        return found

    def mark(self) -> None:
        """Say in the run directory that users were forgotten, and nothing of them."""
        write_json(self.run.forgotten, {"schema_version": VERSIONS["forgotten"]})

    def _client(self, user: str) -> Any:
        return None if self.users is None else self.users.partition.by_id.get(user)

    def _removal(self, path: Path, what: str, carry_out: Callable[[], None]) -> Removal:
        return Removal(path.relative_to(self.run.path).as_posix(), what, carry_out)

    def _tensor_files(self) -> list[Path]:
        """The files that hold private state, or a state that may name clients."""
        places = (self.run.clients / "clients.safetensors", *self.run.checkpoint.parent.glob("*.safetensors*"))
        return sorted(path for path in places if path.is_file() and not path.name.startswith(("refresh-", ".")))

    def _histories(self) -> list[Path]:
        places = (self.run.history, *self.run.policy.glob("history*.jsonl"))
        return sorted(path for path in places if path.is_file())

    def _records(self) -> list[tuple[Path, str]]:
        """Files with a line for each client, or duel, and the key that names the user."""
        policy = self.run.policy
        places = [(self.run.path / "scores.jsonl", "client_id"), (policy / "outcomes.jsonl", "user_id")]
        places += [(path, "user_id") for path in sorted(policy.glob("path-*.jsonl"))]
        return [(path, key) for path, key in places if path.is_file()]

    def _members(self) -> list[str]:
        path = self.run.members
        return list(read_own_object(path)["members"]) if path.is_file() else []

    def _pictures(self) -> Iterator[Removal]:
        """What shows users or was computed by training on all of them again, and can be made again."""
        for path, what in (
            (self.run.path / "report.html", "the whole page; fedvpa report writes it again"),
            (self.run.path / "figures", "all figures; fedvpa report draws them again"),
            (self.run.audit, "the whole file: attacks on users, this one among them"),
        ):
            if path.is_dir():
                yield self._removal(path, what, partial(shutil.rmtree, path))
            elif path.is_file():
                yield self._removal(path, what, path.unlink)

    def _named(self, user: str) -> Iterator[Removal]:
        """Lines of histories and scores, and the list of members."""
        for path in self._histories():
            if any(user in names for _, one in _lines(path) for names in _lists(one).values()):
                yield self._removal(path, "the id in rounds", partial(_rewrite, path, partial(_unnamed, user=user)))
        for path, key in self._records():
            if key == "client_id" and any(one[key] == user for _, one in _lines(path)):
                yield self._removal(path, "scores", partial(_rewrite, path, partial(_unless, key=key, user=user)))
        members = self._members()
        if user in members:
            left = {"members": [name for name in members if name != user]}
            yield self._removal(self.run.members, "the id", partial(_write_secret, self.run.members, left))

    def _answers(self, user: str) -> Iterator[Removal]:
        """Answers of policies at the user's z, or to prompts that only this user held."""
        policy, own = self.run.policy, self._own_prompts(user)
        for path in [path for path, key in self._records() if key == "user_id"]:
            if own is None:
                yield self._removal(path, ALL_ANSWERS, path.unlink)
                continue
            cut = partial(_unless, key="user_id", user=user, own=own)
            lines = [one for _, one in _lines(path)]
            count = sum(cut(one) is None for one in lines)
            if count:
                what = f"{count} of {len(lines)} duels: at the user's z, or about the user's prompts"
                yield self._removal(path, what, partial(_rewrite, path, cut))
        answers, judging = policy / "answers.jsonl", policy / "judging.json"
        if answers.is_file() and self._client(user) is not None:
            yield self._removal(answers, "the whole file: answers at users' z, in blocks of several", answers.unlink)
        if judging.is_file() and own is None:
            yield self._removal(judging, ALL_ANSWERS, judging.unlink)
        metrics = policy / "metrics.json"
        found = read_own_object(metrics) if metrics.is_file() else {}
        samples = found.get("policy_samples", [])
        kept = [one for one in samples if own is not None and prompt_hash(str(one["prompt"])) not in own]
        if len(kept) < len(samples):
            whole = {**found, "policy_samples": kept}
            yield self._removal(metrics, "answers to the user's prompts", partial(write_json, metrics, whole))

    def _own_prompts(self, user: str) -> frozenset[int] | None:
        """Hashes of the prompts that only this user held; None where all answers may be to such prompts."""
        judging = self.run.policy / "judging.json"
        public = self.config.data.source == "world" or (
            judging.is_file() and read_own_object(judging)["settings"].get("prompt_file")
        )
        client = self._client(user)
        if public or client is None:
            return frozenset()
        assert self.users is not None
        held = self.users.held
        if held is None or not held.rows or self.config.features.template != "plain":
            return None  # which prompts were the user's is not known, or not as they stand in the files
        rows = {one.client_id: {int(row) for part in SPLITS for row in getattr(one, part)} for one in self._clients()}
        own = rows.pop(user)
        others = {held.rows[row].prompt for theirs in rows.values() for row in theirs}
        return frozenset(held.rows[row].prompt for row in own) - others

    def _clients(self) -> Sequence[Any]:
        assert self.users is not None
        return self.users.partition.clients

    def _groups(self, user: str) -> Iterator[Removal]:
        """What stands for the user's group, where it was made from this user alone, or from a mean with the user."""
        client = self._client(user)
        if client is None or client.group is None or not client.seen:
            return
        assert self.users is not None
        after, group = self.users.without(user).seen, client.group
        selector = Selector.from_pretrained(self.run.selector) if self.run.selector.is_dir() else None
        for path in sorted(self.run.policy.rglob(PREFERENCES)):
            named = read_own_object(path)
            if group not in named or (group in after.groups and _is_prototype(named[group], selector)):
                continue
            new = {} if selector is None or group not in after.groups else named_latents(selector, after)
            left = {name: new.get(name, z) if name == group else z for name, z in named.items()}
            if group not in after.groups:
                del left[group]
            what = "the mean z of the user's group, which is that of the others now" if group in left else None
            what = what or f"the preference {group!r}, which was made from this user alone"
            yield self._removal(path, what, partial(write_json, path, left))
        metrics = self.run.path / "metrics.json"
        found = dict(self.run.metrics())
        tables = [key for key in ("rows", "summary") if any(group in row["groups"] for row in found.get(key, ()))]
        if group not in after.groups and tables:
            cut = {key: [_without_group(row, group) for row in found[key]] for key in tables}
            yield self._removal(
                metrics, "the accuracy of a group of this user alone", partial(write_json, metrics, found | cut)
            )


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a file as they stand there, and what they say."""
    return [(line, json.loads(line)) for line in read_own_text(path).split("\n") if line]


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Write a file of lines again: a line that changes anew, one that becomes None not, all others as they stood."""
    kept = list[str]()
    for line, one in _lines(path):
        new = change(one)
        if new is not None:
            kept.append(f"{line if new == one else json.dumps(new)}\n")
    write_text(path, "".join(kept))


def _unnamed(line: dict[str, Any], *, user: str) -> dict[str, Any]:
    """A line of a history whose lists do not name the user."""
    return {**line, **{key: [name for name in names if name != user] for key, names in _lists(line).items()}}


def _lists(line: Mapping[str, Any]) -> dict[str, list[str]]:
    """The lists of clients in a line; a step of DPO has a number under ``rejected``."""
    return {key: line[key] for key in LISTS if isinstance(line.get(key), list)}


def _unless(line: dict[str, Any], *, key: str, user: str, own: frozenset[int] = frozenset()) -> dict[str, Any] | None:
    """A line; None of the user's, and of those about the user's prompts."""
    return None if line[key] == user or (own and prompt_hash(str(line["prompt"])) in own) else line


def _without_group(row: Mapping[str, Any], group: str) -> dict[str, Any]:
    found = {key: row[key] for key in ("groups", "holdout_groups") if key in row}
    return {**row, **{key: {name: one for name, one in of.items() if name != group} for key, of in found.items()}}


def _is_prototype(z: Sequence[float], selector: Selector | None) -> bool:
    return selector is not None and list(z) in selector.prototypes.tolist()


def _write_secret(path: Path, value: Mapping[str, Any]) -> None:
    mode = path.stat().st_mode & 0o777
    write_json(path, value)
    path.chmod(mode)
