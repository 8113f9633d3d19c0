"""The pairs that a user can be asked about: responses to public prompts, of which nobody has said which is better."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.alignment.prompts import public_prompts
from fedvpa.alignment.questions import questions
from fedvpa.core.errors import DataError
from fedvpa.core.files import user_path
from fedvpa.core.options import option
from fedvpa.core.progress import say
from fedvpa.core.seeds import numpy_generator
from fedvpa.core.short_repr import short_repr
from fedvpa.data.columns import ColumnMap
from fedvpa.data.question_table import write_questions
from fedvpa.data.rows import read_pairs
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.shards import Shard, local_shards
from fedvpa.data.text import plain_text
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.prepare import prepare_pairs
from fedvpa.runs.released import released
from fedvpa.runs.stage1 import open_stage1
from fedvpa.selector.pairs import Pairs
from fedvpa.serving.judged_pairs import SIDES, PairReader
from fedvpa.serving.profile_store import plain

POOL = 200
"""Pairs of the default pool, one for each prompt. Chosen by us: with 400, users of the bundled world need no fewer
labels (``benchmarks/onboarding.py``, seed 100)."""

QuestionKey = tuple[Text, frozenset[Text]]
"""What makes two pairs the same question: the prompt and the two responses, in whichever order."""


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """Two responses to a prompt, for a user to choose from.

    Attributes:
        prompt: The prompt.
        first: One response. Which of the two comes first is drawn, so that the place says nothing.
        second: The other one.
        information: What the answer is expected to say about the user's z, in nats; at most log 2.
        left: How many pairs of the pool were not asked yet, this one included.
    """

    prompt: Text
    first: Text
    second: Text
    information: float
    left: int

    __repr__ = short_repr

    def __str__(self) -> str:
        texts = (plain_text(text) for text in (self.prompt, self.first, self.second))
        return "{}\n\nA: {}\n\nB: {}".format(*texts)

    @property
    def key(self) -> QuestionKey:
        """What makes two questions the same."""
        return self.prompt, frozenset((self.first, self.second))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a row that :meth:`fedvpa.serving.profiles.Profiles.add` reads once ``winner`` is A, B or tie."""
        return {
            "prompt": plain(self.prompt),
            "response_a": plain(self.first),
            "response_b": plain(self.second),
            "winner": None,
            "information": self.information,
            "left": self.left,
        }

    def answered(self, winner: str) -> dict[str, Any]:
        """The row of a label: ``A``, ``B`` or ``tie``."""
        return {**self.to_dict(), "winner": winner}


class Pool:
    """The pairs that can be asked, read when they are first asked for.

    Args:
        read: Gives them.
    """

    def __init__(self, read: Callable[[], PairTable]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._found: tuple[PairTable, Pairs] | None = None

    def pairs(self, reader: PairReader) -> tuple[PairTable, Pairs]:
        """The pairs, and their scaled features, which the cache of features keeps: the texts are public.

        Args:
            reader: The selector and how its language model reads.

        Raises:
            DataError: If there are none.
        """
        with self._lock:
            if self._found is None:
                self._found = prepare_pairs(reader.features, self._read(), reader.scaling)
            return self._found


def key_of(pair: Pair) -> QuestionKey:
    """The question that a pair answers."""
    return pair.prompt, frozenset((pair.chosen, pair.rejected))


def open_pool(run: RunFolder, config: RunConfig, file: Path | None) -> Pool:
    """The pairs that a run's users can be asked about.

    Args:
        run: The run.
        config: Its configuration.
        file: A table with ``prompt``, ``response_a`` and ``response_b`` (or ``chosen`` and ``rejected``), such as
            ``fedvpa export candidates`` writes; whatever else it says is not read. By default, on the bundled world,
            pairs of its grammar for its public prompts; elsewhere the base policy's own responses to the prompts of
            ``policy.candidates.prompt_file``, which are sampled once and kept in the run as ``pool.jsonl``.
    """
    if file is not None:
        path = user_path(file)
        return Pool(lambda: _from_file(path))
    if config.data.source == "world" and config.policy.candidates.prompt_file is None:
        return Pool(lambda: _of_world(config))
    return Pool(lambda: _of_run(run, config))


def _of_world(config: RunConfig) -> PairTable:
    from fedvpa.world.generate import user_pairs
    from fedvpa.world.users import POPULATIONS, User

    somebody = User("public", None, POPULATIONS["two-groups"].utilities[0])
    made = user_pairs(somebody, POOL, config.data.seed, pool="train")
    swaps = numpy_generator(config.data.seed, "pool").random(len(made)) < 0.5  # what somebody preferred is not asked
    pairs = []
    for pair, swap in zip(made, swaps.tolist(), strict=True):
        first, second = (pair.rejected, pair.chosen) if swap else (pair.chosen, pair.rejected)
        if first != second:
            pairs.append(Pair(pair.prompt, first, second))
    return PairTable(tuple(pairs))


def _of_run(run: RunFolder, config: RunConfig) -> PairTable:
    """The base policy's own responses to public prompts.

    Raises:
        DataError: If the run knows no public prompts.
    """
    if not run.pool.is_file():
        if config.policy.candidates.prompt_file is None:
            raise DataError(
                "knows no public prompts, so there are no pairs to ask.",
                fix=f"Give a table of pairs, {option('pool', 'FILE')}, or public prompts, one a line: "
                "policy.candidates.prompt_file=FILE.",
                where=str(run),
            )
        stage = released(open_stage1(run, config), config)
        asked = questions(stage, public_prompts(stage)[0][:POOL])
        write_questions(run.pool, [(one.prompt, one.first, one.second) for one in asked], None)
        say(f"the pairs to ask are kept: {run.pool}")
    return _from_file(run.pool)


def _from_file(path: Path) -> PairTable:
    """The pairs of a table, whose labels are not read.

    Raises:
        DataError: If it cannot be read.
    """
    rows = [row for shard in local_shards(path) for row in shard.rows]
    sides = SIDES if any("response_a" in row for _, row in rows) else {}
    shard = Shard("", str(path), None, iter(rows))
    return read_pairs([shard], ColumnMap(**sides, winner=""), what=str(path), strict=False)
