"""Private state on a node's own disk, so that it outlives a run of Flower: a restarted server finds it again."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context

from fedvpa.core.tree import Tree
from fedvpa.engines.checkpoint import load_clients, save_clients

KEPT = 3
"""Rounds whose state is kept: the server saves every round, so it never goes back further than one."""


class OnDisk:
    """One file per round in a folder of the node.

    Args:
        folder: Where; made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, context: Context, round_: int) -> dict[str, Tree]:
        """The state as it was before ``round_``; what a server that fell back did later is forgotten."""
        files = self._files()
        for done in [done for done in files if done >= round_]:
            files.pop(done).unlink()
        return load_clients(files[max(files)]) if files else {}

    def save(self, context: Context, private: dict[str, Tree], round_: int) -> None:
        """Write the state after ``round_``, then forget old rounds."""
        save_clients(self.folder / f"{round_}.safetensors", private)
        files = self._files()
        for done in sorted(files)[:-KEPT]:
            files[done].unlink()

    def _files(self) -> dict[int, Path]:
        return {int(path.stem): path for path in self.folder.glob("*.safetensors") if path.stem.isdigit()}
