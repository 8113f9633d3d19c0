"""Features on disk: one folder per cache key, memory-mapped, resumable, safe against a kill and a second process.

A folder named by the hash of its key holds

- ``meta.json``: schema version, the parts of the key in clear, shape and precision;
- ``chosen.npy`` and ``rejected.npy``: [n, d], rows aligned with the table, full size from the start, so that a full
  disk shows before the work and not after it;
- ``progress.json``: how many rows of the processing order are done and, when all are, the report.

Rows count as done only after they were flushed, so that a kill costs at most the work since the last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedvpa.core.errors import ModelError
from fedvpa.core.files import replacing, write_json
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, Text

META, PROGRESS = "meta.json", "progress.json"
SIDES = ("chosen", "rejected")
ZEROS_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What an extraction did.

    Attributes:
        pairs: Rows of the table.
        dimension: Length of a feature vector.
        kind: ``causal`` or ``encoder``.
        pairs_sharing_prompt: Pairs whose prompt was computed once for both responses.
        obstacle: Why some or all pairs did not share their prompt; empty if all did.
        prompt_tokens: Prompt tokens read, special tokens not counted.
        response_tokens: Response tokens read.
        prompts_truncated: Prompts that lost tokens on the left.
        responses_truncated: Responses (two per pair) that lost tokens on the right.
        equal_rows: Rows whose two responses have the same tokens once they are cut: nobody can learn from them, or be
            scored on them. Those that cannot be read are among them.
        spelling_rows: Rows of which a text spells a control token of the model; it is read as text.
        unreadable_rows: Rows that cannot be read.
        unreadable_reasons: Why, for each of them.
        first_cut: The first row whose prompt was cut, and the first of which a response was; None where there is none.
    """

    pairs: int
    dimension: int
    kind: str
    pairs_sharing_prompt: int
    obstacle: str
    prompt_tokens: int
    response_tokens: int
    prompts_truncated: int
    responses_truncated: int
    equal_rows: tuple[int, ...] = ()
    spelling_rows: tuple[int, ...] = ()
    unreadable_rows: tuple[int, ...] = ()
    unreadable_reasons: tuple[str, ...] = ()
    first_cut: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True, slots=True, repr=False)
class FeatureStore:
    """Features of the chosen and of the rejected responses of a table.

    Attributes:
        chosen: Row i belongs to row i of the table; read-only and memory-mapped where it comes from a cache.
        rejected: The same for the rejected responses.
        report: What the extraction did.
    """

    chosen: Float[np.ndarray, "n d"]
    rejected: Float[np.ndarray, "n d"]
    report: FeatureReport

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.chosen)

    def differences(self, rows: Sequence[int] | NDArray[np.integer] | None = None) -> Float[np.ndarray, "rows d"]:
        """Δh = h(chosen) − h(rejected) in float32, for the given rows or for all."""
        index = slice(None) if rows is None else rows
        return self.chosen[index].astype(np.float32) - self.rejected[index].astype(np.float32)


def data_hash(pairs: Sequence[Pair]) -> str:
    """A hash of the texts of ``pairs`` in order; labels of users, groups and splits are no part of it."""
    total = hashlib.sha256()
    for pair in pairs:
        texts = [_plain(text) for text in (pair.prompt, pair.chosen, pair.rejected)]
        total.update(json.dumps(texts, ensure_ascii=True).encode() + b"\n")
    return total.hexdigest()


def _plain(text: Text) -> str | list[list[str]]:
    return text if isinstance(text, str) else [[turn.role, turn.content] for turn in text]


