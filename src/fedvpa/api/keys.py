"""``fedvpa keys``: the keys of a run's server."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.serving.keys import Keys


def keys(run: str | PathLike[str]) -> Keys:
    """The keys of a run's server.

    ``fedvpa.keys(run).add("laptop")`` makes one; see :class:`fedvpa.serving.keys.Keys` for ``add``, ``remove`` and
    ``all``. A server that runs takes and refuses them at once.

    Args:
        run: A run directory, or a release.

    Raises:
        RunError: If there is none.
    """
    from fedvpa.serving.keys import Keys

    return Keys(RunFolder.open(run).keys)
