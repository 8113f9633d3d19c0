"""Which pairs and held-out prompts a run's data have, as hashes, so that they are told from others without the data.

No text is kept.
A hash tells whoever has a text whether the run held it, so it belongs to the private files of ``clients/``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.schema import Pair, Text
from fedvpa.data.splits import prompt_name

HASH_BYTES = 8
"""With a million pairs held, a new pair is taken for one of them with a chance of 5e-14. Chosen by us."""


class HeldRow(NamedTuple):
    """A pair as its row of the table has it.

    Attributes:
        pair: A hash of prompt and responses.
        group: Its group; None without one.
        prompt: A hash of the prompt.
    """

    pair: int
    group: str | None
    prompt: int


FORGOTTEN = HeldRow(0, None, 0)
"""In the place of a row whose user was forgotten, so that the others keep their numbers."""


@dataclass(frozen=True, repr=False)
class HeldPairs:
    """The pairs of a run's data: prompt and both responses, whichever was chosen, and the group of each.

    Attributes:
        groups: Hash of a pair → the groups under which the data hold it; None among them where it has no group.
        prompts: Hashes of the prompts that no policy trains on; see
            :attr:`fedvpa.data.client_pairs.ClientPairs.held_out_prompts`.
        rows: The pair in each row of the run's table, so that those of one user can be told from the others'; empty
            where an earlier release did not keep them.
    """

    groups: Mapping[int, frozenset[str | None]]
    prompts: frozenset[int]
    rows: tuple[HeldRow, ...] = ()

    __repr__ = short_repr

    @classmethod
    def of(cls, pairs: ClientPairs) -> Self:
        """Of the data of a run."""
        rows = tuple(HeldRow(content_hash(pair), pair.group, prompt_hash(pair.prompt)) for pair in pairs.table.pairs)
        return cls(_groups(rows), frozenset(_hash(name) for name in pairs.held_out_prompts), rows)

    @classmethod
    def load(cls, tensors: Tree, names: Iterable[str]) -> Self:
        """What :meth:`tensors` gave, and the names of the groups."""
        known: tuple[str | None, ...] = (*names, None)  # the code of no group is -1
        keys = zip(tensors["keys"].tolist(), tensors["groups"].tolist(), strict=True)
        groups = _groups(HeldRow(key, known[code], 0) for key, code in keys)
        rows = tensors["rows"].tolist() if "rows" in tensors else []
        held = tuple(HeldRow(pair, known[code], prompt) for pair, code, prompt in rows)
        return cls(groups, frozenset(tensors["prompts"].tolist()), held)

    def tensors(self) -> tuple[Tree, list[str]]:
        """Hashes of pairs, the group's number of each (-1 for none), hashes of prompts, rows; and the groups' names.

        All but the rows are sorted, so that equal runs have equal files.
        """
        names = sorted({group for groups in self.groups.values() for group in groups if group is not None})
        code = {name: row for row, name in enumerate(names)}
        rows = sorted(
            (key, -1 if group is None else code[group]) for key, groups in self.groups.items() for group in groups
        )
        table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        prompts = torch.tensor(sorted(self.prompts), dtype=torch.int64)
        found = {"keys": table[:, 0], "groups": table[:, 1], "prompts": prompts}
        if self.rows:
            held = [(row.pair, -1 if row.group is None else code[row.group], row.prompt) for row in self.rows]
            found["rows"] = torch.tensor(held, dtype=torch.int64)
        return found, names

    def only(self, rows: Collection[int]) -> HeldPairs:
        """What is left where these rows of the table alone are kept; the others' hashes are gone.

        Args:
            rows: Numbers of rows, where ``rows`` of this are known.
        """
        left = tuple(held if number in rows else FORGOTTEN for number, held in enumerate(self.rows))
        kept = [held for held in left if held != FORGOTTEN]
        return HeldPairs(_groups(kept), self.prompts & {held.prompt for held in kept}, left)

    def holds(self, pair: Pair) -> bool:
        """Whether the data hold the same prompt and responses under the same group, or where one of both has none.

        Under another group the same texts may have the other label: that is a new pair.
        """
        groups = self.groups.get(content_hash(pair), frozenset[str | None]())
        return bool(groups) and (pair.group is None or None in groups or pair.group in groups)

    def holds_out(self, prompt: Text) -> bool:
        """Whether the prompt is one of the data's that no policy trains on."""
        return prompt_hash(prompt) in self.prompts


def _groups(rows: Iterable[HeldRow]) -> dict[int, frozenset[str | None]]:
    found: dict[int, set[str | None]] = {}
    for row in rows:
        found.setdefault(row.pair, set()).add(row.group)
    return {pair: frozenset(groups) for pair, groups in found.items()}


def prompt_hash(prompt: Text) -> int:
    """A hash of a prompt."""
    return _hash(prompt_name(prompt))


def content_hash(pair: Pair) -> int:
    """A hash of prompt and responses, in whichever order the responses stand."""
    return _hash("\x1e".join(map(prompt_name, (pair.prompt, *sorted((pair.chosen, pair.rejected), key=prompt_name)))))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest(), signed=True)
