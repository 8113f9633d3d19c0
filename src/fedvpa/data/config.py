"""The data section of a configuration: which source, and the keys of all sources side by side."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from fedvpa.core.errors import ConfigError
from fedvpa.data.sources.base import SourceKeys
from fedvpa.data.sources.hh_rlhf import HhRlhfKeys
from fedvpa.data.sources.registry import SOURCES
from fedvpa.data.sources.table import TableKeys
from fedvpa.data.sources.world import WorldKeys
from fedvpa.data.unread import check_unread


class DataConfig(WorldKeys, HhRlhfKeys, TableKeys):
    """Where the pairs come from: ``data.source=table data.path=pairs.jsonl data.map.group=objective``.

    The keys of all sources live side by side; one that the chosen source does not read must keep its default.

    Attributes:
        source: ``world``, ``hh-rlhf``, ``table``; a published set by its name (``prism``, ``personal-llm``,
            ``ultrafeedback``, ``uf-p-2``, ``uf-p-4``, ``tldr``, ``shp``; see ``docs/data.md``); or one that a package
            or the program adds.
        settings: The own keys of a published set or of an added source: those that it declares and that are not in this
            section. Empty for ``world``, ``hh-rlhf`` and ``table``.
        reserved: Share of the prompts, in [0, 1), that no client gets any pair of, so that ``fedvpa judge`` can train
            on them; see :mod:`fedvpa.data.reserve`.
    """

    source: str = "world"
    reserved: float = Field(default=0.0, ge=0, lt=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: str) -> str:
        return SOURCES.check(value)

    @model_validator(mode="before")
    @classmethod
    def _check_own_keys(cls, values: Any) -> Any:
        """A key that the source declares, and this section does not have, belongs in ``settings``."""
        source = str(values.get("source")) if isinstance(values, Mapping) else ""
        if source in SOURCES:
            own = SOURCES.get(source).keys.model_fields.keys() - cls.model_fields.keys()
            for key in values:
                if key in own:
                    where = f"configuration key 'data.{key}'"
                    raise ConfigError("stands in the wrong place.", fix=f"Set it as data.settings.{key}.", where=where)
        return values

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        keys = SOURCES.get(self.source).keys.model_fields.keys()
        own = {"settings"} if keys - type(self).model_fields.keys() else set[str]()
        read = {"source", "reserved", *own, *(keys & type(self).model_fields.keys())}
        check_unread(self, read, f"source {self.source!r}", advice=_readers)
        self.source_keys()
        return self

    def check_paths(self) -> None:
        """Raise what :func:`fedvpa.data.load.load` would about missing files, before anything heavy is imported.

        Raises:
            ConfigError: If the source needs a path and none is set.
            DataError: If there is no such file or folder.
        """
        SOURCES.get(self.source).check(self.source_keys())

    @model_serializer(mode="wrap")
    def _leave_out_empty_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs and checkpoints from before there were these keys must compare equal to what they are read as.
        values: dict[str, Any] = handler(self)
        for name in ("settings", "winner_values", "reserved"):
            if not getattr(self, name):
                values.pop(name, None)
        return values

    def source_keys(self) -> SourceKeys:
        """What the chosen source reads, as the section that it declares.

        Keys that this section has are taken from it, all others from ``settings``.

        Raises:
            ConfigError: If ``settings`` holds a key that the source does not declare, one that belongs beside
                ``settings``, or an unusable value.
        """
        declared = SOURCES.get(self.source).keys
        here = declared.model_fields.keys() & type(self).model_fields.keys()
        misplaced = sorted(here & self.settings.keys())
        if misplaced:
            where = f"configuration key 'data.settings.{misplaced[0]}'"
            raise ConfigError("stands in the wrong place.", fix=f"Set it as data.{misplaced[0]}.", where=where)
        return declared.parse({name: getattr(self, name) for name in here} | self.settings, "data", "settings")


def _readers(key: str) -> str:
    """Which sources read a key, for the message about one that the chosen source does not read."""
    readers = [name for name in SOURCES.names() if key in SOURCES.get(name).keys.model_fields]
    return (
        f" Or choose a source that reads it: {', '.join(f'data.source={name}' for name in readers)}." if readers else ""
    )


def check_pairs_file(path: str | PathLike[str]) -> None:
    """Raise DataError if there is no such file of pairs, before anything heavy is imported."""
    DataConfig(source="table", path=str(path)).check_paths()