def folder_of(root: Path, key: Mapping[str, Any]) -> Path:
    """The folder of a key: its name is a hash of every part."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return root / digest[:32]


def read_complete(folder: Path, key: Mapping[str, Any]) -> FeatureStore | None:
    """The finished features of ``key``, or None if the folder is absent or unfinished.

    Raises:
        ModelError: If the folder belongs to another model, data or schema version, or its files are damaged.
    """
    meta = read_meta(folder, key)
    progress = _read_json(folder / PROGRESS) if meta is not None else None
    if meta is None or progress is None or "report" not in progress:
        return None
    report: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part for name, part in progress["report"].items()
    }
    return FeatureStore(*_arrays(folder, meta, "r"), FeatureReport(**report))


def read_meta(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """``meta.json`` of a folder, checked against ``key``; None if there is none yet.

    Raises:
        ModelError: If the folder was written under another schema version or for another key; names what differs.
    """
    meta = _read_json(folder / META)
    if meta is None:
        return None
    fix = "Delete the folder, or choose another cache_dir."
    version = meta.get("schema_version")
    check_version("features", version, where=f"the feature cache {folder}", fix=fix, error=ModelError)
    differing = sorted(name for name in {*key, *meta["key"]} if meta["key"].get(name) != key.get(name))
    if differing:
        name, wanted = differing[0], key.get(differing[0])
        raise ModelError(
            f"The feature cache was written with {name} = {meta['key'].get(name)!r}, but {wanted!r} is asked for.",
            fix=fix,
            where=str(folder),
        )
    return meta


class Writer:
    """Fills one cache folder, from where a previous attempt stopped.

    Args:
        folder: The folder of ``key``; made if need be. The caller holds its lock.
        key: The parts of the cache key.
        shape: Rows and length of a feature vector.
        storage: ``float16`` or ``float32``.
        order: A hash of the processing order; under another one a previous attempt cannot be continued.

    Attributes:
        done: How many rows of the processing order are safely written.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], shape: tuple[int, int], storage: str, order: str) -> None:
        self._folder, self._order = folder, order
        meta = read_meta(folder, key)
        if meta is None:
            meta = {"schema_version": VERSIONS["features"], "key": dict(key), "shape": list(shape), "dtype": storage}
            (folder / PROGRESS).unlink(missing_ok=True)
            for side in SIDES:
                _allocate(folder / f"{side}.npy", shape, np.dtype(storage))
            write_json(folder / META, meta)
        self._meta = meta
        self._chosen, self._rejected = _arrays(folder, meta, "r+")
        progress = _read_json(folder / PROGRESS)
        self.done = int(progress["rows_done"]) if progress is not None and progress["order"] == order else 0

    def write(self, rows: NDArray[np.integer], features: Float[np.ndarray, "rows 2 d"]) -> None:
        """Put the features of the next ``rows`` of the processing order in place.

        Raises:
            ModelError: If a feature is not finite, or too large for float16.
        """
        for side, array in enumerate((self._chosen, self._rejected)):
            array[rows] = stored(features[:, side], rows, array.dtype)

    def checkpoint(self, done: int) -> None:
        """Flush the arrays, then record that ``done`` rows of the processing order are safe."""
        self._chosen.flush()
        self._rejected.flush()
        write_json(self._folder / PROGRESS, {"rows_done": done, "order": self._order})
        self.done = done

    def finish(self, report: FeatureReport) -> FeatureStore:
        """Record that the work is complete, and return its features as read-only maps."""
        self.checkpoint(report.pairs)
        progress = {"rows_done": self.done, "order": self._order, "report": asdict(report)}
        write_json(self._folder / PROGRESS, progress)
        return FeatureStore(*_arrays(self._folder, self._meta, "r"), report)


def stored(features: Float[np.ndarray, "rows d"], rows: NDArray[np.integer], dtype: np.dtype[Any]) -> NDArray[Any]:
    """``features`` in storage precision.

    Raises:
        ModelError: If a feature is not finite, or too large for float16; names the row.
    """
    if not np.isfinite(features).all():
        row = int(rows[np.flatnonzero(~np.isfinite(features).all(axis=1))[0]])
        raise ModelError(
            f"The model gave features that are not finite for row {row}.",
            fix="Use dtype float32 or bfloat16, or check the model's weights.",
        )
    largest = float(np.abs(features).max())
    if largest > float(np.finfo(dtype).max):
        raise ModelError(f"A feature of size {largest:.3g} does not fit into {dtype}.", fix="Use storage: float32.")
    return features.astype(dtype)


def _allocate(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Write an array of zeros as .npy by ordinary writes: on a full disk they raise, where a sparse map would crash."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        left = shape[0] * shape[1] * dtype.itemsize
        zeros = bytes(min(left, ZEROS_AT_ONCE))
        while left:
            left -= file.write(zeros[:left])


def _arrays(folder: Path, meta: Mapping[str, Any], mode: Literal["r", "r+"]) -> tuple[np.memmap, np.memmap]:
    """The two memory maps, checked against ``meta``.

    Raises:
        ModelError: If a file is missing, damaged, or of another shape or precision.
    """
    arrays = []
    for side in SIDES:
        path = folder / f"{side}.npy"
        try:
            array = np.load(path, mmap_mode=mode)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The feature cache is damaged ({error}).", fix="Delete its folder.", where=str(path)
            ) from error
        if list(array.shape) != meta["shape"] or array.dtype != meta["dtype"]:
            raise ModelError(
                f"The feature cache holds {list(array.shape)} of {array.dtype}, its meta.json says {meta['shape']} of "
                f"{meta['dtype']}.",
                fix="Delete its folder.",
                where=str(path),
            )
        arrays.append(array)
    return arrays[0], arrays[1]


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
        raise ModelError(
            f"The feature cache is damaged ({error}).", fix="Delete its folder.", where=str(path)
        ) from error
    if not isinstance(value, dict):
        raise ModelError("The feature cache is damaged (no JSON object).", fix="Delete its folder.", where=str(path))
    return value
