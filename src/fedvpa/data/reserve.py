"""Pairs that a run leaves aside, by prompt, so that a judge can be trained on what no method sees.

``data.reserved=0.3`` gives three of ten prompts, with all of their pairs, to no client and under no seed. Which prompts
these are follows from a hash of the prompt's words alone. So every run on the same prompts leaves the same ones aside,
and so does a run on a copy of the data that writes its turns in another way.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from fedvpa.core.seeds import entropy
from fedvpa.data.schema import Pair, PairTable, Text

REASON = "the prompt is left aside for a judge (data.reserved)"

SPEAKER = re.compile(r"(?:^|\n)[ \t]*(?:Human|Assistant|User|System)[ \t]*:", re.IGNORECASE)
"""What begins a turn in a transcript. It is no part of what is said."""

HASH_BYTES = 8
"""Two of a million pairs have the same hash with a chance of 3e-8. Chosen by us."""


def words(text: Text) -> str:
    r"""What a text says: without the names of speakers, letter case, and differences in white space or in Unicode form.

    A conversation says the same as a transcript (``"\n\nHuman: …\n\nAssistant:"``) as it does as messages.
    """
    said = SPEAKER.sub("\n", text) if isinstance(text, str) else "\n".join(turn.content for turn in text)
    return " ".join(unicodedata.normalize("NFKC", said).casefold().split())


def pair_identity(pair: Pair) -> int:
    """A hash of what a pair says: prompt and responses in either order, whoever labelled them and however."""
    said = "\x1e".join((words(pair.prompt), *sorted((words(pair.chosen), words(pair.rejected)))))
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=HASH_BYTES).digest(), signed=True)


def is_reserved(prompt: Text, share: float) -> bool:
    """Whether a prompt is among the ``share`` of prompts, in [0, 1), that are left aside."""
    return (entropy(0, "reserved", words(prompt)) >> 75) / 2.0**53 < share


def divide(table: PairTable, share: float) -> tuple[PairTable, PairTable]:
    """The pairs that a run may use, and those that it leaves aside.

    Args:
        table: All pairs.
        share: Share of the prompts that is left aside, in [0, 1).

    Returns:
        Two tables, in the order of the first. The report of what the run uses counts the pairs that are left aside.
    """
    if not share:
        return table, PairTable((), table.report)
    aside = [is_reserved(pair.prompt, share) for pair in table.pairs]
    report = table.report
    for pair, left in zip(table.pairs, aside, strict=True):
        if left:
            report = report.add(REASON, pair.place, asked=True)
    used = tuple(pair for pair, left in zip(table.pairs, aside, strict=True) if not left)
    kept = tuple(pair for pair, left in zip(table.pairs, aside, strict=True) if left)
    return PairTable(used, report), PairTable(kept, table.report)
