"""What decides a result, as named parts: the one rule by which cells, checkpoints and caches know what they hold.

Parts are content, never places: the configuration key by key, the version, and a hash of whatever the configuration
only names (pairs with their labels, weights, tokenizer, prompts). Equal parts give an equal result, so a result is kept
under :func:`digest` of its parts, and what goes on from it first asks :func:`differences` what has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from fedvpa.core.config import UNSET

Parts = Mapping[str, str]
"""Name → what it is, in words or as a hash."""


def digest(parts: Parts) -> str:
    """A short name for what these parts decide, in 16 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(dict(parts), sort_keys=True).encode(), digest_size=8).hexdigest()


def differences(then: Parts, now: Parts, content: Mapping[str, str]) -> Iterator[str]:
    """What has changed, each in words, in sorted order of the parts' names.

    Args:
        then: The parts of what is kept.
        now: The parts of what is asked for.
        content: Part → what its change is called, for parts that are hashes; any other is shown with both values.
    """
    for name in sorted(then.keys() | now.keys()):
        before, after = then.get(name, UNSET), now.get(name, UNSET)
        if before != after:
            yield content.get(name, f"{name} = {before} (now {after})")
