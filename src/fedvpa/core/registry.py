"""Names that a configuration may use, and what they stand for: built in, from installed packages, or registered.

Built-in entries are written as ``module:attribute`` and imported at first use, so that a name can be checked without
its machinery. Installed packages add entries by entry points of the groups ``fedvpa.methods``,
``fedvpa.policy_methods``, ``fedvpa.inferences``, ``fedvpa.judges``, ``fedvpa.rewards`` and ``fedvpa.sources``; a
running program adds them by :meth:`Registry.register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from fedvpa.core.errors import ConfigError, nearest

REGISTRIES = {
    "inference": "fedvpa.selector.inference:INFERENCES",
    "judge": "fedvpa.evaluation.judges.registry:JUDGES",
    "method": "fedvpa.algorithms.registry:METHODS",
    "policy_method": "fedvpa.algorithms.registry:POLICY_METHODS",
    "reward": "fedvpa.rewards.registry:REWARDS",
    "source": "fedvpa.data.sources.registry:SOURCES",
}
"""Kind → where its registry is, as ``module:attribute``; imported at first use."""

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Name → entry, of one kind.

    A name is looked up among the built-in entries first, then among those of installed packages, then among the
    registered ones; no two of these may share a name.

    Args:
        kind: What an entry is called, such as ``method``; messages have a space for an underscore.
        builtin: Name → ``module:attribute``.
        fits: Whether an object can be an entry of this kind.
        shape: What an entry has to be, in words, for the message about one that does not fit.
    """

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, str],
        fits: Callable[[Any], bool] = callable,
        shape: str = "something that can be called",
    ) -> None:
        self.kind, self.group, self._called = kind, f"fedvpa.{kind}s", kind.replace("_", " ")
        self._builtin, self._fits, self._shape = dict(builtin), fits, shape
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
        """Add an entry for the rest of this program; the same name again replaces it, so that a cell can run twice.

        Raises:
            ConfigError: If fedvpa itself or an installed package has an entry of that name, or the entry is not of the
                shape of this kind.
        """
        if name in self._builtin or name in _installed(self.group):
            raise ConfigError(f"There is a {self._called} {name!r} already.", fix="Choose another name.")
        self._registered[name] = self._fitting(name, entry)

    def check(self, name: str, where: str = "") -> str:
        """The name itself, if there is an entry of that name; the entry is not imported.

        Args:
            name: The name to check.
            where: Where the name was given, for the message.

        Raises:
            ConfigError: If there is no such entry; says what there is and how to add one.
        """
        if name not in self:
            known = self.names()
            close = nearest(name, known)
            listed = "" if close.startswith("Known") else f" Known: {', '.join(known)}."
            raise ConfigError(
                f"There is no {self._called} {name!r}.",
                fix=f"{close}{listed} Others are added by fedvpa.register({self.kind!r}, {name!r}, …) or by an "
                f"installed package with an entry point of the group {self.group!r}.",
                where=where,
            )
        return name

    def get(self, name: str) -> Entry:
        """The entry of that name, imported if need be.

        Raises:
            ConfigError: If there is none, or two installed packages have one, or the one that there is cannot be
                imported or is not of the shape of this kind.
        """
        self.check(name)
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            entry: Entry = getattr(import_module(module), attribute)
            return entry
        installed = _installed(self.group).get(name)
        if installed is None:
            return self._registered[name]
        return self._fitting(name, _load(installed, self.kind))

    def _fitting(self, name: str, entry: Any) -> Entry:
        if not self._fits(entry):
            raise ConfigError(
                f"The {self._called} {name!r} cannot be used: it is {entry!r}.",
                fix=f"A {self._called} is {self._shape}.",
            )
        fitting: Entry = entry
        return fitting


@cache
def _installed(group: str) -> dict[str, list[EntryPoint]]:
    """Name → the entry points of that name; more than one if several packages claim it."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def _load(points: list[EntryPoint], kind: str) -> Any:
    point, *others = points
    if others:
        packages = ", ".join(sorted(map(_package, points)))
        raise ConfigError(f"Several packages add a {kind} {point.name!r}: {packages}.", fix="Uninstall all but one.")
    try:
        return point.load()
    except Exception as error:  # the package's own code runs here, and may fail in any way
        raise ConfigError(
            f"The {kind} {point.name!r} of {_package(point)} cannot be imported: {type(error).__name__}: {error}.",
            fix=f"Check the entry point {point.value!r}, or uninstall the package.",
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an installed package"
