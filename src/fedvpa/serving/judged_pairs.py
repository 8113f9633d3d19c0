"""Pairs that users have judged: read from rows, turned into features, and into what z is inferred from.

A tie says that the user finds neither response better. It counts as the pair in both orders with half its weight each:
the likelihood is then (σ(m)·σ(−m))^½ for a margin m, half a win each in Bradley and Terry's model, which is largest at
m = 0 and as steep around it as a pair with a winner. That is how ratings of chess and of language models treat draws.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import DataError
from fedvpa.data.columns import ColumnMap
from fedvpa.data.report import say_report
from fedvpa.data.rows import read_pairs
from fedvpa.data.schema import PairTable, Text
from fedvpa.data.shards import Shard
from fedvpa.features.backbone import LoadedOnce
from fedvpa.features.extract import extract
from fedvpa.features.responses import features_of
from fedvpa.models.encoding import SAME_TOKENS
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_pairs import scaling_of
from fedvpa.runs.prepare import noted
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from fedvpa.serving.profile_store import StoredPair

SIDES = {"chosen": "response_a", "rejected": "response_b"}
"""Our names of two responses → their names where a column says who won, as ``fedvpa export candidates`` writes them."""


def judged_rows(rows: Iterable[Mapping[str, Any]]) -> PairTable:
    """Labelled pairs from rows in memory, ties included; of no rows, an empty table.

    A row has ``prompt``, ``chosen`` and ``rejected`` and maybe ``winner`` (A is ``chosen``), or ``prompt``,
    ``response_a``, ``response_b`` and ``winner``; and maybe ``weight``.

    Raises:
        DataError: If a row cannot be used, with its number.
    """
    given = [dict(row) for row in rows]
    if not given:
        return PairTable(())
    sides = SIDES if any("response_a" in row for row in given) else {}
    columns = ColumnMap(**sides, **({"winner": "winner"} if any("winner" in row for row in given) else {}))
    shard = Shard("", "pairs", None, iter(enumerate(given, start=1)))
    return read_pairs([shard], columns, what="pairs", strict=True, ties=True)


def context_of(pairs: Pairs, ties: Sequence[bool]) -> Pairs:
    """What z is inferred from: pairs with a winner as they are, and ties in both orders with half their weight each.

    Args:
        pairs: All of them.
        ties: Which are ties.
    """
    half = torch.tensor(ties, dtype=torch.bool)
    first = Pairs(pairs.chosen, pairs.rejected, torch.where(half, 0.5 * pairs.weight, pairs.weight), pairs.slot)
    second = first.rows(np.flatnonzero(np.asarray(ties, dtype=bool))).swapped()
    return Pairs(
        torch.cat([first.chosen, second.chosen]),
        torch.cat([first.rejected, second.rejected]),
        torch.cat([first.weight, second.weight]),
        torch.cat([first.slot, second.slot]),
    )


class PairReader:
    """A run's selector with its language model, which is loaded when a text is first read.

    Attributes:
        selector: The selector.
        features: How its language model is read.
        scaling: From features to the selector's.

    Args:
        run: The run, for messages.
        config: Of the run.
        selector: Its selector.

    Raises:
        RunError: If the selector holds no scaling of features.
    """

    def __init__(self, run: RunFolder, config: RunConfig, selector: Selector) -> None:
        self.selector, self.features = selector, config.features
        self.scaling = scaling_of(selector, run)
        self._backbone = LoadedOnce(config.features)
        self._lock = threading.Lock()
        self._read_as = hashlib.sha256(selector.feature_key.encode()).hexdigest()[:16]

    def read(self, table: PairTable) -> list[StoredPair]:
        """Pairs with their features, without those that the language model cannot tell apart.

        Raises:
            DataError: If rows in memory hold such a pair, or a file no other.
        """
        if not table.pairs:
            return []
        with self._lock:
            store = extract(table, self._backbone(), self.features)
        table = noted(table, store.report)
        equal = set(store.report.equal_rows)
        if len(equal) == len(table):
            raise DataError(f"None of the {len(table)} pairs can be used: {SAME_TOKENS}.", fix="Give other pairs.")
        say_report(table.report, "pairs")
        both = np.stack([np.asarray(store.chosen), np.asarray(store.rejected)], axis=1).astype(np.float32)
        return [
            StoredPair(pair, both[row].tobytes(), self._read_as)
            for row, pair in enumerate(table.pairs)
            if row not in equal
        ]

    def renewed(self, pairs: Sequence[StoredPair]) -> list[StoredPair]:
        """The pairs, with features computed anew where they are of another language model.

        Raises:
            DataError: If this language model cannot tell the responses of a pair apart.
        """
        old = [row for row, one in enumerate(pairs) if one.read_as != self._read_as]
        if not old:
            return list(pairs)
        table = PairTable(tuple(pairs[row].pair for row in old))
        read = self.read(table)
        if len(read) < len(old):
            raise DataError(
                f"{len(old) - len(read)} of the profile's pairs have two responses that the language model of this run "
                "cannot tell apart.",
                fix="Serve the profile with the run that it was made with, or delete it.",
            )
        fresh = dict(zip(old, read, strict=True))
        return [fresh.get(row, one) for row, one in enumerate(pairs)]

    def context(self, pairs: Sequence[StoredPair]) -> Pairs:
        """What z is inferred from. Of nothing it is one pair of weight 0."""
        if not pairs:
            width = len(self.scaling.standardiser.mean)
            nothing = self.scaling(np.zeros((1, width), dtype=np.float32))
            return Pairs(nothing, nothing, torch.zeros(1), torch.ones(1))
        both = np.stack([np.frombuffer(one.features, dtype=np.float32).reshape(2, -1) for one in pairs])
        chosen, rejected = self.scaling(both[:, 0]), self.scaling(both[:, 1])
        weight = torch.tensor([one.pair.weight for one in pairs], dtype=chosen.dtype)
        return context_of(Pairs(chosen, rejected, weight, torch.ones_like(weight)), [one.pair.tie for one in pairs])

    def scaled(self, prompt: Text, responses: Sequence[str]) -> Float[Tensor, "n d"]:
        """Scaled features of responses to one prompt.

        Raises:
            DataError: If there is none, or a text cannot be read.
        """
        with self._lock:
            raw = features_of([prompt] * len(responses), list(responses), self._backbone(), self.features)
        return self.scaling(raw.numpy())
