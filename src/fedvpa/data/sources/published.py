"""What the sources of published data sets share: their keys, and where their files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from fedvpa.core.errors import DataError
from fedvpa.data.shards import Shard, hub_shards, is_hub_id, local_shards
from fedvpa.data.sources.base import PathKeys


class PublishedKeys(PathKeys):
    """Keys of the sources of published sets. ``path`` is the hub id of the set unless it is set.

    Attributes:
        share: The share of the users to read, with all of their pairs, where users are people (``prism``, ``tldr``);
            else of the rows. It is chosen by a hash. Set it as ``data.settings.share``.
    """

    share: float = Field(default=1.0, gt=0, le=1)


@dataclass(frozen=True)
class Place:
    """Where the files of a published set are.

    Attributes:
        hub: The hub id.
        subset: Its configuration on the hub, where it has several.
        stem: The name of the one file to read of a folder that holds several kinds, without its type; empty for all.
    """

    hub: str
    subset: str | None = None
    stem: str = ""

    def named(self, keys: PathKeys) -> str:
        """What is read: the configured path, or the hub id."""
        return keys.path or self.hub

    def shards(self, keys: PathKeys) -> list[Shard]:
        """The files, or the splits on the hub.

        Raises:
            DataError: If there are none.
        """
        path = self.named(keys)
        return hub_shards(path, keys.split, None, self.subset) if is_hub_id(path) else self._local(keys)

    def check(self, keys: PathKeys) -> None:
        """Raise what :meth:`shards` would about files that are not there."""
        if not is_hub_id(self.named(keys)):
            self._local(keys)

    def _local(self, keys: PathKeys) -> list[Shard]:
        path = Path(keys.path).expanduser()
        if not self.stem or not path.is_dir():
            return local_shards(path, keys.split)
        found = sorted(file for file in path.iterdir() if file.name.split(".")[0] == self.stem)
        if not found:
            there = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
            raise DataError(
                f"holds no file {self.stem!r}. It holds {there}.",
                fix=f"Give the folder with {self.stem}.jsonl, or the file itself.",
                where=str(path),
            )
        return local_shards(found[0], keys.split)
