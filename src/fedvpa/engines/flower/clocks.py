"""How far a node's clock may be from the server's: Flower refuses a node beyond that, and tells neither side why.

A node signs each request with its time. Flower's SuperLink refuses (HTTP 401) what seems to come from the future or to
be old, and the node retries for ever. Who was refused never reaches a server's app, so only the bounds can be said
there; ``fedvpa doctor --superlink`` on the node compares the clocks.
"""

from __future__ import annotations

AHEAD_SECONDS = 5
"""How far a node's clock may be ahead: ``SYSTEM_TIME_TOLERANCE`` of ``flwr.common.constant`` (1.41)."""

BEHIND_SECONDS = 305
"""How far it may be behind: ``TIMESTAMP_TOLERANCE`` and ``SYSTEM_TIME_TOLERANCE``, added."""

BOUNDS = f"Flower refuses a node whose clock is more than {AHEAD_SECONDS} s ahead or {BEHIND_SECONDS} s behind"

NOTED_SECONDS = 2.0
"""From what difference on the server tells of a node's clock. Chosen by us: clocks kept by NTP agree far better."""


def clock_ahead(sent: float, created: float, received: float) -> float:
    """How far a node's clock is ahead of the server's, at least, in seconds; negative if it is behind, 0 if unknown.

    Args:
        sent: When the server sent its request, by the server's clock.
        created: When the node made its reply, by the node's.
        received: When the server had it, by the server's.
    """
    if created > received:
        return created - received
    return min(created - sent, 0.0)


def clock_words(ahead: float) -> str:
    """A difference in words: ``60 s ahead``."""
    return f"{abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
