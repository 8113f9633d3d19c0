"""Where this machine has the local models of its policies.

A policy's folder may be given to others, so it names a local base model by content and by no path of the machine that
trained it. So that the same machine opens the policy again without being told, the cache keeps the path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from fedvpa.core.cache import cache_base
from fedvpa.core.files import write_json
from fedvpa.models.locate import ModelSource


def remember(source: ModelSource) -> None:
    """Keep the path of a folder or of a GGUF file under its content.

    Where the cache cannot be written, the path has to be said again: no error.
    """
    if source.origin in ("hub", "bundled"):
        return
    with contextlib.suppress(OSError):
        write_json(_record(source.content()), {"path": str((source.file or source.folder).absolute())})


def recall(content: str) -> Path | None:
    """Where a model of this content was last; None if that is not known. Whether it is still the same is not checked.

    Args:
        content: From :meth:`~fedvpa.models.locate.ModelSource.content`.
    """
    try:
        return Path(json.loads(_record(content).read_text(encoding="utf-8"))["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never kept, or damaged: then the user says where it is


def _record(content: str) -> Path:
    return cache_base() / "models" / "places" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"
