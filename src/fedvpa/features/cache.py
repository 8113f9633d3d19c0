"""Features on disk: one folder for each way of reading texts, to which every table adds the responses that are new.

A folder named by the hash of its key (model, layer, pooling, lengths, template, precision) holds

- ``meta.json``: schema version, the parts of the key in clear, and what the language model is;
- ``vectors.bin``: features [responses, d], appended and memory-mapped;
- ``texts.bin``: a key for each of them, of the tokens that were read;
- ``pairs.bin``: for each pair of texts where the features of its responses lie, and what its tokens lost;
- ``progress.json``: how many responses and pairs count, and why pairs cannot be read.

What lies behind these counts does not count: it is what a killed process was writing, and the next one writes over it.
Data are flushed before the counts that name them, and the counts are replaced as a whole. Writers hold a lock only
while they append, so several processes fill a folder at once; a response that another one added in the meantime is not
added again. Readers need no lock, since what counts never changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fedvpa.core.errors import ModelError
from fedvpa.core.files import storing, write_json
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.short_repr import short_repr
from fedvpa.features.keys import KEY_BYTES, Keys, find
from fedvpa.features.records import PAIR, Facts, Reason, Records

META, PROGRESS = "meta.json", "progress.json"
VECTORS, TEXTS, PAIRS = "vectors.bin", "texts.bin", "pairs.bin"
TEXT_KEY = np.dtype(f"S{KEY_BYTES}")
FIX = "Delete its folder."


@dataclass(frozen=True, slots=True, repr=False)
class Content:
    """What a folder holds at one time; memory-mapped and read-only.

    Attributes:
        folder: The folder.
        facts: Of the language model.
        vectors: Features of responses.
        texts: Their keys.
        pairs: Records of pairs.
        reasons: Those that the records number.
    """

    folder: Path
    facts: Facts
    vectors: Float[np.ndarray, "texts d"]
    texts: Keys
    pairs: Records
    reasons: tuple[Reason, ...]

    __repr__ = short_repr

    def records(self, keys: Keys) -> Records | None:
        """The records of pairs; None unless all are there.

        Raises:
            ModelError: If one of them names features or a reason that are not there.
        """
        places = find(self.pairs["key"], keys)
        if len(places) and places.min() < 0:
            return None
        found = self.pairs[places]
        most, last = (int(found[name].max(initial=-1)) for name in ("texts", "reason"))
        if most >= len(self.vectors) or last > len(self.reasons) or int(found["texts"].min(initial=0)) < 0:
            raise ModelError(
                "The feature cache is damaged (a pair names features that are not there).",
                fix=FIX,
                where=str(self.folder / PAIRS),
            )
        return found


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """The folder of one key.

    Attributes:
        path: Where it is; its name is a hash of every part of the key.
        key: Whatever decides the features of a text; ``storage`` is the precision on disk.
    """

    path: Path
    key: Mapping[str, Any]

    @classmethod
    def of(cls, root: Path, key: Mapping[str, Any]) -> CacheFolder:
        """The folder of ``key`` below ``root``, which may not be there yet."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return cls(root / digest[:32], key)

    def read(self) -> Content | None:
        """What the folder holds; None if there is none yet.

        Raises:
            ModelError: If the folder belongs to another key or schema version, or one of its files is damaged.
        """
        meta = self._meta()
        if meta is None:
            return None
        counts = _read_json(self.path / PROGRESS) or {"texts": 0, "pairs": 0, "reasons": []}
        try:
            facts = Facts(**meta["facts"])
            reasons = tuple(Reason(**reason) for reason in counts["reasons"])
            texts, pairs = int(counts["texts"]), int(counts["pairs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"The feature cache is damaged ({error!r}).", fix=FIX, where=str(self.path)) from error
        return Content(
            folder=self.path,
            facts=facts,
            vectors=_mapped(self.path / VECTORS, np.dtype(self.key["storage"]), (texts, facts.dimension)),
            texts=_mapped(self.path / TEXTS, TEXT_KEY, (texts,)),
            pairs=_mapped(self.path / PAIRS, PAIR, (pairs,)),
            reasons=reasons,
        )

    def missing(self, keys: Keys) -> Int[np.ndarray, " missing"]:
        """The places in ``keys`` of the pairs that are not there. Raises as :meth:`read`."""
        content = self.read()
        if content is None:
            return np.arange(len(keys))
        return np.flatnonzero(find(content.pairs["key"], keys) < 0)

    def create(self, facts: Facts) -> None:
        """Make the folder, unless it is there.

        Raises:
            StorageError: If the system refuses.
        """
        with self._appending():
            if not (self.path / META).is_file():
                meta = {"schema_version": VERSIONS["features"], "key": dict(self.key), "facts": asdict(facts)}
                write_json(self.path / META, meta)

    def add_texts(self, keys: Keys, vectors: Float[np.ndarray, "texts d"]) -> None:
        """Add features of responses, and make them count; those that are there already are left out.

        Args:
            keys: Of the responses, each once.
            vectors: Their features, in the precision of the folder.

        Raises:
            ModelError: See :meth:`read`.
            StorageError: If the disk is full.
        """
        with self._appending():
            content = self.content()
            fresh = np.flatnonzero(find(content.texts, keys) < 0)
            _append(self.path / VECTORS, content.vectors, vectors[fresh])
            _append(self.path / TEXTS, content.texts, keys[fresh])
            self._count(len(content.texts) + len(fresh), len(content.pairs), content.reasons)

    def add_pairs(self, records: Records, reasons: Sequence[Reason]) -> None:
        """Add records of pairs whose responses are there, and make them count.

        Args:
            records: Each pair once.
            reasons: Those that ``records`` number.

        Raises:
            ModelError: See :meth:`read`.
            StorageError: If the disk is full.
        """
        with self._appending():
            content = self.content()
            fresh = records[find(content.pairs["key"], records["key"]) < 0]
            known = list(dict.fromkeys([*content.reasons, *reasons]))
            numbers = np.array([0, *(1 + known.index(reason) for reason in reasons)])
            fresh["reason"] = numbers[fresh["reason"]]
            _append(self.path / PAIRS, content.pairs, fresh)
            self._count(len(content.texts), len(content.pairs) + len(fresh), known)

    def content(self) -> Content:
        """As :meth:`read`, of a folder that :meth:`create` made. Also raises ModelError if it was deleted since."""
        content = self.read()
        if content is None:
            raise ModelError(
                "The feature cache was deleted while it was written.", fix="Start again.", where=str(self.path)
            )
        return content

    def _count(self, texts: int, pairs: int, reasons: Sequence[Reason]) -> None:
        progress = {"texts": texts, "pairs": pairs, "reasons": [asdict(reason) for reason in reasons]}
        write_json(self.path / PROGRESS, progress)

    @contextmanager
    def _appending(self) -> Iterator[None]:
        """Hold the lock under which the folder grows; the system frees it when its holder dies."""
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _meta(self) -> dict[str, Any] | None:
        """``meta.json``, checked against the key; None if there is none yet.

        Raises:
            ModelError: If it was written under another schema version or for another key; names what differs.
        """
        meta = _read_json(self.path / META)
        if meta is None:
            return None
        fix = "Delete the folder, or choose another cache_dir."
        version = meta.get("schema_version")
        check_version("features", version, where=f"the feature cache {self.path}", fix=fix, error=ModelError)
        written = meta.get("key", {})
        differing = sorted(name for name in {*self.key, *written} if written.get(name) != self.key.get(name))
        if differing:
            name, wanted = differing[0], self.key.get(differing[0])
            raise ModelError(
                f"The feature cache was written with {name} = {written.get(name)!r}, but {wanted!r} is asked for.",
                fix=fix,
                where=str(self.path),
            )
        return meta


def _append(path: Path, there: NDArray[Any], new: NDArray[Any]) -> None:
    """Write ``new`` behind what counts of a file, and flush it."""
    with (
        storing(path, fix="What was computed before is kept: free some room, and start again."),
        path.open("ab") as file,
    ):
        file.truncate(there.nbytes)
        file.write(np.ascontiguousarray(new).data)
        file.flush()
        os.fsync(file.fileno())


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The part of a file that counts.

    Raises:
        ModelError: If the file is missing or shorter.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    there = path.stat().st_size if path.is_file() else 0
    if there < size:
        raise ModelError(
            f"The feature cache is damaged (the file has {there:,} bytes, and {size:,} belong to it).",
            fix=FIX,
            where=str(path),
        )
    return np.memmap(path, dtype, "r", shape=shape)


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if there is no such file.

    Raises:
        ModelError: If the file is no JSON object.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"The feature cache is damaged ({error}).", fix=FIX, where=str(path)) from error
    if not isinstance(value, dict):
        raise ModelError("The feature cache is damaged (no JSON object).", fix=FIX, where=str(path))
    return value
