"""Where fedvpa keeps what it can compute again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "FEDVPA_CACHE"
"""Environment variable that moves every cache of fedvpa."""


def cache_base() -> Path:
    """``$FEDVPA_CACHE``, else ``~/.cache/fedvpa``."""
    base = os.environ.get(CACHE_VARIABLE)
    return Path(base).expanduser() if base else Path.home() / ".cache" / "fedvpa"
