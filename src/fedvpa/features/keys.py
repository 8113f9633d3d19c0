"""By what features are known: hashes of texts, and of the tokens that a language model reads.

A response is known with its prompt, since its features depend on both. 128 bits, so that two texts never share a key by
chance (for 10⁸ texts the probability is about 10⁻²³).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from fedvpa.data.schema import Pair, Text
from fedvpa.features.tokens import Row

KEY_BYTES = 16

Keys: TypeAlias = NDArray[Any]
"""An array of keys: ``S16`` for responses, ``S32`` for pairs."""


def pair_keys(pairs: Sequence[Pair]) -> Keys:
    """A key of each pair: of prompt and chosen response, followed by that of prompt and rejected response, ``S32``."""
    joined = bytearray()
    for pair in pairs:
        for key in _sides(pair):
            joined += key
    return np.frombuffer(joined, dtype=f"S{2 * KEY_BYTES}")


def response_keys(keys: Keys) -> Keys:
    """The keys of the responses of pairs, ``S16``, two for each pair."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}")


def token_keys(rows: Iterable[Row]) -> Keys:
    """A key of each response of token rows, by the tokens in front of it and its own: ``S16``, two for each row."""
    found = []
    for row in rows:
        start = hashlib.blake2b(len(row.prefix).to_bytes(4, "little"), digest_size=KEY_BYTES)
        start.update(row.prefix.tobytes())
        for response in (row.chosen, row.rejected):
            whole = start.copy()
            whole.update(response.tobytes())
            found.append(whole.digest())
    return np.frombuffer(b"".join(found), dtype=f"S{KEY_BYTES}")


def find(stored: Keys, wanted: Keys) -> Int[np.ndarray, " wanted"]:
    """The place in ``stored`` of each wanted key; −1 where it is not there. Neither array has to be sorted."""
    found = np.full(len(wanted), -1, dtype=np.int64)
    if not len(stored) or not len(wanted):
        return found
    # Few of many stored keys may be asked for; their first halves sort them out at the speed of integers.
    asked = np.unique(_heads(wanted))
    heads = _heads(stored)
    places = np.flatnonzero(asked[np.minimum(np.searchsorted(asked, heads), len(asked) - 1)] == heads)
    if not len(places):
        return found
    keys = stored[places]
    order = np.argsort(keys)
    places, keys = places[order], keys[order]
    by_key = np.argsort(wanted)  # neighbours are looked for one after the other, which is several times faster
    at = np.minimum(np.searchsorted(keys, wanted[by_key]), len(keys) - 1)
    hit = keys[at] == wanted[by_key]
    found[by_key[hit]] = places[at[hit]]
    return found


def _heads(keys: Keys) -> NDArray[np.uint64]:
    whole = np.ascontiguousarray(keys)
    return whole.view(np.uint64).reshape(len(whole), -1)[:, 0]


def _sides(pair: Pair) -> tuple[bytes, bytes]:
    prompt = hashlib.blake2b(_content(pair.prompt), digest_size=KEY_BYTES)
    chosen, rejected = prompt.copy(), prompt
    chosen.update(_content(pair.chosen))
    rejected.update(_content(pair.rejected))
    return chosen.digest(), rejected.digest()


def _content(text: Text) -> bytes:
    """A text as bytes that no other text has, and that tell where they end."""
    if isinstance(text, str):
        kind, content = b"s", text.encode("utf-8", "surrogatepass")
    else:
        turns = [[turn.role, turn.content] for turn in text]
        kind, content = b"m", json.dumps(turns).encode()
    return kind + len(content).to_bytes(8, "little") + content
