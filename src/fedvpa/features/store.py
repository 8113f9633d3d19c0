"""The features of a table of pairs: where they lie, and the report of how they came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import DTypeLike, NDArray

from fedvpa.core.errors import ModelError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, Text

Rows: TypeAlias = Sequence[int] | NDArray[np.integer] | slice


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Gathered:
    """Rows of an array in an order of their own; what is asked for is read, and nothing else.

    Equal responses lie there once, whichever pairs and tables hold them.

    Attributes:
        source: The array, memory-mapped.
        places: Which of its rows each row is.
    """

    source: Float[np.ndarray, "texts d"]
    places: Int[np.ndarray, " n"]

    __repr__ = short_repr

    @property
    def shape(self) -> tuple[int, int]:
        """[n, d]."""
        return len(self.places), int(self.source.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The precision in which they are kept."""
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: SupportsIndex | Rows | tuple[SupportsIndex | Rows, slice]) -> NDArray[Any]:
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        return np.asarray(self.source[self.places[rows]])[..., columns]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("The rows lie apart, so an array of them is a copy.")
        return np.asarray(self[:], dtype=dtype)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Beside:
    """Features of responses with further columns behind them; put together for the rows that are asked for.

    Attributes:
        side: Features [n, d], an array or what reads rows from a cache.
        columns: [n, s].
    """

    side: Any
    columns: Float[np.ndarray, "n s"]

    __repr__ = short_repr

    @property
    def shape(self) -> tuple[int, int]:
        """[n, d + s]."""
        return len(self.columns), int(self.side.shape[1]) + self.columns.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The precision of both together."""
        return np.result_type(self.side.dtype, self.columns.dtype)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return np.concatenate([np.asarray(self.side[rows]), self.columns[rows]], axis=-1)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("Features and columns lie apart, so an array of them is a copy.")
        return np.asarray(self[:], dtype=dtype)


Side: TypeAlias = NDArray[np.floating] | Gathered | Beside
"""Features [n, d] of the chosen or of the rejected responses of a table."""


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What became of the texts of a table.

    Attributes:
        pairs: Rows of the table.
        dimension: Length of a feature vector.
        kind: ``causal`` or ``encoder``.
        pairs_sharing_prompt: Pairs whose prompt is computed once for both responses, if both are new.
        obstacle: Why some or all pairs do not share their prompt; empty if all do.
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
        chosen: Row i belongs to row i of the table; from a cache, read when it is asked for.
        rejected: The same for the rejected responses.
        report: What became of their texts.
    """

    chosen: Float[np.ndarray, "n d"] | Gathered | Beside
    rejected: Float[np.ndarray, "n d"] | Gathered | Beside
    report: FeatureReport

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.chosen)

    def differences(self, rows: Rows | None = None) -> Float[np.ndarray, "rows d"]:
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
