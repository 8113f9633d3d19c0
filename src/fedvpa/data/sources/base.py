"""What the sources share: the keys that several of them read, and the shape of a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.data.schema import PairTable


def listed(value: Any) -> Any:
    """Names between commas as a list; anything else as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class SourceKeys(Config):
    """Keys that every source reads.

    Attributes:
        strict: Make a row that would be left out (no chosen or rejected response, both equal, no shared prompt, a tie),
            or a text that would be cut or changed, an error instead of a count; see :mod:`fedvpa.data.report`.
    """

    strict: bool = False


class PathKeys(SourceKeys):
    """Keys of the sources that read files or the hub.

    Attributes:
        path: A local file or folder, or the hub id of a data set (``owner/name``).
        split: The only split to read, by the names of files or hub splits; empty for all of them. Where several are
            read, they prescribe the split of their pairs.
    """

    path: str = ""
    split: str = Field(default="", pattern=r"^[\w.-]*$")


def require_path(config: PathKeys, example: str) -> str:
    """The configured path.

    Raises:
        ConfigError: If there is none.
    """
    if not config.path:
        raise ConfigError("is needed by this source and not set.", fix=f"Example: {example}.", where="data.path")
    return config.path


@dataclass(frozen=True)
class Source:
    """A place that pairs come from.

    Attributes:
        keys: The configuration section that declares which keys it reads.
        read: Makes a table from a configuration that has these keys. Raises an ``InputError`` for data that cannot be
            used.
        check: Raises what ``read`` would about missing files, without reading them and without heavy imports, so that
            a wrong path is an error at once.
        fills: What a run on these data starts from where the user sets nothing: section → its values. The section
            ``partition`` is filled in only where the user chooses no other kind of partition.
    """

    keys: type[SourceKeys]
    read: Callable[[Any], PairTable]
    check: Callable[[Any], None] = lambda keys: None
    fills: Mapping[str, Any] = field(default_factory=dict)
