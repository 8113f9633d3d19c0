"""How long an endpoint wants to be left alone, and that everybody who asks it waits.

Read from the headers of a failed reply: ``retry-after-ms`` (milliseconds, OpenAI and Azure), ``retry-after`` (seconds
or a date, RFC 9110, section 10.2.3), and of a 429 the resets of those limits that are used up
(``x-ratelimit-remaining-*`` is 0 and ``x-ratelimit-reset-*`` says when: ``1m30.5s``, seconds, or seconds since 1970).
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic

from fedvpa.core.progress import say

SAID_FROM = 5.0
"""Pauses of so many seconds are told; shorter ones come by the dozen."""

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_EPOCH_FROM = 1e9
"""A reset beyond so many seconds (32 years) is a time since 1970; beyond a thousand times that, in milliseconds."""


def wished_pause(headers: Mapping[str, str], *, limited: bool, now: float | None = None) -> float:
    """Seconds that a failed reply asks for; 0 where it asks for nothing that can be read.

    Args:
        headers: Of the reply; names in lower case, or a mapping that does not mind.
        limited: Whether the reply said that too much was asked (status 429), so that resets of limits count.
        now: Seconds since 1970; by default what the reply's own ``date`` says, so that clocks may differ, or else the
            time here.
    """
    here = time.time() if now is None else now
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1e3)
    wished = _retry_after(headers.get("retry-after"), _date(headers.get("date")) or here)
    if wished is not None or not limited:
        return _bounded(wished or 0.0)
    resets = [
        _reset(value, here)
        for name, value in headers.items()
        if name.lower().startswith("x-ratelimit-reset")
        and _number(headers.get(name.lower().replace("-reset", "-remaining", 1))) == 0
    ]
    return _bounded(max(resets, default=0.0))


class SharedPause:
    """A time before which nobody asks; every caller of one endpoint waits for it.

    Args:
        name: The judge, for the message about a long pause.
        longest: The longest pause in seconds, whatever the endpoint wants.
    """

    def __init__(self, name: str, longest: float) -> None:
        self._name, self._longest = name, longest
        self._until = -math.inf

    def extend(self, seconds: float) -> None:
        """Let everybody wait so many seconds from now, or longer if that was agreed before."""
        kept = min(seconds, self._longest)
        until = monotonic() + kept
        if until <= self._until:
            return
        if kept >= SAID_FROM and self._until < monotonic():
            short = "" if kept == seconds else f" It asks for {seconds:.0f} s; backoff_limit_s allows {kept:g} s."
            say(f"judge {self._name}: the endpoint asks for a pause, all calls wait {kept:.0f} s.{short}")
        self._until = until

    async def wait(self) -> None:
        """Return when nobody has to wait any more."""
        while (left := self._until - monotonic()) > 0:
            await asyncio.sleep(left)


def _retry_after(value: str | None, now: float) -> float | None:
    seconds = _number(value)
    if seconds is not None:
        return seconds
    date = _date(value)
    return None if date is None else date - now


def _date(value: str | None) -> float | None:
    """An HTTP date as seconds since 1970; None for anything else."""
    try:
        date = parsedate_to_datetime(value or "")
        # "-0000" gives a time without a zone, which RFC 5322 takes for UTC.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        pass
    try:  # some services write ISO 8601
        date = datetime.fromisoformat((value or "").strip())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _reset(value: str, now: float) -> float:
    number = _number(value)
    if number is not None:
        number = number / 1e3 if number >= 1e3 * _EPOCH_FROM else number
        return number - now if number >= _EPOCH_FROM else number
    text = value.strip().replace(" ", "")
    if text and re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(text))
    date = _date(value)
    return 0.0 if date is None else date - now


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bounded(seconds: float) -> float:
    """No pause for a time that has passed."""
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
