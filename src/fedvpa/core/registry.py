"""Names that a configuration may use, and what they stand for: built in, from installed packages, or registered.

Built-in entries are written as ``module:attribute`` and imported at first use, so that a name can be checked without
its machinery. Installed packages add entries by entry points of the groups ``fedvpa.methods``, ``fedvpa.judges``,
``fedvpa.rewards`` and ``fedvpa.sources``; a running program adds them by :meth:`Registry.register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from fedvpa.core.errors import ConfigError, nearest

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Name → entry, of one kind.

    Args:
        kind: What an entry is called in messages, such as ``method``.
        builtin: Name → ``module:attribute``.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind, self.group = kind, f"fedvpa.{kind}s"
        self._builtin = dict(builtin)
        self._registered: dict[str, Entry] = {}

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {self.names()})"

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._registered or name in _installed(self.group)

    @property
    def registered(self) -> Mapping[str, Entry]:
        """What this program registered; other processes do not know it."""
        return dict(self._registered)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._builtin, *self._registered, *_installed(self.group)})

    def register(self, name: str, entry: Entry) -> None:
        """Add an entry for the rest of this program; the same name again replaces it.

        Raises:
            ConfigError: If fedvpa itself or an installed package has an entry of that name.
        """
        if name in self._builtin or name in _installed(self.group):
            raise ConfigError(f"There is a {self.kind} {name!r} already.", fix="Choose another name.")
        self._registered[name] = entry

    def check(self, name: str) -> str:
        """The name itself.

        Raises:
            ConfigError: If there is no such entry; says what there is and how to add one.
        """
        if name not in self:
            raise ConfigError(
                f"There is no {self.kind} {name!r}.",
                fix=f"{nearest(name, self.names())} Others are added by fedvpa.register({self.kind!r}, {name!r}, …) or "
                f"by an installed package with an entry point of the group {self.group!r}.",
            )
        return name

    def get(self, name: str) -> Entry:
        """The entry of that name, imported if need be.

        Raises:
            ConfigError: If there is none, or the package that has it cannot be imported.
        """
        self.check(name)
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            entry: Entry = getattr(import_module(module), attribute)
            return entry
        return _loaded(_installed(self.group)[name], self.kind)


@cache
def _installed(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _loaded(point: EntryPoint, kind: str) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist is not None else "an installed package"
        raise ConfigError(
            f"The {kind} {point.name!r} of {package} cannot be imported: {error}.",
            fix=f"Check the entry point {point.value!r}, or uninstall the package.",
        ) from error
