"""The features of a table are added to the cache: chunk by chunk, what is missing, kept every few seconds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from fedvpa.core.errors import StorageError
from fedvpa.core.processes import helped
from fedvpa.core.progress import track
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.backbone import load_backbone
from fedvpa.features.cache import CacheFolder
from fedvpa.features.config import FeatureConfig
from fedvpa.features.keys import Keys, find, response_keys
from fedvpa.features.reader import Read, Reader
from fedvpa.features.store import stored
from fedvpa.features.work import compute

CHECKPOINT_SECONDS = 5.0
"""A kill costs at most so much computing; chosen by us because flushing to disk then takes under 1% of the time."""

CHUNK = 1 << 13
"""Pairs that are tokenised at once. Chosen by us: their tokens take some ten megabytes, and with lengths as in HH-RLHF
batches of 16,384 tokens are padded by 1.2%, where those of a sorted table of any size are by 0.1%."""


@dataclass(frozen=True, slots=True, repr=False)
class Filling:
    """A table whose features go to a folder of the cache.

    Attributes:
        folder: The folder.
        table: The pairs.
        keys: Theirs.
        reader: The language model.
        config: How it reads.
    """

    folder: CacheFolder
    table: PairTable
    keys: Keys
    reader: Reader
    config: FeatureConfig

    __repr__ = short_repr

    @property
    def dtype(self) -> np.dtype[Any]:
        """The precision on disk."""
        return np.dtype(self.config.storage)

    def run(self, what: str) -> None:
        """Add whatever is missing.

        Args:
            what: The name of the work, for the progress bar.

        Raises:
            ModelError: If the model gives a feature that is not finite or does not fit, or the folder is damaged.
            StorageError: If the disk has no room.
        """
        self.folder.create(self.reader.facts)
        _, first = np.unique(self.keys, return_index=True)
        first = np.sort(first)
        missing = first[self.folder.missing(self.keys[first])]
        self._check_room(missing)
        for _ in track(self._all(missing), what, len(missing), unit="pairs"):
            pass

    def _check_room(self, missing: Int[np.ndarray, " missing"]) -> None:
        """A full disk shows before the work and not after it."""
        responses = len(np.unique(response_keys(self.keys[missing])))
        needed = responses * self.reader.facts.dimension * self.dtype.itemsize
        free = shutil.disk_usage(self.folder.path).free
        if needed > free:
            raise StorageError(
                str(self.folder.path),
                f"the features of {responses:,} responses need {needed / 1e6:,.0f} MB",
                free=free,
                fix="Set features.cache_dir or FEDVPA_CACHE to a folder on another disk.",
            )

    def _all(self, missing: Int[np.ndarray, " missing"]) -> Iterator[int]:
        """Add the pairs of these rows; yields as many numbers as pairs are done.

        A chunk is a part of the table and not of what is missing, so that a resumed extraction makes the same batches.
        """
        for start in range(0, len(self.table), CHUNK):
            rows = missing[slice(*np.searchsorted(missing, [start, start + CHUNK]))]
            left = rows[self.folder.missing(self.keys[rows])] if len(rows) else rows
            yield from range(len(rows) - len(left))  # those that another process has added in the meantime
            if len(left):
                yield from self._chunk(left)

    def _chunk(self, rows: Int[np.ndarray, " rows"]) -> Iterator[int]:
        """The same for rows that are tokenised at once."""
        pairs = [self.table.pairs[row] for row in rows.tolist()]
        read = self.reader.read(pairs)
        known = find(self.folder.content().texts, read.keys)
        wanted, done, shown = int((known < 0).sum()), 0, 0
        for count in self._texts(pairs, read, rows, known):
            done += count
            yield from range(shown, len(rows) * done // wanted)
            shown = len(rows) * done // wanted
        places = find(self.folder.content().texts, read.keys)
        read.records["texts"] = places[read.records["texts"]]
        self.folder.add_pairs(read.records, read.reasons)
        yield from range(shown, len(rows))

    def _texts(
        self, pairs: Sequence[Pair], read: Read, rows: Int[np.ndarray, " rows"], known: Int[np.ndarray, " texts"]
    ) -> Iterator[int]:
        """Compute and keep the responses that are not known; yields how many a batch had.

        Other processes of this command compute their share of the batches; only this one keeps features.
        """
        budget = self.config.batch_budget(self.reader.backbone.device.type)
        texts: list[NDArray[np.integer]] = []
        vectors: list[NDArray[np.floating]] = []

        def keep() -> None:
            if texts:
                self.folder.add_texts(read.keys[np.concatenate(texts)], np.concatenate(vectors))
                texts.clear()
                vectors.clear()

        last = time.monotonic()
        try:
            with helped(help_with_texts, self.config, pairs, known, budget):
                for numbers, features in compute(self.reader.plan(read, known), self.reader.backbone, budget):
                    vectors.append(stored(features, rows[read.first[numbers]], self.dtype))
                    texts.append(numbers)
                    if time.monotonic() - last >= CHECKPOINT_SECONDS:
                        keep()
                        last = time.monotonic()
                    yield len(numbers)
        finally:
            keep()


def help_with_texts(
    config: FeatureConfig, pairs: Sequence[Pair], known: Int[np.ndarray, " texts"], tokens_per_batch: int
) -> None:
    """What the other processes do while one fills the cache: their share of the batches.

    Args:
        config: The model and how to read it.
        pairs: What is tokenised at once.
        known: Where the features of their responses lie; negative where they are wanted.
        tokens_per_batch: Upper bound of padded tokens per batch.
    """
    reader = _reader(config)
    for _ in compute(reader.plan(reader.read(pairs), known), reader.backbone, tokens_per_batch):
        pass


_readers: dict[str, Reader] = {}


def _reader(config: FeatureConfig) -> Reader:
    """The model of a process that helps, loaded when it is first asked; one is kept, as tables come chunk by chunk."""
    name = config.model_dump_json()
    if name not in _readers:
        _readers.clear()
        _readers[name] = Reader.of(load_backbone(config), config)
    return _readers[name]
